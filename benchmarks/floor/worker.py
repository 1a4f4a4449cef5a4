"""The other end of ``floor.hub``'s WebSocket: answers frames, and sends tokens. Run as a process.

The client library is a worker's: websockets, on uvloop.
"""

import asyncio
import json
import sys

import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from benchmarks.floor.hub import NAME_BYTES


class Packed:
    """Frames that leave as one message, a time after the first of them."""

    def __init__(self, link: ClientConnection) -> None:
        self._link = link
        self._waiting: list[bytes] = []

    async def send(self, frame: bytes, *, after_s: float) -> None:
        if not after_s:
            await self._link.send(frame)
            return
        self._waiting.append(frame)
        if len(self._waiting) == 1:
            await asyncio.sleep(after_s)
            waiting, self._waiting = self._waiting, []
            await self._link.send(b"".join(waiting))


async def serve(url: str) -> None:
    streams: set[asyncio.Task[None]] = set()
    async with connect(
        f"{url.replace('http', 'ws', 1)}/link", compression=None, max_size=2**24, ping_interval=None
    ) as link:
        print("linked", flush=True)
        packed = Packed(link)
        async for frame in link:
            assert isinstance(frame, bytes)
            name, command = frame[:NAME_BYTES], json.loads(frame[NAME_BYTES:])
            if "answer" in command:
                await link.send(name.ljust(command["answer"], b"x"))
                continue
            streams.add(task := asyncio.create_task(_send_tokens(packed, name, **command)))
            task.add_done_callback(streams.discard)


async def _send_tokens(packed: Packed, name: bytes, *, count: int, gap_s: float, frame: int, pack_s: float) -> None:
    for _ in range(count):
        await packed.send(name.ljust(frame, b"x"), after_s=pack_s)
        await asyncio.sleep(gap_s)


def main() -> None:
    try:
        uvloop.run(serve(sys.argv[1]))
    except ConnectionClosed:  # the floor has ended
        return


if __name__ == "__main__":
    main()
