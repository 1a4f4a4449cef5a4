"""A caller that costs next to nothing: HTTP/1.1 written by hand, on connections that stay open.

A comfortable client costs more than the hub that it measures, on the same processor. Nothing
here is checked that a hub of ours would not get right.
"""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

IDLE_S = 3.0
"""A connection that was idle for longer is not used again: uvicorn closes it after 5 s."""
LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclasses.dataclass
class Answer:
    """What a request gave. Times are of ``time.perf_counter``, which all processes of a machine share."""

    status: int
    head: bytes
    chunks: list[bytes]
    sent_at: float
    ended_at: float

    @property
    def wall_s(self) -> float:
        return self.ended_at - self.sent_at

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines() if line]

    def complete(self) -> dict[str, Any]:
        """Return the last event's body. Raises ``RuntimeError`` unless it is the end of a committed turn."""
        last = json.loads(self.body.splitlines()[-1]) if self.status == 200 else {}
        if "session_state" not in last.get("complete", {}):
            raise RuntimeError(f"{self.status}: {self.body[-500:]!r}")
        return dict(last["complete"])


class Connection(asyncio.Protocol):
    """One connection: one request at a time. ``connections`` makes and closes it.

    It is opened by the first request, and anew by one after a pause: servers close what is idle.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._received = bytearray()
        self._ended: asyncio.Future[None] | None = None
        self._is_streamed = False
        self._missing = -1
        self._used_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's transport

    async def close(self) -> None:
        """Close it, and wait until it is closed. Idempotent."""
        while self._transport is not None:
            self._transport.close()
            await asyncio.sleep(0)

    async def request(
        self, method: str, path: str, body: bytes = b"", *, accept: str = "application/x-ndjson"
    ) -> Answer:
        """Send a request and wait for the last byte of its answer."""
        assert self._ended is None or self._ended.done(), "one request at a time"
        if time.perf_counter() - self._used_at > IDLE_S:
            await self.close()
        while self._transport is None or self._transport.is_closing():
            await asyncio.get_running_loop().create_connection(lambda: self, self._host, self._port)
        self._received.clear()
        self._missing = -1
        self._ended = asyncio.get_running_loop().create_future()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        sent_at = time.perf_counter()
        self._transport.write(head.encode() + body)
        await self._ended
        ended_at = self._used_at = time.perf_counter()
        head_bytes, _, content = bytes(self._received).partition(b"\r\n\r\n")
        chunks = _chunks(content) if self._is_streamed else [content]
        return Answer(int(head_bytes[9:12]), head_bytes, chunks, sent_at, ended_at)

    def count(self, mark: bytes) -> int:
        """Return how often *mark* stands in what arrived of the current answer."""
        return self._received.count(mark)

    async def post(self, path: str, **body: object) -> Answer:
        return await self.request("POST", path, json.dumps(body).encode())

    async def turn(self, session: str, text: str, agent: str = "bench", **body: object) -> Answer:
        """Send a message and wait for the end of its events."""
        return await self.post(f"/v1/sessions/{session}/messages", text=text, agent=agent, **body)

    async def get(self, path: str) -> Any:
        """Return what a resource holds. Raises ``RuntimeError`` if it is refused."""
        answer = await self.request("GET", path, accept="application/json")
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {answer.body[-500:]!r}")
        return json.loads(answer.body)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._missing < 0:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            self._is_streamed = b"transfer-encoding: chunked" in head
            length = 0 if self._is_streamed else int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            self._missing = end + 4 + length
        is_over = self._received.endswith(LAST_CHUNK) if self._is_streamed else len(self._received) >= self._missing
        if is_over and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(exc or ConnectionResetError("the server closed the connection"))


@contextlib.asynccontextmanager
async def connections(url: str, count: int) -> AsyncIterator[list[Connection]]:
    """Give *count* connections to the server at *url* and close them after the body."""
    made = [Connection(url) for _ in range(count)]
    try:
        yield made
    finally:
        await asyncio.gather(*(each.close() for each in made))


@contextlib.asynccontextmanager
async def connection(url: str) -> AsyncIterator[Connection]:
    """Give one connection and close it after the body."""
    async with connections(url, 1) as (made,):
        yield made


def _chunks(content: bytes) -> list[bytes]:
    """Return the chunks of a chunked body, without the empty last one."""
    chunks = []
    start = 0
    while (end := content.index(b"\r\n", start)) and (size := int(content[start:end], 16)):
        chunks.append(content[end + 2 : end + 2 + size])
        start = end + 4 + size
    return chunks
