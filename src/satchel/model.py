"""Frozen values that all parts share. No behaviour beyond what a value says about itself."""

import datetime as dt
import enum
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NewType

import msgspec

from satchel.errors import InvalidRequest
from satchel.limits import ID_LENGTH_MAX

SessionId = NewType("SessionId", str)
MessageId = NewType("MessageId", str)
WorkerId = NewType("WorkerId", str)
Tenant = NewType("Tenant", str)
StateId = NewType("StateId", bytes)
Version = NewType("Version", int)
Epoch = NewType("Epoch", int)

DEFAULT_TENANT: Final = Tenant("default")
EMPTY: Final = Version(0)
"""The version of a session before its first commit."""

_ID: Final = re.compile(r"[A-Za-z0-9._~:@+-]+")


def checked_id(text: object, name: str) -> str:
    """Return *text* if it is an ID: 1 to 128 of ``A-Z a-z 0-9 . _ ~ : @ + -``, not ``.`` or ``..``.

    Raises ``InvalidRequest`` that calls the ID *name*.
    """
    if isinstance(text, str) and len(text) <= ID_LENGTH_MAX and _ID.fullmatch(text) and text not in {".", ".."}:
        return text
    raise InvalidRequest(
        f"{name} is not an ID.",
        hint=f"An ID is 1 to {ID_LENGTH_MAX} of A-Z a-z 0-9 . _ ~ : @ + - and not . or .. alone.",
        field=name,
    )


class SessionKey(msgspec.Struct, frozen=True, order=True):
    """A session's name in the store: every key begins with the tenant."""

    tenant: Tenant
    session_id: SessionId


class TurnStatus(enum.StrEnum):
    """queued <-> running -> committed | failed | cancelled; queued -> failed | cancelled."""

    QUEUED = "queued"
    RUNNING = "running"
    COMMITTED = "committed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in {TurnStatus.QUEUED, TurnStatus.RUNNING}


class OnBusy(enum.StrEnum):
    """What happens to a message whose session is busy."""

    QUEUE = "queue"
    REJECT = "reject"


class Start(enum.StrEnum):
    """How a turn obtained its state."""

    NEW = "new"
    WARM = "warm"
    CATCH_UP = "catch-up"
    COLD = "cold"


# --- state in transit and at rest ------------------------------------------------------------


class PayloadKind(enum.StrEnum):
    SNAPSHOT = "snapshot"
    DELTA = "delta"


class Encoding(enum.IntEnum):
    NONE = 0
    ZSTD = 1


class Payload(msgspec.Struct, frozen=True):
    """A snapshot or a delta in its envelope, as it travels and rests.

    ``checksum`` is the first 16 bytes of SHA-256 over ``data``, the encoded bytes;
    ``raw_size`` is the length of the decoded ones. Dictionary and key are always 0.
    """

    kind: PayloadKind
    encoding: Encoding
    raw_size: int
    checksum: bytes
    data: bytes

    @property
    def size(self) -> int:
        """Encoded bytes, without the envelope."""
        return len(self.data)


class StateName(msgspec.Struct, frozen=True):
    """What names one state of a session: its version and its state ID."""

    version: Version
    state_id: StateId


class SchemaName(msgspec.Struct, frozen=True):
    """A session's schema: its number, and the hash of its table definitions (32 bytes)."""

    number: int
    fingerprint: bytes


class Link(msgspec.Struct, frozen=True):
    """One link of a chain: the payload that makes version ``name.version``."""

    name: StateName
    payload: Payload


# --- an agent ------------------------------------------------------------------------------


class AgentSpec(msgspec.Struct, frozen=True):
    """What a worker registers of one agent.

    It serves sessions whose schema number is in ``schema_min..schema.number`` and
    leaves them at ``schema``.
    """

    name: str
    schema: SchemaName
    schema_min: int
    turn_timeout_s: float
    max_attempts: int
    on_busy: OnBusy


# --- events ----------------------------------------------------------------------------------


class Content(msgspec.Struct, frozen=True):
    text: str


class Message(msgspec.Struct, frozen=True):
    """A whole text that the agent said. Field names are those of LiveKit's ``ChatMessage``."""

    id: str
    content: tuple[Content, ...]
    created_at: str
    role: str = "ASSISTANT"

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content)


class TextDelta(msgspec.Struct, frozen=True):
    """The next piece of the message *item_id*; the whole follows as a message."""

    item_id: str
    text: str


class FunctionCall(msgspec.Struct, frozen=True):
    """A tool call; ``arguments`` is JSON text. LiveKit's ``FunctionCall``."""

    id: str
    call_id: str
    name: str
    arguments: str
    created_at: str


