"""Requests of any shape against the hub's real app and a real store, without a socket."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import apsw

from satchel.errors import BY_CODE
from satchel.hub.api import create_app
from satchel.hub.auth import Gate
from satchel.hub.coordinator import Coordinator
from satchel.hub.settings import HubSettings, Keys
from satchel.hub.telemetry import Telemetry
from satchel.store.open import open_store

DEADLINE_S = 20
"""Far beyond what a request takes here: past it, it hangs."""
FRESH_EVERY = 3000
"""Requests after which a new store is used, so that it does not grow for ever."""
ENDED_BY_WAITING = {"NO_WORKER"}
"""Errors of a message that was accepted and kept."""

JSON = b"content-type: application/json\n"
CORPUS = (
    b"POST /v1/sessions/alice/messages\nprefer: respond-async\n%s\n%s"
    % (JSON, b'{"text": "hello", "agent": "concierge", "message_id": "m1", "metadata": {"a": [1, 2.5, null, "x"]}}'),
    b'POST /v1/sessions/alice/messages\naccept: application/json\n%s\n{"text": "hi"}' % JSON,
    b'POST /v1/sessions/alice/messages\naccept: text/event-stream\n%s\n{"text": "hi", "on_busy": "reject"}' % JSON,
    b"GET /v1/sessions?limit=5&cursor=abc&agent=x\n\n",
    b"GET /v1/sessions/alice\n\n",
    b"GET /v1/sessions/alice/messages?limit=2&before=7\n\n",
    b"GET /v1/sessions/alice/messages/m1?after=1048576\nlast-event-id: 3\n\n",
    b"POST /v1/sessions/alice/messages/m1/cancel\n\n",
    b"GET /v1/sessions/alice/versions/1/snapshot\n\n",
    b"GET /v1/workers\n\n",
    b"GET /healthz\n\n",
    b"GET /openapi.json\n\n",
)


class Requests:
    """The app over a store that is renewed now and then."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._count = 0
        self._hub: _Hub | None = None

    def check(self, data: bytes) -> None:
        """The answer is a documented one, it comes, and a refusal left nothing behind."""
        if self._hub is None or self._count % FRESH_EVERY == 0:
            self._renew()
        self._count += 1
        assert self._hub is not None
        self._loop.run_until_complete(self._hub.check(data))

    def _renew(self) -> None:
        if self._hub is not None:
            self._loop.run_until_complete(self._hub.close())
        self._hub = _Hub()
        self._loop.run_until_complete(self._hub.open())

    def corpus(self) -> list[bytes]:
        return list(CORPUS)


class _Hub:
    async def open(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="satchel-fuzz-")
        path = Path(self._folder.name) / "hub.db"
        settings = HubSettings(worker_wait_s=0.01, adopt_s=0)
        self._coordinator = Coordinator(await open_store(str(path)), settings=settings, telemetry=Telemetry())
        await self._coordinator.open()
        self._app = create_app(lambda: self._coordinator, Gate(keys=Keys(), is_mounted=True), serve_link=_no_link)
        self._disk = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)

    async def close(self) -> None:
        self._disk.close()
        await self._coordinator.close()
        await self._coordinator.store.close()
        self._folder.cleanup()

    def _rows(self) -> list[Any]:
        return [self._disk.execute(f"SELECT count(*) FROM {table}").get for table in ("session", "turn", "version")]

    async def check(self, data: bytes) -> None:
        before = self._rows()
        status, body = await asyncio.wait_for(self._answer(*_parsed(data)), DEADLINE_S)
        if status < 400:
            return
        error = json.loads(body)["error"]
        assert set(error) == {"code", "message", "hint", "retryable", "details"}, error
        assert error["code"] in BY_CODE, error
        assert status != 500, error
        if error["code"] not in ENDED_BY_WAITING:
            assert self._rows() == before, (status, error)

    async def _answer(self, scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
        sent: list[dict[str, Any]] = []
        received = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if received:
                return received.pop()
            await asyncio.sleep(DEADLINE_S)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def _no_link(*_: Any) -> None:
    raise AssertionError("only HTTP comes here")


def _parsed(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return what a server would make of *data*: a request line, headers, an empty line, a body."""
    head, _, body = data.partition(b"\n\n")
    line, *headers = head.split(b"\n")
    method, _, target = line.partition(b" ")
    path, _, query = target.partition(b"?")
    if not path.startswith(b"/"):
        path = b"/" + path
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method.decode("latin-1").upper() or "GET",
        "path": path.decode(errors="replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "scheme": "http",
        "headers": [
            (name.strip().lower(), value.strip())
            for name, _, value in (header.partition(b":") for header in headers)
            if name.strip()
        ],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }, body
