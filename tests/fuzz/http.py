"""Requests of any shape against the hub's real app and a real store, without a socket."""

import asyncio
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import hypothesis.strategies as st

from satchel.errors import BY_CODE
from satchel.hub.api import create_app
from satchel.hub.auth import Gate
from satchel.hub.coordinator import Coordinator
from satchel.hub.settings import HubSettings, Keys
from satchel.hub.telemetry import Telemetry
from satchel.model import DEFAULT_TENANT, AgentSpec, OnBusy, SchemaName
from satchel.store.open import open_store

DEADLINE_S = 20
"""Far beyond what a request takes here: past it, it hangs."""
FRESH_EVERY = 3000
"""Requests after which a new store is used, so that it does not grow for ever."""
NO_ROUTE = {404, 405}
"""No such path, or not by this method: the request is refused before a route has seen it."""
ENDED_BY_WAITING = {"NO_WORKER"}
"""Errors of a message that was accepted and kept."""

AGENTS = [AgentSpec(name, SchemaName(1, b"f" * 32), 1, 60.0, 3, OnBusy.QUEUE) for name in ("concierge", "other")]

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

    def check(self, data: bytes) -> bool:
        """The answer is a documented one, it comes, and a refusal left nothing behind."""
        if self._hub is None or self._count % FRESH_EVERY == 0:
            self._renew()
        self._count += 1
        assert self._hub is not None
        return self._loop.run_until_complete(self._hub.check(data))

    def _renew(self) -> None:
        if self._hub is not None:
            self._loop.run_until_complete(self._hub.close())
        self._hub = _Hub()
        self._loop.run_until_complete(self._hub.open())

    def corpus(self) -> list[bytes]:
        """Requests as they should be, and each with one thing that should not."""
        return [*CORPUS, *odd_requests()]


class _Hub:
    async def open(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="satchel-fuzz-")
        path = Path(self._folder.name) / "hub.db"
        settings = HubSettings(worker_wait_s=0.01, adopt_s=0)
        self._coordinator = Coordinator(await open_store(str(path)), settings=settings, telemetry=Telemetry())
        await self._coordinator.open()
        for spec in AGENTS:  # unknown agents are refused, and then no message is ever kept
            await self._coordinator.store.log.register_agent(DEFAULT_TENANT, spec)
        self._app = create_app(lambda: self._coordinator, Gate(keys=Keys(), is_mounted=True), serve_link=_no_link)
        self._disk = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)

    async def close(self) -> None:
        self._disk.close()
        await self._coordinator.close()
        await self._coordinator.store.close()
        self._folder.cleanup()

    def _rows(self) -> list[Any]:
        return [self._disk.execute(f"SELECT count(*) FROM {table}").get for table in ("session", "turn", "version")]

    async def check(self, data: bytes) -> bool:
        before = self._rows()
        status, body = await asyncio.wait_for(self._answer(*_parsed(data)), DEADLINE_S)
        if status < 400:
            return True
        error = json.loads(body)["error"]
        assert set(error) == {"code", "message", "hint", "retryable", "details"}, error
        assert status != 500, error
        is_route = error["code"] == "INVALID_REQUEST" and status in NO_ROUTE
        assert is_route or status == BY_CODE[error["code"]].status, (status, error)
        if error["code"] not in ENDED_BY_WAITING:
            assert self._rows() == before, (status, error)
        return False

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


# --- near-valid requests -------------------------------------------------------------------------

IDS = (
    b"alice",
    b"bob",
    b"m1",
    b"a" * 128,
    b"a" * 129,
    b".",
    b"..",
    b"",
    b"a%2Fb",
    b"\xc3\xa9",
    b"\xff",
    b"%ff",
    b"a b",
    b"a@b+c:~d",
)
NUMBERS = (b"0", b"1", b"2", b"100", b"101", b"-1", b"1.5", b"", b"x", b"9223372036854775807", b"9223372036854775808")
PATHS = (
    *[b"/v1/sessions/%s/messages"] * 6,
    b"/v1/sessions/%s/messages/%s",
    b"/v1/sessions/%s/messages/%s/cancel",
    b"/v1/sessions",
    b"/v1/sessions/%s",
    b"/v1/sessions/%s/versions/%s/snapshot",
    b"/v1/workers",
    b"/readyz",
    b"/metrics",
    b"/v1/sessions/%s/",
    b"/v1/worker",
)
QUERIES = (b"limit=%s", b"before=%s", b"after=%s", b"cursor=%s", b"agent=%s", b"limit=1&limit=%s", b"%s")
HEADERS = (
    b"accept: application/json",
    b"accept: text/event-stream;q=0.5, application/x-ndjson;q=nan",
    b"accept: application/json;q=x",
    b"accept: image/png",
    b"accept: \xff",
    b"prefer: respond-async",
    b"last-event-id: 7",
    b"last-event-id: \xb2",
    b"content-length: 9",
    b"transfer-encoding: chunked",
    b"origin: http://evil.example",
)
TYPES = (b"application/json", b"application/json; charset=latin-1", b"text/plain", b"")
TEXTS = ("hello", "", "\0", "\u2028", "a" * 3000)
DEEP = (
    b'{"text": "hi", "agent": "concierge", "metadata": {"deep": %s%s}}' % (b"[" * depth, b"]" * depth)
    for depth in (98, 99, 900, 2000, 7000)
)
BODIES = (
    *DEEP,
    b"",
    b"{}",
    b"[]",
    b"null",
    b'{"text"',
    b'{"text": "\xff"}',
    b'{"text": "\\ud800"}',
    b'{"text": 1e999}',
    b"[" * 5000,
)


