"""A worker in this process whose link damages what a test says, as a faulty memory or wire would."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from satchel.limits import WARM_BYTES_MAX
from satchel.protocol.codec import decode_hub, decode_worker, encode_hub, encode_worker
from satchel.protocol.messages import HubFrame, WorkerFrame
from satchel.protocol.transport import Transport
from satchel.worker.dial import websocket_dial
from satchel.worker.link import Dial
from satchel.worker.process import WorkerHost
from satchel.worker.worker import Worker
from tests.acceptance.processes import Fleet, until

Change = Callable[[Any], Any]
"""From a frame to the frame that arrives in its place, or to the bytes that do."""


class Wire:
    """The connections of one worker. Each planned damage happens once, to the next frame of its kind."""

    def __init__(self) -> None:
        self._planned: list[tuple[type[WorkerFrame | HubFrame], Change]] = []

    def damage(self, kind: type[WorkerFrame | HubFrame], change: Change, *, times: int = 1) -> None:
        """Plan to put *change* of the next frame of *kind* in its place, whichever way it goes."""
        self._planned += [(kind, change)] * times

    @property
    def is_spent(self) -> bool:
        return not self._planned

    def dial(self, url: str) -> Dial:
        dial = websocket_dial(url)

        async def damaging() -> Transport:
            return _Damaging(await dial(), self)

        return damaging

    def carried(self, data: bytes, decode: Callable[[bytes], list[Any]], encode: Callable[[Any], bytes]) -> bytes:
        """Return what arrives of *data*: a message with a frame damaged, or damage in its place."""
        frames = decode(data)
        for at, frame in enumerate(frames):
            for plan in self._planned:
                kind, change = plan
                if isinstance(frame, kind):
                    self._planned.remove(plan)
                    changed = change(frame)
                    if isinstance(changed, bytes):
                        return changed
                    return b"".join(map(encode, [*frames[:at], changed, *frames[at + 1 :]]))
        return data


class _Damaging:
    def __init__(self, inner: Transport, wire: Wire) -> None:
        self._inner = inner
        self._wire = wire

    async def send(self, message: bytes) -> None:
        await self._inner.send(self._wire.carried(message, decode_worker, encode_worker))

    async def receive(self) -> bytes:
        return self._wire.carried(await self._inner.receive(), decode_hub, encode_hub)

    async def close(self, reason: str = "") -> None:
        await self._inner.close(reason)


def flipped(data: bytes, at: int | None = None) -> bytes:
    """Return *data* with one bit changed, in the middle unless told."""
    at = len(data) // 2 if at is None else at
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@contextlib.asynccontextmanager
async def linked(
    hub: Fleet,
    worker: Worker[Any],
    wire: Wire | None = None,
    *,
    slots: int = 8,
    warm_bytes_max: int = WARM_BYTES_MAX,
) -> AsyncIterator[str]:
    """Serve *worker* from this process over *wire* while the body runs; yield its worker ID."""
    before = {member["worker_id"] for member in await hub.list_workers()}
    host = WorkerHost([worker], dial=(wire or Wire()).dial(hub.url), slots=slots, warm_bytes_max=warm_bytes_max)
    await asyncio.to_thread(host.start)
    try:
        joined: set[str] = set()

        async def has_joined() -> bool:
            joined.update({member["worker_id"] for member in await hub.list_workers()} - before)
            return bool(joined)

        await until(has_joined)
        yield joined.pop()
    finally:
        await asyncio.to_thread(host.stop)
        await until(lambda: _has_left(hub, before))


async def _has_left(hub: Fleet, before: set[str]) -> bool:
    return {member["worker_id"] for member in await hub.list_workers()} <= before
