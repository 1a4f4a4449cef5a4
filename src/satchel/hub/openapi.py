"""The OpenAPI description of the HTTP API, served at ``/openapi.json``."""

from importlib.metadata import version
from typing import Any

from satchel.errors import BY_CODE
from satchel.limits import ID_LENGTH_MAX, PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX

_ID = {"type": "string", "minLength": 1, "maxLength": ID_LENGTH_MAX, "pattern": r"^[A-Za-z0-9._~:@+-]+$"}
_STRING = {"type": "string"}
_INTEGER = {"type": "integer"}
_TIME = {"type": "string", "format": "date-time"}
_OBJECT = {"type": "object", "additionalProperties": True}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _record(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _json(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _path(name: str, schema: dict[str, Any] = _ID) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _operation(
    summary: str, answers: dict[str, Any], *parameters: dict[str, Any], body: dict[str, Any] | None = None
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {**answers, "default": _json(_ref("Refusal"), "An error; the status is its code's.")},
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


_STREAM = {
    "description": "The message's events, from accepted to complete; or the message itself when it is done.",
    "content": {
        "application/x-ndjson": {"schema": _ref("Event")},
        "text/event-stream": {"schema": _STRING},
        "application/json": {"schema": _ref("Message")},
    },
}
_LIMIT = _query("limit", {"type": "integer", "minimum": 1, "maximum": PAGE_ITEMS_MAX, "default": PAGE_ITEMS_DEFAULT})
_SESSION = _path("session_id")
_MESSAGE = _path("message_id")

OPENAPI: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Satchel", "version": version("satchel"), "license": {"name": "Apache-2.0"}},
    "security": [{}, {"key": []}],
    "paths": {
        "/v1/sessions/{session_id}/messages": {
            "post": _operation(
                "Send a message. A repeated message_id runs once and gets the first answer.",
                {"200": _STREAM, "202": _json(_ref("Message"), "Prefer: respond-async.")},
                _SESSION,
                body=_ref("NewMessage"),
            ),
            "get": _operation(
                "The transcript, newest page last.",
                {
                    "200": _json(
                        _record(messages={"type": "array", "items": _ref("Message")}, next_cursor=_nullable(_STRING)),
                        "A page, oldest first.",
                    )
                },
                _SESSION,
                _LIMIT,
                _query("before", _INTEGER),
            ),
        },
        "/v1/sessions/{session_id}/messages/{message_id}": {
            "get": _operation(
                "The message as it stands (application/json), or its events after a cursor.",
                {"200": _STREAM},
                _SESSION,
                _MESSAGE,
                _query("after", _INTEGER),
            )
        },
        "/v1/sessions/{session_id}/messages/{message_id}/cancel": {
            "post": _operation(
                "Stop a message: it is cancelled, or committed if that came first.",
                {"200": _json(_ref("Message"), "The message as it stands.")},
                _SESSION,
                _MESSAGE,
            )
        },
        "/v1/sessions": {
            "get": _operation(
                "List sessions.",
                {
                    "200": _json(
                        _record(sessions={"type": "array", "items": _ref("Session")}, next_cursor=_nullable(_STRING)),
                        "A page, oldest first.",
                    )
                },
                _LIMIT,
                _query("cursor", _STRING),
                _query("agent", _ID),
            )
        },
        "/v1/sessions/{session_id}": {
            "get": _operation("Inspect a session.", {"200": _json(_ref("Session"), "The session.")}, _SESSION)
        },
        "/v1/sessions/{session_id}/versions/{version}/snapshot": {
            "get": _operation(
                "A retained version as a SQLite file.",
                {"200": {"description": "The file.", "content": {"application/vnd.sqlite3": {}}}},
                _SESSION,
                _path("version", {"type": "integer", "minimum": 1}),
            )
        },
        "/v1/workers": {
            "get": _operation(
                "Connected workers.",
                {"200": _json(_record(workers={"type": "array", "items": _ref("Worker")}), "By ID.")},
            )
        },
        "/healthz": {"get": _operation("Alive.", {"200": _json(_OBJECT, "The process answers.")})},
        "/readyz": {"get": _operation("Ready.", {"200": _json(_OBJECT, "The store is open.")})},
        "/metrics": {"get": _operation("Prometheus metrics.", {"200": {"description": "Text format."}})},
    },
    "components": {
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        "schemas": {
            "NewMessage": {
                "type": "object",
                "properties": {
                    "text": _STRING,
                    "agent": _ID,
                    "message_id": _ID,
                    "metadata": _OBJECT,
                    "on_busy": {"enum": ["queue", "reject"]},
                },
                "required": ["text"],
                "additionalProperties": False,
            },
            "Message": _record(
                message_id=_ID,
                status={"enum": ["queued", "running", "committed", "failed", "cancelled"]},
                text=_STRING,
                metadata=_nullable(_OBJECT),
                answer=_nullable(_record(text=_STRING)),
                version=_nullable(_INTEGER),
                attempts=_INTEGER,
                error=_nullable(_ref("Error")),
                accepted_at=_TIME,
                finished_at=_nullable(_TIME),
            ),
            "Session": _record(
                session_id=_ID,
                agent=_ID,
                status={"enum": ["idle", "running", "quarantined"]},
                head=_INTEGER,
                waiting=_INTEGER,
                running_message_id=_nullable(_ID),
                state_bytes=_INTEGER,
                chain_bytes=_INTEGER,
                schema_number=_nullable(_INTEGER),
                worker_id=_nullable(_ID),
                metadata=_nullable(_OBJECT),
                created_at=_TIME,
                updated_at=_TIME,
            ),
            "Worker": _record(
                worker_id=_ID,
                agents={"type": "array", "items": _ID},
                build=_STRING,
                slots=_INTEGER,
                running=_INTEGER,
                warm_sessions=_INTEGER,
                warm_bytes=_INTEGER,
                draining={"type": "boolean"},
                connected_at=_TIME,
            ),
            "Event": {
                **_record(seq=_INTEGER, attempt=_INTEGER, type=_STRING, session_id=_ID, message_id=_ID),
                "description": "The property named like type holds the content. Skip types you do not know.",
                "additionalProperties": True,
            },
            "Error": _record(
                code={"enum": sorted(BY_CODE)},
                message=_STRING,
                hint=_STRING,
                retryable={"type": "boolean"},
                details=_OBJECT,
            ),
            "Refusal": _record(error=_ref("Error")),
        },
    },
}
