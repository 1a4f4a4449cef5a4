"""A hub's documented API over a real socket, with the faults of a network on demand."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from satchel.model import (
    SEQ_PER_START,
    Accepted,
    CommittedState,
    Complete,
    Content,
    ErrorBody,
    Message,
    Restarted,
    Start,
    TextDelta,
    TurnEvent,
    TurnReport,
)

AT = "2026-01-31T09:30:00.125Z"


class Dropped(Exception):
    """The server closes the socket where it stands."""


def events_of(*contents: Any, message_id: str = "m1") -> list[bytes]:
    """Return lines of *contents*, numbered as a hub numbers them; a ``Restarted`` begins the next start."""
    lines, start, index = [], 1, -1
    for content in contents:
        start, index = (start + 1, 0) if isinstance(content, Restarted) else (start, index + 1)
        kind = {
            Accepted: "accepted",
            TextDelta: "text_delta",
            Message: "message",
            Restarted: "restarted",
            Complete: "complete",
        }[type(content)]
        event = TurnEvent(
            seq=start * SEQ_PER_START + index,
            attempt=start,
            type=kind,
            session_id="alice",
            message_id=message_id,
            **{kind: content},
        )
        lines.append(msgspec.json.encode(event))
    return lines


def said(text: str, item_id: str = "i1") -> Message:
    return Message(id=item_id, content=(Content(text),), created_at=AT)


ACCEPTED = Accepted(agent="concierge", accepted_at=AT)
COMMITTED = Complete(
    turn=TurnReport(
        start=Start.WARM, worker_id="w1", attempts=1, received_bytes=212, changed_rows={"booking": (1, 2, 0)}
    ),
    session_state=CommittedState(12),
)
FAILED = Complete(
    turn=TurnReport(attempts=1),
    error=ErrorBody("TEXT_HANDLER_ERROR", "The handler raised ValueError.", retryable=True, details={"kind": "x"}),
)
TURN = (ACCEPTED, TextDelta("i1", "Boo"), TextDelta("i1", "ked."), said("Booked."), COMMITTED)


class FakeHub:
    """Serves one turn's ``lines`` to every message, and counts what was asked.

    ``cuts`` drops the next streams after so many lines; -1 drops before the head.
    ``refusals`` answers the next message requests with (status, body) instead.
    ``gates`` holds a line back, by its index, until it is set; a cancel sets it if ``cancel_ends``.
    """

    def __init__(self) -> None:
        self.lines = events_of(*TURN)
        self.cuts: list[int] = []
        self.refusals: list[tuple[int, Any]] = []
        self.gates: dict[int, threading.Event] = {}
        self.bodies: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.ports: set[int] = set()
        self.has_sent = threading.Event()
        self.cancelled: list[str] = []
        self.has_cancelled = threading.Event()
        self.cancel_ends = True
        message = "/v1/sessions/{session_id}/messages/{message_id}"
        self.app = Starlette(
            routes=[
                Route("/v1/sessions/{session_id}/messages", self._post, methods=["POST"]),
                Route("/v1/sessions/{session_id}/messages", self._page, methods=["GET"]),
                Route(message, self._get, methods=["GET"]),
                Route(f"{message}/cancel", self._cancel, methods=["POST"]),
                Route("/v1/sessions", self._sessions, methods=["GET"]),
                Route("/v1/sessions/{session_id}", self._session, methods=["GET"]),
                Route("/v1/sessions/{session_id}/versions/3/snapshot", self._snapshot, methods=["GET"]),
                Route("/v1/workers", self._workers, methods=["GET"]),
            ]
        )

    @contextlib.contextmanager
    def serving(self, port: int = 0) -> Iterator[str]:
        """Serve on a free port, or on *port* again; yield the base URL."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        started = threading.Event()
        server = _Server(uvicorn.Config(self.app, log_config=None, lifespan="off", ws="none"), started)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        started.wait()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for gate in self.gates.values():
                gate.set()  # a failed test must not leave a thread waiting
            server.should_exit = server.force_exit = True
            thread.join()
            listener.close()

    async def _post(self, request: Request) -> Response:
        self._note(request)
        self.bodies.append(await request.json())
        return self._answer(self.lines)

    async def _get(self, request: Request) -> Response:
        self._note(request)
        if request.headers["accept"].startswith("application/json"):
            return JSONResponse(self._row(request.path_params["message_id"], "committed"))
        after = int(request.query_params.get("after", -1))
        return self._answer([line for line in self.lines if msgspec.json.decode(line)["seq"] > after])

    def _note(self, request: Request) -> None:
        query = f"?{request.url.query}" if request.url.query else ""
        self.requests.append(f"{request.method} {request.url.path}{query}")
        self.headers.append(dict(request.headers))
        self.ports.add(request.client.port if request.client else 0)

    def _answer(self, lines: list[bytes]) -> Response:
        if self.refusals:
            status, body = self.refusals.pop(0)
            return Response(body, status) if isinstance(body, str) else JSONResponse({"error": body}, status)
        cut = self.cuts.pop(0) if self.cuts else None
        if cut == -1:
            raise Dropped
        return StreamingResponse(self._stream(lines, cut), media_type="application/x-ndjson")

    async def _stream(self, lines: list[bytes], cut: int | None) -> AsyncIterator[bytes]:
        for index, line in enumerate(lines):
            if index == cut:
                raise Dropped
            if index in self.gates:
                yield b"\n"
                self.has_sent.set()
                await asyncio.to_thread(self.gates[index].wait)
            yield line + b"\n"
        if cut == len(lines):
            raise Dropped

    async def _page(self, request: Request) -> Response:
        self._note(request)
        return JSONResponse({"messages": [self._row("m1", "committed")], "next_cursor": "7"})

    async def _cancel(self, request: Request) -> Response:
        self._note(request)
        self.cancelled.append(request.path_params["message_id"])
        self.has_cancelled.set()
        for gate in self.gates.values() if self.cancel_ends else ():
            gate.set()
        return JSONResponse(self._row(request.path_params["message_id"], "cancelled"))

    async def _sessions(self, request: Request) -> Response:
        self._note(request)
        return JSONResponse({"sessions": [self._session_row("alice")], "next_cursor": None})

    async def _session(self, request: Request) -> Response:
        self._note(request)
        if request.path_params["session_id"] == "nobody":
            return JSONResponse({"error": {"code": "SESSION_NOT_FOUND", "message": "There is no such session."}}, 404)
        return JSONResponse(self._session_row(request.path_params["session_id"]))

    async def _snapshot(self, request: Request) -> Response:
        self._note(request)
        return Response(b"SQLite format 3\0", media_type="application/vnd.sqlite3")

    async def _workers(self, request: Request) -> Response:
        self._note(request)
        worker = {
            "worker_id": "w1", "agents": ["concierge"], "build": "1", "slots": 32, "running": 0, "warm_sessions": 1,
            "warm_bytes": 4096, "draining": False, "connected_at": AT, "of_a_later_release": 1,
        }  # fmt: skip
        return JSONResponse({"workers": [worker]})

    @staticmethod
    def _row(message_id: str, status: str) -> dict[str, Any]:
        return {
            "message_id": message_id, "status": status, "text": "a room", "metadata": None,
            "answer": {"text": "Booked."} if status == "committed" else None,
            "version": 12 if status == "committed" else None, "attempts": 1, "error": None,
            "accepted_at": AT, "finished_at": AT,
        }  # fmt: skip

    @staticmethod
    def _session_row(session_id: str) -> dict[str, Any]:
        return {
            "session_id": session_id, "agent": "concierge", "status": "idle", "head": 12, "waiting": 0,
            "running_message_id": None, "state_bytes": 8192, "chain_bytes": 900, "schema_number": 1,
            "worker_id": "w1", "metadata": None, "created_at": AT, "updated_at": AT,
        }  # fmt: skip


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: threading.Event) -> None:
        super().__init__(config)
        self._has_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._has_started.set()
