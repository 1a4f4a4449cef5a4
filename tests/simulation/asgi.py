"""An HTTP client of an ASGI app in the same loop: it reads line by line and may leave at any."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any


class ConnectionLost(Exception):
    """The hub went away, or the client left."""


class Exchange:
    """One request and its answer."""

    def __init__(self, app: Any, method: str, path: str, *, body: Any = None, accept: str = "", **headers: str) -> None:
        self.status = 0
        self._sent: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._body: bytes | None = b"" if body is None else json.dumps(body).encode()
        self._left = asyncio.Event()
        path, _, query = path.partition("?")
        sent = {"accept": accept, **headers} | ({} if body is None else {"content-type": "application/json"})
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "http",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items() if value],
            "server": ("127.0.0.1", 80),
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._sent.put))
        self.task.add_done_callback(lambda _: self._sent.put_nowait(None))

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _next(self) -> dict[str, Any]:
        message = await self._sent.get()
        if message is None:
            raise ConnectionLost
        return message

    async def head(self) -> int:
        self.status = (await self._next())["status"]
        return self.status

    async def pieces(self) -> AsyncIterator[bytes]:
        while True:
            message = await self._next()
            yield message.get("body", b"")
            if not message.get("more_body"):
                return

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the events; blank lines are signs of life."""
        async with contextlib.aclosing(self.pieces()) as pieces:  # type: ignore[type-var]  # an async generator
            async for piece in pieces:
                for line in piece.splitlines():
                    if line:
                        yield json.loads(line)

    async def json(self) -> Any:
        return json.loads(b"".join([piece async for piece in self.pieces()]))

    def leave(self) -> None:
        self._left.set()

    async def over(self) -> None:
        """Leave, and wait until the app is done with it."""
        self.leave()
        await asyncio.wait({self.task})
        if not self.task.cancelled():
            self.task.result()
