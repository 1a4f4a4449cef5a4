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


async def serve(url: str) -> None:
    streams: set[asyncio.Task[None]] = set()
    async with connect(
        f"{url.replace('http', 'ws', 1)}/link", compression=None, max_size=2**24, ping_interval=None
    ) as link:
        print("linked", flush=True)
        async for frame in link:
            assert isinstance(frame, bytes)
            name, command = frame[:NAME_BYTES], json.loads(frame[NAME_BYTES:])
            if "answer" in command:
                await link.send(name.ljust(command["answer"], b"x"))
                continue
            streams.add(task := asyncio.create_task(_send_tokens(link, name, **command)))
            task.add_done_callback(streams.discard)


async def _send_tokens(link: ClientConnection, name: bytes, *, count: int, gap_s: float, frame: int) -> None:
    for _ in range(count):
        await link.send(name.ljust(frame, b"x"))
        await asyncio.sleep(gap_s)


def main() -> None:
    try:
        uvloop.run(serve(sys.argv[1]))
    except ConnectionClosed:  # the floor has ended
        return


if __name__ == "__main__":
    main()
