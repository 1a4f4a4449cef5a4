"""The frames of a worker link, one struct each; field names equal the wire.

A frame is a value. ``codec`` turns it into bytes and back, ``link`` says who may
send which when. ``request``, ``event``, ``complete`` and ``error`` travel inside
LiveKit's ``TextMessageRequest`` and ``TextMessageResponse``; the rest is ours.

An attempt is named by (session_id, message_id, epoch).
"""

import enum
from collections.abc import Sequence

import msgspec

from satchel.model import (
    AgentSpec,
    Epoch,
    Link,
    MessageId,
    Payload,
    SchemaName,
    SessionId,
    StateName,
    WholeItem,
    WorkerId,
)

PROTOCOL_VERSION = 1


class AttemptName(msgspec.Struct, frozen=True, gc=False):  # of texts and a number: no part of a cycle
    session_id: SessionId
    message_id: MessageId
    epoch: Epoch


# --- worker -> hub ----------------------------------------------------------------------------


class HeldState(msgspec.Struct, frozen=True):
    """A committed state that a worker holds open, and its raw bytes."""

    session_id: SessionId
    name: StateName
    state_bytes: int


class Register(msgspec.Struct, frozen=True):
    """A worker's first frame. ``worker_id`` is stable for the life of its process.

    ``attempts`` are those it runs or has finished without ``committed``; the hub
    answers each in ``Registered.adopted`` or with ``Cancel``.
    """

    worker_id: WorkerId
    protocol_version: int
    build: str
    slots: int
    agents: tuple[AgentSpec, ...]
    held: tuple[HeldState, ...] = ()
    attempts: tuple[AttemptName, ...] = ()
    features: tuple[str, ...] = ()


class Event(msgspec.Struct, frozen=True):
    """The ``index``-th event (from 1) of an attempt. A piece of text travels in ``Pieces``."""

    attempt: AttemptName
    index: int
    item: WholeItem


class Pieces(msgspec.Struct, frozen=True, gc=False):  # a stream keeps thousands, which the collector need not visit
    """The events of an attempt from the ``index``-th on: the next pieces of message ``item_id``, one at least."""

    attempt: AttemptName
    index: int
    item_id: str
    texts: tuple[str, ...]


class Result(msgspec.Struct, frozen=True):
    """An attempt is done: version ``name``, made from ``base`` by ``payload``. It is pending until ``Committed``."""

    attempt: AttemptName
    name: StateName
    base: StateName
    payload: Payload
    schema: SchemaName | None
    """What the turn left; None: the request's."""
    state_bytes: int
    """Raw bytes of the database."""
    digest: bytes | None
    changed_rows: dict[str, tuple[int, int, int]]
    handler_ms: float
    events: int
    """How many events the attempt sent."""


class FailureCode(enum.IntEnum):
    """Why an attempt gave no result. 0 to 3 are LiveKit's."""

    INTERNAL_ERROR = 0
    SESSION_STATE_NOT_FOUND = 1
    """The hub sends what is missing, once."""
    TEXT_HANDLER_ERROR = 2
    PROCESS_CLOSED = 3
    """The worker gave the attempt up: as if it was lost."""
    TURN_REFUSED = 16
    STATE_TOO_LARGE = 17
    CANCELLED = 18
    """The attempt stopped because it was told to; nobody waits for it."""


class Failure(msgspec.Struct, frozen=True):
    """An attempt ended without a result and left no trace in the worker's copy."""

    attempt: AttemptName
    code: FailureCode
    message: str = ""
    """For the caller: the refusal's text, or the class of a handler's exception, never its text."""
    held: StateName | None = None
    """With SESSION_STATE_NOT_FOUND: what the worker does hold."""
    handler_ms: float = 0.0


class Released(msgspec.Struct, frozen=True):
    """The worker dropped its copy of an idle session."""

    session_id: SessionId


# --- hub -> worker ----------------------------------------------------------------------------


class Registered(msgspec.Struct, frozen=True):
    """The hub takes the worker. It sends the ``adopted`` attempts' events again, from the first."""

    tenant: str
    ping_interval_s: float
    adopted: tuple[AttemptName, ...] = ()


