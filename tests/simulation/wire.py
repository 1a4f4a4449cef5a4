"""Links in simulated time: frames in order with delays, cut without notice, or silent."""

import asyncio
import contextlib
import random
from collections import Counter
from typing import Any

from satchel.errors import LinkClosed, LinkError
from satchel.limits import RECONNECT_DELAY_S
from satchel.protocol.link import Link, Role
from satchel.protocol.messages import Failure, Refused, Registered, WorkerFrame
from satchel.worker.runtime import Runtime


class End:
    """One end of a wire: a ``Transport``."""

    def __init__(self, wire: "Wire") -> None:
        self._wire = wire
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._is_closed = False
        self._next_at = 0.0
        self.peer: End = self

    async def send(self, frame: bytes) -> None:
        if self._is_closed:
            raise LinkClosed
        self._wire.carry(self.peer, frame)

    async def receive(self) -> bytes:
        frame = None if self._is_closed else await self._arrived.get()
        if frame is None:
            self._is_closed = True
            raise LinkClosed
        return frame

    async def close(self, reason: str = "") -> None:  # noqa: ARG002  # a socket would carry it
        if not self._is_closed:
            self.end()
            self._wire.carry(self.peer, None)

    def end(self) -> None:
        self._is_closed = True
        self._arrived.put_nowait(None)

    def arrive(self, frame: bytes | None, delay_s: float) -> None:
        """Take a frame after *delay_s*, behind those before it."""
        loop = asyncio.get_running_loop()
        # Later by a little, as timers of the same time run in any order.
        self._next_at = max(self._next_at + 1e-6, loop.time() + delay_s)
        loop.call_at(self._next_at, self._put, frame)

    def _put(self, frame: bytes | None) -> None:
        if not self._is_closed:
            self._arrived.put_nowait(frame)


class Wire:
    """A connection between a worker and a hub."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._is_silent = False
        self.worker, self.hub = End(self), End(self)
        self.worker.peer, self.hub.peer = self.hub, self.worker

    def carry(self, end: End, frame: bytes | None) -> None:
        if not self._is_silent:
            end.arrive(frame, self._chance.choice([0, 0.001, 0.001, 0.005, 0.03]))

    def cut(self) -> None:
        """Lose what is on its way; both ends hear of it at once."""
        self._is_silent = True
        self.worker.end()
        self.hub.end()

    def fall_silent(self) -> None:
        """Lose everything from now on; neither end hears of it."""
        self._is_silent = True

    def cut_at_worker(self) -> None:
        """Have the worker alone hear that the connection is gone."""
        self._is_silent = True
        self.worker.end()


class WorkerLink:
    """What ``satchel.worker.link`` does, without its thread."""

    def __init__(self, dial: Any, chance: random.Random, counts: "Counter[str]") -> None:
        self._dial = dial
        self._counts = counts
        self._chance = chance
        self._outgoing: asyncio.Queue[WorkerFrame | bytes] | None = None

    def send(self, frame: WorkerFrame) -> None:
        if self._outgoing is not None:
            self._outgoing.put_nowait(frame)

    async def run(self, runtime: Runtime) -> None:
        """Dial, serve, and dial again, until cancelled."""
        while True:
            with contextlib.suppress(LinkError):
                await self._serve(runtime, self._dial())
            await asyncio.sleep(self._chance.uniform(0, 10 * RECONNECT_DELAY_S))

    async def _serve(self, runtime: Runtime, end: End) -> None:
        link = Link(Role.WORKER, now=asyncio.get_running_loop().time())
        register = runtime.registration()
        self._outgoing = outgoing = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []
        try:
            await end.send(link.send(register))
            steps = (self._write(link, end, outgoing), self._read(link, end, outgoing, runtime), _tick(link, outgoing))
            tasks = [asyncio.create_task(each) for each in steps]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._outgoing = None
            runtime.link_lost()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await end.close()

    async def _write(self, link: Link, end: End, outgoing: "asyncio.Queue[WorkerFrame | bytes]") -> None:
        while True:
            frame = await outgoing.get()
            if isinstance(frame, Failure):
                self._counts[f"failure: {frame.code.name}"] += 1
            await end.send(frame if isinstance(frame, bytes) else link.send(frame))

    async def _read(
        self, link: Link, end: End, outgoing: "asyncio.Queue[WorkerFrame | bytes]", runtime: Runtime
    ) -> None:
        while True:
            data = await end.receive()
            for frame in link.receive(data, asyncio.get_running_loop().time()):
                assert not isinstance(frame, Refused), frame
                if isinstance(frame, Registered):
                    self._counts["adopted"] += len(frame.adopted)
                runtime.receive(frame)  # type: ignore[arg-type]  # the link lets a hub's frames through only
            for answer in link.outgoing():
                outgoing.put_nowait(answer)


async def _tick(link: Link, outgoing: "asyncio.Queue[WorkerFrame | bytes]") -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(max(link.next_deadline() - loop.time(), 0.01))
        for ping in link.tick(loop.time()):
            outgoing.put_nowait(ping)
