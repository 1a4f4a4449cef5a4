"""Every error Satchel raises, as one tree shaped by what the caller does next.

SatchelError
├── RequestError            fix the request
│   ├── InvalidRequest · NotSupported · UnsupportedMediaType · MessageTooLarge · MessageIdReused
│   ├── Unauthenticated · PermissionDenied
│   ├── SessionNotFound · MessageNotFound · VersionNotFound · AgentNotFound
│   ├── AgentMismatch · SessionExists
│   └── SessionErased · VersionExpired · AnswerExpired
├── TurnError               the turn ended without a commit; the session goes on
│   ├── Cancelled · TurnRefused · StateTooLarge
│   ├── HandlerError · StateMisused · TurnMisused
│   └── TurnTimeout · AttemptsExhausted · NoWorker
├── WaitError               wait, then send the same message again
│   └── SessionBusy · QueueFull · HubDraining · HubUnreachable · StoreUnavailable
├── OperatorError           call an operator
│   └── Quarantined · InternalError · StoreFormatUnknown · StoreInUse
├── StateError              a state or payload is not what it claims: resync
│   ├── CorruptPayload · CorruptState · StateNotFound · ApplyConflict
│   └── SchemaRefused       the schema as declared would lose rows: fix it
├── Fenced                  the store refused a write: another attempt or hub was first
└── LinkError               one side of a worker link broke the rules
    ├── LinkClosed
    ├── PeerViolation       the peer did
    └── LinkRefused         the hub does not take this worker

A code crosses the API; the class, its HTTP status and whether a repeat of the
same request can succeed stand together below.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class SatchelError(Exception):
    """Something in Satchel went wrong."""

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    hint: ClassVar[str] = ""

    def __init__(self, message: str = "", *, hint: str = "", **details: Any) -> None:
        """*details* are the facts as JSON values; each is an attribute-like entry of ``details``."""
        self.message = message or (type(self).__doc__ or "").split("\n")[0]
        self.details: dict[str, Any] = details
        if hint:
            self.hint = hint  # type: ignore[misc]  # one instance may know a better next step than its class
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        """Return the error as the API carries it: code, message, hint, retryable, details."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
            "details": self.details,
        }

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


# --- fix the request -------------------------------------------------------------------------


class RequestError(SatchelError):
    """The request cannot succeed as it is."""


class InvalidRequest(RequestError):
    """The request is not well formed."""

    code, status = "INVALID_REQUEST", 400


class NotSupported(RequestError):
    """This hub does not offer what the request asks for."""

    code, status = "NOT_SUPPORTED", 400


class Unauthenticated(RequestError):
    """The request carries no valid key."""

    code, status = "UNAUTHENTICATED", 401
    hint = "Send the header Authorization: Bearer KEY."


class PermissionDenied(RequestError):
    """This caller may not do that."""

    code, status = "PERMISSION_DENIED", 403


class SessionNotFound(RequestError):
    """There is no such session."""

    code, status = "SESSION_NOT_FOUND", 404
    hint = "A session begins with its first message; GET /v1/sessions lists those that exist."


class MessageNotFound(RequestError):
    """The session has no such message."""

    code, status = "MESSAGE_NOT_FOUND", 404


class VersionNotFound(RequestError):
    """The session has no such version."""

    code, status = "VERSION_NOT_FOUND", 404


class AgentNotFound(RequestError):
    """No worker has ever registered this agent."""

    code, status = "AGENT_NOT_FOUND", 404
    hint = "Start a worker that serves it, or correct the name."


class AgentMismatch(RequestError):
    """The session belongs to another agent."""

    code, status = "AGENT_MISMATCH", 409
    hint = "Leave out agent, or use another session ID."


class SessionExists(RequestError):
    """A session of this ID exists."""

    code, status = "SESSION_EXISTS", 409


class SessionErased(RequestError):
    """The session was erased."""

    code, status = "SESSION_ERASED", 410


class VersionExpired(RequestError):
    """The version is no longer kept."""

    code, status = "VERSION_EXPIRED", 410


class AnswerExpired(RequestError):
    """The message was committed; its answer is no longer kept."""

    code, status = "ANSWER_EXPIRED", 410
    hint = "It does not run again. details.version is the version it committed."


class MessageTooLarge(RequestError):
    """The message is over its bound."""

    code, status = "MESSAGE_TOO_LARGE", 413


class UnsupportedMediaType(RequestError):
    """The request body is not application/json."""

    code, status = "UNSUPPORTED_MEDIA_TYPE", 415
    hint = "Send the header Content-Type: application/json."


class MessageIdReused(RequestError):
    """The message ID names another request of this session."""

    code, status = "MESSAGE_ID_REUSED", 422
    hint = "Use a new message ID for a new message."


# --- the turn ended without a commit ---------------------------------------------------------


class TurnError(SatchelError):
    """The turn ended without a commit; the session is as it was before it."""


class Cancelled(TurnError):
    """The message was cancelled."""

    code, status = "CANCELLED", 409
    hint = "It left no trace in the session. Send a new message."