class Refused(msgspec.Struct, frozen=True):
    """The hub does not take the worker, says why, and closes."""

    code: str
    message: str
    hint: str = ""


class Request(msgspec.Struct, frozen=True):
    """Run a turn on the state ``base``, obtained by ``chain``.

    ========================  ===========================================================
    ``chain`` empty           warm: the worker holds exactly ``base`` (version 0: makes it)
    first is a delta          catch-up: the worker holds the version before the first
    first is a snapshot       cold start: the snapshot, then the deltas behind it
    ========================  ===========================================================
    """

    attempt: AttemptName
    start_number: int
    """The k of the cursor."""
    attempt_number: int
    """Starts since the message was last sent: what a handler sees as ``turn.attempt``."""
    agent: str
    text: str
    metadata: str
    """JSON text; empty: none."""
    accepted_at_ms: int
    base: StateName
    chain: tuple[Link, ...]
    schema: SchemaName | None
    """Of the state at ``base``; None for the empty session."""
    digest: bytes | None
    """Of the rows at ``base``, if known: checked after a cold start."""
    wants_digest: bool
    wants_snapshot: bool
    delta_bytes_max: int
    """A larger encoded delta is sent as a snapshot."""


class Committed(msgspec.Struct, frozen=True):
    """The attempt's result is durable: commit what is pending, forget its events."""

    attempt: AttemptName


class Cancel(msgspec.Struct, frozen=True):
    """Stop the attempt if it runs, and roll back what is pending of it."""

    attempt: AttemptName
    reason: str = ""


class NeedSnapshot(msgspec.Struct, frozen=True):
    """Send the pending result of this attempt again, as a snapshot."""

    attempt: AttemptName


class Release(msgspec.Struct, frozen=True):
    """Drop the copy of a session, if it is idle."""

    session_id: SessionId


# --- both ways --------------------------------------------------------------------------------


class Ping(msgspec.Struct, frozen=True):
    number: int


class Pong(msgspec.Struct, frozen=True):
    number: int


class Announced(msgspec.Struct, frozen=True):
    """A frame whose payloads' data follows in chunks of *transfer*; until then the payloads are empty.

    Links make them and put the whole frame together again: nobody else sees one.
    """

    frame: Request | Result
    transfer: int
    sizes: tuple[int, ...]
    """Bytes of each payload's data, in the frame's order."""


class Chunk(msgspec.Struct, frozen=True):
    """The next bytes of a transfer: the payloads' data, one behind the other."""

    transfer: int
    data: bytes


class Credit(msgspec.Struct, frozen=True):
    """The peer may send this many bytes of chunks more."""

    size: int


Carried = Announced | Chunk | Credit
"""How large payloads share a link: ``chunks``."""

WorkerFrame = Register | Event | Pieces | Result | Failure | Released | Ping | Pong
HubFrame = Registered | Refused | Request | Committed | Cancel | NeedSnapshot | Release | Ping | Pong
Frame = WorkerFrame | HubFrame | Carried


def session_of(frame: Frame) -> SessionId | None:
    """Return the session that a frame speaks of; None if it is the link's own."""
    match frame:
        case Event() | Pieces() | Result() | Failure() | Request() | Committed() | Cancel() | NeedSnapshot():
            return frame.attempt.session_id
        case Released() | Release():
            return frame.session_id
        case _:
            return None


def payloads_of(frame: Frame) -> tuple[Payload, ...]:
    """Return the payloads that a frame brings, in order."""
    match frame:
        case Request():
            return tuple(link.payload for link in frame.chain)
        case Result():
            return (frame.payload,)
        case _:
            return ()


def with_data(frame: Request | Result, data: Sequence[bytes]) -> Request | Result:
    """Return *frame* with other data in its payloads, one for each."""
    payloads = [
        msgspec.structs.replace(payload, data=each) for payload, each in zip(payloads_of(frame), data, strict=True)
    ]
    if isinstance(frame, Result):
        return msgspec.structs.replace(frame, payload=payloads[0])
    chain = tuple(Link(link.name, payload) for link, payload in zip(frame.chain, payloads, strict=True))
    return msgspec.structs.replace(frame, chain=chain)