def _nested(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)


_ids = st.sampled_from([b"alice", b"bob", b"m1", b"m2"]) | st.sampled_from((*IDS, *NUMBERS))
_deep = st.sampled_from([1, 20, 60, 200, 900]).map(_nested)
_values = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from(TEXTS) | _deep
_bodies = st.fixed_dictionaries(
    {"text": st.sampled_from(TEXTS), "agent": st.sampled_from([*["concierge"] * 9, "other", "none", "..", 5, None])},
    optional={
        "message_id": st.sampled_from([*["m1", "m2", "m3"] * 5, "", ".", "a" * 129, None, 7]),
        "metadata": st.dictionaries(st.sampled_from(["a", "b", ""]), _values, max_size=2),
        "on_busy": st.sampled_from([*["queue", "reject"] * 6, "interrupt", "steer", "now", "", 3]),
    },
)


_odd_bodies = st.fixed_dictionaries(
    {"text": _values}, optional={"metadata": _values, "content": _values, "more": _values}
)


def odd_requests() -> Iterator[bytes]:
    """Every path with every odd name and number, every query, every header, every body."""
    for path in dict.fromkeys(PATHS):
        count = path.count(b"%s")
        for name in (*IDS, *NUMBERS):
            for place in range(count):
                names = tuple(name if index == place else b"alice" for index in range(count))
                yield b"GET %s\n%s\n" % (path % names, b"accept: application/json\n")
        for query in QUERIES:
            for value in (*IDS, *NUMBERS):
                yield b"GET %s?%s\n\n" % (path % ((b"alice",) * count), query % value)
    for header in (*HEADERS, *(b"content-type: " + each for each in TYPES)):
        yield b'POST /v1/sessions/alice/messages\n%s\n%s\n{"text": "hi", "agent": "concierge"}' % (JSON, header + b"\n")
        yield b"GET /v1/sessions/alice/messages/m1\n%s\n\n" % header
    for body in (*BODIES, *map(_json, odd_bodies())):
        yield b"POST /v1/sessions/alice/messages\nprefer: respond-async\n%s\n%s" % (JSON, body)


def odd_bodies() -> Iterator[dict[str, Any]]:
    right = {"text": "hi", "agent": "concierge"}
    values = (None, True, 0, 2**70, 1.5, math.nan, "", "..", "now", "a" * 129, *map(_nested, (1, 60, 900)), {"a": 1})
    for field in ("text", "agent", "message_id", "metadata", "on_busy", "content", "more"):
        yield from ({**right, field: value} for value in values)
    yield from ({**right, "metadata": {"deep": _nested(depth)}} for depth in (1, 60, 200, 900))


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


@st.composite
def near_requests(draw: st.DrawFn) -> bytes:
    """A request to one of the routes, each part of it right more often than not."""
    path = draw(st.sampled_from(PATHS))
    path = path % tuple(draw(_ids) for _ in range(path.count(b"%s")))
    if draw(st.integers(0, 2)) == 0:
        query = draw(st.sampled_from(QUERIES))
        path += b"?" + query % draw(st.sampled_from((*NUMBERS, *IDS)))
    is_post = path.partition(b"?")[0].endswith((b"messages", b"cancel"))
    method = draw(
        st.sampled_from([b"POST", b"POST", b"POST", b"GET"] if is_post else [b"GET", b"GET", b"DELETE", b"HEAD"])
    )
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=2))
    headers.append(b"content-type: " + draw(st.sampled_from((*[TYPES[0]] * 6, *TYPES))))
    form = draw(st.integers(0, 9))
    body = _json(draw(_bodies if form > 2 else _odd_bodies)) if form > 1 else draw(st.sampled_from(BODIES))
    return b"%s %s\n%s\n\n%s" % (method, path, b"\n".join(headers), body)