class FunctionCallOutput(msgspec.Struct, frozen=True):
    """What a tool call gave. LiveKit's ``FunctionCallOutput``."""

    id: str
    call_id: str
    name: str
    output: str
    created_at: str
    is_error: bool = False


class AgentHandoff(msgspec.Struct, frozen=True):
    """The conversation went to another agent. LiveKit's ``AgentHandoff``."""

    id: str
    new_agent_id: str
    created_at: str
    old_agent_id: str | None = None


WholeItem = Message | FunctionCall | FunctionCallOutput | AgentHandoff
"""What a handler emits and the history keeps."""

Item = WholeItem | TextDelta
"""What a handler emits."""

ITEM_TYPES: Final[dict[type[Item], str]] = {
    Message: "message",
    TextDelta: "text_delta",
    FunctionCall: "function_call",
    FunctionCallOutput: "function_call_output",
    AgentHandoff: "agent_handoff",
}
"""The type of each item's event, and the name of the event's field that holds it."""


class Accepted(msgspec.Struct, frozen=True):
    agent: str
    accepted_at: str


class Restarted(msgspec.Struct, frozen=True):
    """Drop what came between ``accepted`` and here: the message runs again."""

    reason: str


class CommittedState(msgspec.Struct, frozen=True):
    version: int


class TurnReport(msgspec.Struct, frozen=True):
    """What a turn cost. Bytes are encoded state only; times are milliseconds."""

    start: Start | None = None
    worker_id: str | None = None
    attempts: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    changed_rows: dict[str, tuple[int, int, int]] = {}
    handler_ms: float = 0.0
    total_ms: float = 0.0


class ErrorBody(msgspec.Struct, frozen=True):
    code: str
    message: str
    hint: str = ""
    retryable: bool = False
    details: dict[str, Any] = {}


class Complete(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last event: the committed version, or the error that ended the turn."""

    turn: TurnReport
    session_state: CommittedState | None = None
    error: ErrorBody | None = None


class TurnEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event of a message's stream, and one JSON object a line of it.

    ``seq`` rises over the whole message, across attempts, and is the cursor. The
    field named like ``type`` holds the content; the others are ``None``.
    """

    seq: int
    attempt: int
    type: str
    session_id: str
    message_id: str
    accepted: Accepted | None = None
    message: Message | None = None
    text_delta: TextDelta | None = None
    function_call: FunctionCall | None = None
    function_call_output: FunctionCallOutput | None = None
    agent_handoff: AgentHandoff | None = None
    restarted: Restarted | None = None
    complete: Complete | None = None


SEQ_PER_START: Final = 2**20
"""The cursor of the i-th event of the k-th start is ``k * 2**20 + i``."""


def rfc3339(at_ms: int) -> str:
    """Return a time as RFC 3339 UTC with milliseconds: ``2026-01-31T09:30:00.125Z``."""
    return f"{_rfc3339_second(at_ms // 1000)}.{at_ms % 1000:03d}Z"


@functools.lru_cache(maxsize=1024)
def _rfc3339_second(at_s: int) -> str:
    """Return a second without its zone; most are asked for many times."""
    return dt.datetime.fromtimestamp(at_s, dt.UTC).isoformat()[:19]


def canonical_json(value: object) -> bytes:
    """Return *value* as JSON with sorted keys, no blanks and no escapes beyond JSON's own."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def request_digest(*, text: str, metadata: Mapping[str, Any] | None, agent: str) -> bytes:
    """Return the digest (32 bytes) that tells a repeated message from a reused ID."""
    return hashlib.sha256(
        canonical_json({"agent": agent, "content": None, "metadata": metadata, "text": text})
    ).digest()


def first_state_id(key: SessionKey) -> StateId:
    """Return the state ID of the empty session: the start of its chain (16 bytes)."""
    return StateId(hashlib.sha256(f"satchel\0{key.tenant}\0{key.session_id}".encode()).digest()[:16])


def next_state_id(base: StateId, version: Version, kind: PayloadKind, raw: bytes) -> StateId:
    """Return the state ID (16 bytes) of *version*, made from *base* by the decoded payload *raw*.

    SHA-256 over base, version (8 bytes, big endian), kind (its name) and payload:
    two attempts' "version n" differ in it, and a missing or reordered delta shows.
    """
    return next_state_id_of_pieces(base, version, kind, (raw,))


def next_state_id_of_pieces(
    base: StateId, version: Version, kind: PayloadKind, pieces: Iterable[bytes | memoryview]
) -> StateId:
    """Return ``next_state_id`` of a payload that comes in pieces, which are not kept."""
    digest = hashlib.sha256(base + version.to_bytes(8, "big") + kind.value.encode())
    for piece in pieces:
        digest.update(piece)
    return StateId(digest.digest()[:16])
