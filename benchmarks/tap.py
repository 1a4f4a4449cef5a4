"""A tap on a worker's link: a proxy that passes every byte on and counts the WebSocket messages' payloads."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

BINARY, CONTINUATION = 2, 0


class Messages:
    """The WebSocket messages of one direction of one connection, out of its bytes."""

    def __init__(self, kept: list[bytes]) -> None:
        self._kept = kept
        self._bytes = bytearray()
        self._is_open = False

    def feed(self, data: bytes) -> None:
        self._bytes += data
        if not self._is_open:
            _, end, rest = self._bytes.partition(b"\r\n\r\n")
            if not end:
                return
            self._is_open, self._bytes = True, bytearray(rest)
        while self._take():
            pass

    def _take(self) -> bool:
        """Take one whole frame off the front (RFC 6455, section 5.2); tell whether there was one."""
        data = self._bytes
        if len(data) < 2:
            return False
        length, start = data[1] & 127, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start])
        is_masked = bool(data[1] & 128)
        mask_at, start = start, start + 4 * is_masked
        if len(data) < start + length:
            return False
        payload = bytes(data[start : start + length])
        if is_masked:
            mask = (bytes(data[mask_at:start]) * (length // 4 + 1))[:length]
            payload = (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(length)
        if data[0] & 15 == BINARY:
            self._kept.append(payload)
        elif data[0] & 15 == CONTINUATION:
            self._kept[-1] += payload
        del data[: start + length]
        return True


class Tap:
    """What passed since ``clear``, both ways."""

    def __init__(self, hub_url: str) -> None:
        parts = urlsplit(hub_url)
        self._host, self._port = parts.hostname, parts.port
        self.url = ""
        self.down: list[bytes] = []
        """Messages from the hub to the worker."""
        self.up: list[bytes] = []
        self._connections: set[asyncio.Task[None]] = set()

    def clear(self) -> None:
        self.down.clear()
        self.up.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        hub_reader, hub_writer = await asyncio.open_connection(self._host, self._port)
        try:
            await asyncio.gather(
                _pump(reader, hub_writer, Messages(self.up)), _pump(hub_reader, writer, Messages(self.down))
            )
        except asyncio.CancelledError:  # by ``end``: asyncio's server would log it as a failure
            pass
        finally:
            self._connections.discard(task)
            for each in (hub_writer, writer):
                each.close()

    async def end(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messages: Messages) -> None:
    while data := await reader.read(2**16):
        messages.feed(data)
        writer.write(data)
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def tap(hub_url: str) -> AsyncIterator[Tap]:
    """Run a tap in front of a hub while the body runs; workers dial its ``url``."""
    made = Tap(hub_url)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    made.url = f"http://{host}:{port}"
    try:
        yield made
    finally:
        server.close()
        await made.end()