class TurnRefused(TurnError):
    """The agent refused this turn.

    Raise it in a handler with a text for the caller: nothing is committed, and
    the caller gets the text.
    """

    code, status = "TURN_REFUSED", 422


class HandlerError(TurnError):
    """The agent's handler raised."""

    code, status, retryable = "TEXT_HANDLER_ERROR", 502, True
    hint = "The traceback is in the worker's log. Sending the message again runs it again."


class StateMisused(HandlerError):
    """The handler asked its state for something that could not be carried to another worker."""

    hint = "Nothing of this turn is kept."


class TurnMisused(HandlerError):
    """The handler used its turn in a way that cannot work."""

    hint = "Nothing of this turn is kept."


class StateTooLarge(TurnError):
    """The session's state would be over its bound."""

    code, status = "STATE_TOO_LARGE", 413
    hint = "Nothing of this turn was kept. Let the agent delete rows it no longer needs."


class TurnTimeout(TurnError):
    """The attempt ran longer than the agent's turn_timeout_s."""

    code, status, retryable = "TURN_TIMEOUT", 504, True


class AttemptsExhausted(TurnError):
    """Every attempt of this message was lost with its worker."""

    code, status, retryable = "ATTEMPTS_EXHAUSTED", 504, True
    hint = "Look at the workers' logs for what ends them; sending the message again starts it again."


class NoWorker(TurnError):
    """No worker with room for this agent came in time."""

    code, status, retryable = "NO_WORKER", 503, True
    hint = "Start a worker that serves this agent, or add slots, and send the message again."


# --- wait and send again ---------------------------------------------------------------------


class WaitError(SatchelError):
    """Not now: the same request can succeed later."""

    retryable = True


class SessionBusy(WaitError):
    """The session is running another turn."""

    code, status = "SESSION_BUSY", 409


class QueueFull(WaitError):
    """Too many messages wait in this session."""

    code, status = "QUEUE_FULL", 429


class HubDraining(WaitError):
    """The hub is shutting down."""

    code, status = "HUB_DRAINING", 503


class HubUnreachable(WaitError):
    """The hub cannot be reached."""

    code, status = "HUB_UNREACHABLE", 0  # the client's own: no hub sends it
    hint = "Start one with 'satchel hub', or give its URL. A message sent again with the same ID runs once."


class StoreUnavailable(WaitError):
    """The store does not answer."""

    code, status = "STORE_UNAVAILABLE", 503
    hint = "Send the same message with the same ID again: it runs once."


# --- call an operator ------------------------------------------------------------------------


class OperatorError(SatchelError):
    """Somebody has to look at this."""


class Quarantined(OperatorError):
    """The session's chain is damaged and waits for an operator."""

    code, status = "QUARANTINED", 423


class InternalError(OperatorError):
    """The hub failed; its log says why."""

    code, status = "INTERNAL_ERROR", 500


class StoreFormatUnknown(OperatorError):
    """The store was written by a newer Satchel."""

    hint = "Start the Satchel that wrote it, or a newer one."


class StoreInUse(OperatorError):
    """Another hub has this store open: one store file has one hub."""


# --- a state is not what it claims -----------------------------------------------------------


class StateError(SatchelError):
    """A state, or a payload of one, is not what it claims to be."""


class CorruptPayload(StateError):
    """A payload's bytes do not have their checksum, size or encoding."""


class CorruptState(StateError):
    """A database is not sound, or not the state it is named."""


class ApplyConflict(StateError):
    """A delta does not fit the state it is applied to."""


class StateNotFound(StateError):
    """This worker does not hold the state that the request names."""


class SchemaRefused(StateError):
    """The schema as declared would lose rows."""


# --- the fence -------------------------------------------------------------------------------


class Fenced(SatchelError):
    """The store refused the write: head, state ID, epoch or status is not what it was based on."""


# --- the link --------------------------------------------------------------------------------


class LinkError(SatchelError):
    """A worker link failed."""


class LinkClosed(LinkError):
    """The link is closed."""


class PeerViolation(LinkError):
    """The peer broke the rules of the link."""


class LinkRefused(LinkError):
    """The hub does not take this worker."""


def from_body(body: Mapping[str, Any]) -> SatchelError:
    """Return the exception that the API's error object *body* names.

    A code this release does not know becomes a plain ``SatchelError`` that keeps it.
    """
    kind = BY_CODE.get(str(body.get("code")), SatchelError)
    error = kind(str(body.get("message", "")), hint=str(body.get("hint", "")))
    error.details = dict(body.get("details") or {})
    if kind is SatchelError:
        error.code = str(body.get("code"))  # type: ignore[misc]  # an unknown code is kept, not hidden
        error.retryable = bool(body.get("retryable"))  # type: ignore[misc]  # the same
    return error


def _public(kind: type[SatchelError]) -> list[type[SatchelError]]:
    found = [kind] if "code" in vars(kind) else []
    return found + [each for child in kind.__subclasses__() for each in _public(child)]


BY_CODE: dict[str, type[SatchelError]] = {
    kind.code: kind for kind in _public(SatchelError) if kind is not SatchelError and kind.status
}
"""Every code of the API and its class."""
