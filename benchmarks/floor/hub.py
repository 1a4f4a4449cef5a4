"""What a hub cannot do without, bare: a raw ASGI app that streams, a WebSocket, a durable commit.

The server's settings are those of a hub when the limits were set, and do not follow it:
uvicorn with uvloop, httptools and websockets-sansio. Run as a process; prints its URL.

======================  =============================================================================
``POST /setup``         ``{"chunks": [sizes], "down": bytes, "up": bytes}``: what the others send
``POST /echo``          reads the body and answers with the chunks
``POST /apart``         the same, with a pass of the loop between two chunks
``POST /rounds``        ``{"count": n}``: n round trips on the worker's WebSocket, in seconds
``POST /commits``       ``{"count": n}``: n durable commits of a 4 KB row, in seconds
``POST /turn``          the three after each other: read, round trip, commit, chunks; commits are grouped
``POST /tokens``        streams what the worker sends for this request: ``{"count", "gap_s", "frame", "pack_s"}``
``WS /link``            the worker
======================  =============================================================================
"""

import asyncio
import json
import pathlib
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import apsw
import uvicorn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

ROW_BYTES = 4096
SCHEMA = "CREATE TABLE log (id INTEGER PRIMARY KEY, row BLOB)"
NAME_BYTES = 8
"""How a frame begins: the number of the request that it belongs to."""
HEADERS = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]


class Floor:
    """The ASGI app."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._chunks = [b"x" * 100]
        self._frame_bytes = NAME_BYTES
        self._answer_bytes = NAME_BYTES
        self._link: Send
        self._requests = 0
        self._answers: dict[bytes, asyncio.Future[None]] = {}
        self._streams: dict[bytes, tuple[Send, asyncio.Future[None], list[int]]] = {}
        self._token = b""
        self._waiting: list[asyncio.Future[None]] = []
        self._is_committing = False
        self._log = apsw.Connection(str(folder / "floor.db"))
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", SCHEMA):
            self._log.execute(statement).fetchall()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._serve_link(receive, send)
            return
        body = await _body(receive)
        match scope["path"]:
            case "/echo":
                await self._stream(send)
            case "/apart":
                await self._stream(send, apart=True)
            case "/turn":
                await self._round_trip()
                await self._committed()
                await self._stream(send)
            case "/tokens":
                await self._stream_tokens(json.loads(body), send)
            case "/setup":
                self._set_up(**json.loads(body))
                await _answer(send, None)
            case "/rounds":
                await _answer(send, [await self._round_trip() for _ in range(json.loads(body)["count"])])
            case "/commits":
                await _answer(send, [self._commit() for _ in range(json.loads(body)["count"])])

    def _set_up(self, *, chunks: list[int], down: int, up: int, token: int = 0) -> None:
        self._chunks = [b"x" * size for size in chunks]
        self._frame_bytes, self._answer_bytes = down, up
        self._token = b"x" * (token - 2) + b"}\n"

    async def _stream(self, send: Send, *, apart: bool = False) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if apart:
                await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _round_trip(self) -> float:
        """Send a frame and wait for the worker's; return the seconds between."""
        name = self._name()
        command = json.dumps({"answer": self._answer_bytes}).encode()
        answered = self._answers[name] = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        await self._link({"type": "websocket.send", "bytes": name + command.ljust(self._frame_bytes - NAME_BYTES)})
        await answered
        return time.perf_counter() - began

    async def _stream_tokens(self, command: dict[str, Any], send: Send) -> None:
        name = self._name()
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        self._streams[name] = (send, ended, [command["count"]])
        await self._link({"type": "websocket.send", "bytes": name + json.dumps(command).encode()})
        await ended
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _name(self) -> bytes:
        self._requests += 1
        return b"%0*d" % (NAME_BYTES, self._requests)

    async def _serve_link(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        self._link = send
        while (message := await receive())["type"] == "websocket.receive":
            frames = message["bytes"]
            for start in range(0, len(frames), self._answer_bytes):
                await self._answered(frames[start : start + NAME_BYTES])

    async def _answered(self, name: bytes) -> None:
        """Do what a frame of the worker's is for: end a round trip, or send a token on."""
        if name in self._answers:
            self._answers.pop(name).set_result(None)
            return
        stream, ended, left = self._streams[name]
        await stream({"type": "http.response.body", "body": self._token, "more_body": True})
        left[0] -= 1
        if left[0] == 0:
            del self._streams[name]
            ended.set_result(None)

    async def _committed(self) -> None:
        """Append a row, durably, in one transaction with those of others that came while the last one was written."""
        loop = asyncio.get_running_loop()
        written = loop.create_future()
        self._waiting.append(written)
        if self._is_committing:
            await written
            return
        self._is_committing = True
        while group := self._waiting:
            self._waiting = []
            await loop.run_in_executor(None, self._commit, len(group))
            for each in group:
                each.set_result(None)
        self._is_committing = False

    def _commit(self, rows: int = 1) -> float:
        """Append rows, durably; return the seconds it took."""
        began = time.perf_counter()
        with self._log:
            self._log.executemany("INSERT INTO log (row) VALUES (?)", [(b"x" * ROW_BYTES,)] * rows)
        return time.perf_counter() - began


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def _answer(send: Send, content: object) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets=sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        print(f"floor http://{host}:{port}", flush=True)


def main() -> None:
    config = uvicorn.Config(
        Floor(pathlib.Path(sys.argv[1])),
        host="127.0.0.1",
        port=0,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=2**24,
        ws_ping_interval=None,
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    _Server(config).run()


if __name__ == "__main__":
    main()
