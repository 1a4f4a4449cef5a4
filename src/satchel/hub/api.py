"""The HTTP API: parse, call the coordinator, render. No decisions.

Plain routes are Starlette's; a message's event stream is raw ASGI, which costs a
quarter of a framework's streaming response.
"""

import math
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from satchel.errors import (
    AnswerExpired,
    HubDraining,
    InternalError,
    InvalidRequest,
    MessageTooLarge,
    NotSupported,
    SatchelError,
    UnsupportedMediaType,
    from_body,
)
from satchel.hub import render
from satchel.hub.auth import Gate
from satchel.hub.burst import Burst
from satchel.hub.coordinator import Coordinator, Delivery
from satchel.hub.openapi import OPENAPI
from satchel.hub.response import EventStream
from satchel.hub.runner import ended_complete
from satchel.hub.stream import TurnStream, ended_lines
from satchel.limits import (
    JSON_DEPTH_MAX,
    METADATA_BYTES_MAX,
    PAGE_ITEMS_DEFAULT,
    PAGE_ITEMS_MAX,
    REQUEST_BODY_BYTES_MAX,
    TEXT_BYTES_MAX,
)
from satchel.model import (
    MessageId,
    OnBusy,
    SessionId,
    SessionKey,
    Tenant,
    TurnStatus,
    Version,
    canonical_json,
    checked_id,
)
from satchel.store.base import NewTurn
from satchel.store.events import load_events

RETRY_AFTER_S = 1
"""What ``Retry-After`` says: a queue moves or a worker joins within about this."""


_chance: Final = random.Random()  # noqa: S311  # seeded by the kernel; nothing is hidden in it
Body = TypeVar("Body", bound=msgspec.Struct)


class MessageBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST .../messages``."""

    text: str
    content: Any = None
    agent: str | None = None
    message_id: str | None = None
    metadata: dict[str, Any] | None = None
    on_busy: str | None = None


class Api:
    """The routes of one hub."""

    def __init__(self, coordinator: Callable[[], Coordinator], gate: Gate) -> None:
        self._coordinator = coordinator
        self._gate = gate
        self._burst = Burst()

    # --- messages ----------------------------------------------------------------------------

    async def post_message(self, request: Request) -> "Response | EventStream":
        key = self._session_key(request, writes=True)
        form = _answer_form(request)
        body = _decoded(MessageBody, await _body(request))
        message_id = MessageId(_new_id() if body.message_id is None else checked_id(body.message_id, "message_id"))
        hub = self._coordinator()
        delivery = await hub.send(_new_turn(key, message_id, body, now_ms=hub.clock.now_ms()))
        headers = {
            "Satchel-Message-Id": message_id,
            "Location": f"/v1/sessions/{key.session_id}/messages/{message_id}",
        }
        if delivery.turn.status is TurnStatus.CANCELLED:
            raise from_body(msgspec.to_builtins(ended_complete(delivery.turn).error))
        if "respond-async" in request.headers.get("prefer", "").replace(" ", "").split(","):
            return _json(render.message(delivery.turn), status=202, headers=headers)
        if form == "json":
            return await self._answer(delivery, headers)
        return await self._stream(delivery, form=form, after=-1, headers=headers)

    async def get_message(self, request: Request) -> "Response | EventStream":
        key = self._session_key(request)
        message_id = MessageId(checked_id(request.path_params["message_id"], "message_id"))
        form = _answer_form(request)
        if form == "json":
            return _json(render.message(await self._coordinator().store.log.turn(key, message_id)))
        after = request.query_params.get("after", request.headers.get("last-event-id"))
        delivery = await self._coordinator().deliver(key, message_id)
        return await self._stream(delivery, form=form, after=-1 if after is None else _natural(after, "after"))

    async def get_messages(self, request: Request) -> Response:
        key = self._session_key(request)
        limit, before = _limit(request), request.query_params.get("before")
        turns = await self._coordinator().store.log.turns(
            key, limit=limit + 1, before=None if before is None else _natural(before, "before")
        )
        page = turns[-limit:]
        cursor = str(page[0].place) if len(turns) > limit else None
        return _json({"messages": [render.message(turn) for turn in page], "next_cursor": cursor})

    async def post_cancel(self, request: Request) -> Response:
        key = self._session_key(request, writes=True)
        await _no_body(request)
        message_id = MessageId(checked_id(request.path_params["message_id"], "message_id"))
        return _json(render.message(await self._coordinator().cancel(key, message_id)))

    async def _answer(self, delivery: Delivery, headers: dict[str, str]) -> Response:
        """Wait for the end and answer with the message, or with its error and that error's status."""
        hub, turn = self._coordinator(), delivery.turn
        if delivery.stream is not None:
            await delivery.stream.ended()
            turn = await hub.store.log.turn(turn.key, turn.message_id)
        if not turn.status.is_final:
            raise HubDraining  # the reading was cut: the next hub goes on with it
        if turn.status is not TurnStatus.COMMITTED:
            error = ended_complete(turn).error
            return _refusal(from_body(msgspec.to_builtins(error)) if error else InternalError(), headers=headers)
        if turn.answer is None:
            raise AnswerExpired(version=turn.version)
        return _json(render.message(turn), headers=headers)

    async def _stream(
        self, delivery: Delivery, *, form: str, after: int, headers: dict[str, str] | None = None
    ) -> "EventStream":
        hub, turn = self._coordinator(), delivery.turn
        source: TurnStream | list[bytes]
        if delivery.stream is not None:
            source = delivery.stream
        elif turn.status is TurnStatus.COMMITTED:
            source = render.stored(await load_events(hub.store, turn), after=after)
        else:
            source = ended_lines(turn, ended_complete(turn), after=after)
        return EventStream(
            source,
            after=after,
            is_sse=form == "sse",
            headers=headers,
            keep_alive_s=hub.settings.keep_alive_s,
            burst=self._burst,
        )

    # --- sessions and workers ------------------------------------------------------------------

    async def get_sessions(self, request: Request) -> Response:
        tenant = self._tenant(request)
        limit, cursor = _limit(request), request.query_params.get("cursor")
        agent = request.query_params.get("agent")
        sessions = await self._coordinator().store.log.sessions(
            tenant,
            agent=agent,
            limit=limit + 1,
            after=None if cursor is None else SessionId(checked_id(cursor, "cursor")),
        )
        page = sessions[:limit]
        return _json(
            {
                "sessions": [self._session(session.key, render.session(session)) for session in page],
                "next_cursor": page[-1].key.session_id if len(sessions) > limit else None,
            }
        )

    async def get_session(self, request: Request) -> Response:
        key = self._session_key(request)
        return _json(self._session(key, render.session(await self._coordinator().store.log.session(key))))

    def _session(self, key: SessionKey, rendered: dict[str, Any]) -> dict[str, Any]:
        holders = self._coordinator().fleet.held_versions(key)
        warm = [worker_id for worker_id, name in sorted(holders.items()) if name.version == rendered["head"]]
        return {**rendered, "worker_id": warm[0] if warm else None}

    async def get_snapshot(self, request: Request) -> Response:
        key = self._session_key(request)
        version = Version(_natural(request.path_params["version"], "version"))
        image = await self._coordinator().snapshot(key, version)
        name = f"{key.session_id}-v{version}.sqlite".replace('"', "")
        return Response(
            image,
            media_type="application/vnd.sqlite3",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    async def get_workers(self, request: Request) -> Response:
        members = self._coordinator().fleet.members(self._tenant(request))
        return _json({"workers": [render.worker(each) for each in sorted(members, key=lambda m: m.worker_id)]})

    # --- probes ------------------------------------------------------------------------------

    async def healthz(self, request: Request) -> Response:  # noqa: ARG002  # Starlette's signature
        return _json({"status": "ok"})

    async def readyz(self, request: Request) -> Response:  # noqa: ARG002  # the same
        if not self._coordinator().is_open:
            raise HubDraining
        return _json({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        self._tenant(request)
        return Response(self._coordinator().telemetry.exposition(), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002  # the same
        return _json(OPENAPI)

    # --- who asks, for what ----------------------------------------------------------------------

    def _tenant(self, request: Request, *, writes: bool = False) -> Tenant:
        return self._gate.caller(request.headers, writes=writes)

    def _session_key(self, request: Request, *, writes: bool = False) -> SessionKey:
        tenant = self._tenant(request, writes=writes)
        return SessionKey(tenant, SessionId(checked_id(request.path_params["session_id"], "session_id")))


def create_app(
    coordinator: Callable[[], Coordinator], gate: Gate, *, serve_link: Callable[..., Awaitable[None]]
) -> Starlette:
    """Return the ASGI app of a hub. *coordinator* gives the open one, or raises what a caller is told."""
    api = Api(coordinator, gate)
    session = "/v1/sessions/{session_id}"
    app = Starlette(
        routes=[
            Route(f"{session}/messages", api.post_message, methods=["POST"]),
            Route(f"{session}/messages", api.get_messages, methods=["GET"]),
            Route(f"{session}/messages/{{message_id}}", api.get_message, methods=["GET"]),
            Route(f"{session}/messages/{{message_id}}/cancel", api.post_cancel, methods=["POST"]),
            Route("/v1/sessions", api.get_sessions, methods=["GET"]),
            Route(session, api.get_session, methods=["GET"]),
            Route(f"{session}/versions/{{version}}/snapshot", api.get_snapshot, methods=["GET"]),
            Route("/v1/workers", api.get_workers, methods=["GET"]),
            Route("/healthz", api.healthz, methods=["GET"]),
            Route("/readyz", api.readyz, methods=["GET"]),
            Route("/metrics", api.metrics, methods=["GET"]),
            Route("/openapi.json", api.openapi, methods=["GET"]),
            WebSocketRoute("/v1/worker", serve_link),
        ],
        exception_handlers={
            SatchelError: _refuse,
            HTTPException: _refuse_route,
            Exception: _refuse_unknown,
        },
    )
    app.router.redirect_slashes = False  # one form of a path; its redirect decodes any query
    app.middleware_stack = MessagesFirst(app.build_middleware_stack(), api=api)
    return app


class MessagesFirst:
    """Takes ``POST .../messages`` before Starlette does: every turn passes here, and each chunk of its answer."""

    def __init__(self, app: ASGIApp, *, api: Api) -> None:
        self._app = app
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["path"].split("/") if _is_plain_post(scope) else ():
            case ["", "v1", "sessions", session_id, "messages"] if session_id:
                request = Request({**scope, "path_params": {"session_id": session_id}}, receive)
                answer: Response | EventStream
                try:
                    answer = await self._api.post_message(request)
                except SatchelError as error:
                    answer = _refusal(error)
                except Exception:  # the caller is told that it is ours; the server logs it
                    await _refusal(InternalError())(scope, receive, send)
                    raise
                await answer(scope, receive, send)
            case _:
                await self._app(scope, receive, send)


def _is_plain_post(scope: Scope) -> bool:
    """Tell whether this is a POST to a hub that is not mounted below another app's path."""
    return scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path")


# --- reading a request ---------------------------------------------------------------------------


async def _body(request: Request) -> bytes:
    """Read a JSON body within its bound. Raises ``UnsupportedMediaType``, ``MessageTooLarge``."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(content_type=media_type)
    received = bytearray()
    async for piece in request.stream():
        received += piece
        if len(received) > REQUEST_BODY_BYTES_MAX:
            raise MessageTooLarge(f"A request body has at most {REQUEST_BODY_BYTES_MAX} bytes.")
    return bytes(received)


async def _no_body(request: Request) -> None:
    """Refuse a body where none is asked for; an empty JSON object is as good as none."""
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        body = await _body(request)
        if body.strip() not in {b"", b"{}"}:
            raise InvalidRequest("This request takes no body.")


def _new_id() -> str:
    """Return an ID that no other message has. It is no secret, so it need not ask the kernel each time."""
    return f"{_chance.getrandbits(128):032x}"


def _decoded(kind: type[Body], body: bytes) -> Body:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fields = ", ".join(field.name for field in msgspec.structs.fields(kind))
        raise InvalidRequest(f"The body is not as documented: {error}.", hint=f"Its fields: {fields}.") from error
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deep.") from error


def _new_turn(key: SessionKey, message_id: MessageId, body: MessageBody, *, now_ms: int) -> NewTurn:
    """Return the message to admit, each part within its bound."""
    if body.content is not None:
        raise NotSupported("content is reserved for parts beside text.", hint="Send text alone.")
    if len(body.text.encode()) > TEXT_BYTES_MAX:
        raise MessageTooLarge(f"text has at most {TEXT_BYTES_MAX} bytes of UTF-8.", text_bytes_max=TEXT_BYTES_MAX)
    if body.metadata is not None:
        _check_metadata(body.metadata)
    return NewTurn(
        key=key,
        message_id=message_id,
        agent=None if body.agent is None else checked_id(body.agent, "agent"),
        text=body.text,
        metadata=body.metadata,
        on_busy=None if body.on_busy is None else _on_busy(body.on_busy),
        accepted_at_ms=now_ms,
    )


def _check_metadata(metadata: dict[str, Any]) -> None:
    """Refuse metadata that is nested too deep for whoever reads it, or too large."""
    if not _is_nested_within(metadata, JSON_DEPTH_MAX):
        raise InvalidRequest(f"metadata is nested more than {JSON_DEPTH_MAX} deep.", field="metadata")
    if len(canonical_json(metadata)) > METADATA_BYTES_MAX:
        raise MessageTooLarge(
            f"metadata has at most {METADATA_BYTES_MAX} bytes of JSON.", metadata_bytes_max=METADATA_BYTES_MAX
        )


def _is_nested_within(value: Any, depth: int) -> bool:
    """Tell whether lists and objects stand at most *depth* deep in a JSON value."""
    if not isinstance(value, list | dict):
        return True
    items = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_is_nested_within(item, depth - 1) for item in items)


def _on_busy(value: str) -> OnBusy:
    try:
        return OnBusy(value)
    except ValueError:
        pass
    if value in {"interrupt", "steer"}:
        raise NotSupported(f"on_busy {value!r} is not offered yet.", hint="Use queue or reject.")
    raise InvalidRequest(f"on_busy {value!r} is unknown.", hint="Use queue or reject.")


def _answer_form(request: Request) -> str:
    """Return ``lines``, ``sse`` or ``json``: the first form that ``Accept`` names and we have."""
    forms = {
        "application/x-ndjson": "lines",
        "text/event-stream": "sse",
        "application/json": "json",
        "application/*": "lines",
        "*/*": "lines",
    }
    accept = request.headers.get("accept", "*/*") or "*/*"
    if accept == "*/*":
        return "lines"
    for media_range in sorted(accept.split(","), key=_quality, reverse=True):
        form = forms.get(media_range.partition(";")[0].strip().lower())
        if form is not None:
            return form
    raise InvalidRequest(
        "Accept names no form this hub has.",
        hint="Use application/x-ndjson, text/event-stream or application/json.",
    )


def _quality(media_range: str) -> float:
    for parameter in media_range.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _natural(text: str, name: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < len(str(2**63)):
        return int(text)
    raise InvalidRequest(f"{name} is not a whole number.", field=name)


def _limit(request: Request) -> int:
    limit = _natural(request.query_params.get("limit", str(PAGE_ITEMS_DEFAULT)), "limit")
    if not 1 <= limit <= PAGE_ITEMS_MAX:
        raise InvalidRequest(f"limit is 1 to {PAGE_ITEMS_MAX}.", field="limit")
    return limit


# --- writing an answer ----------------------------------------------------------------------------


def _json(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(value) + b"\n", status_code=status, headers=headers, media_type="application/json"
    )


def _refusal(error: SatchelError, *, headers: dict[str, str] | None = None) -> Response:
    headers = dict(headers or {})
    if error.status in {429, 503}:
        headers["Retry-After"] = str(math.ceil(RETRY_AFTER_S))
    if error.status == 401:  # noqa: PLR2004  # HTTP's own number
        headers["WWW-Authenticate"] = "Bearer"
    return _json({"error": error.body()}, status=error.status, headers=headers)


async def _refuse(request: Request, error: Exception) -> Response:  # noqa: ARG001  # Starlette's signature
    return _refusal(error if isinstance(error, SatchelError) else InternalError())


async def _refuse_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    what = "There is no such path." if status == 404 else f"{request.method} is not offered here."  # noqa: PLR2004
    body = InvalidRequest(what, hint="GET /openapi.json describes the API.", path=request.scope["path"]).body()
    headers = error.headers if isinstance(error, HTTPException) else None
    return _json({"error": body}, status=status, headers=dict(headers or {}))  # a 405 says what is allowed


async def _refuse_unknown(request: Request, error: Exception) -> Response:  # noqa: ARG001  # the same
    return _refusal(InternalError())
