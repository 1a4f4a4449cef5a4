"""The store's two contracts: the fenced Log and the Objects.

The Log holds small rows and moves in single transactions: sessions, turns, the
chain of versions. Objects are immutable bytes named by session and content hash,
written in pieces before the commit that names them. Every method is atomic and
durable when it returns. ``satchel.testing.conformance`` holds the clauses as tests.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import msgspec

from satchel.model import (
    AgentSpec,
    Epoch,
    ErrorBody,
    MessageId,
    OnBusy,
    Payload,
    PayloadKind,
    SchemaName,
    SessionId,
    SessionKey,
    StateName,
    Tenant,
    TurnStatus,
    Version,
)


class NewTurn(msgspec.Struct, frozen=True):
    """A message to admit. ``agent`` is None when the caller left it out."""

    key: SessionKey
    message_id: MessageId
    agent: str | None
    text: str
    metadata: dict[str, Any] | None
    on_busy: OnBusy | None
    """None: the agent's own."""
    accepted_at_ms: int


class Session(msgspec.Struct, frozen=True):
    """A session's row. ``head`` 0 is the empty session, whose state ID is the first of its chain."""

    key: SessionKey
    agent: str
    epoch: Epoch
    head: StateName
    schema: SchemaName | None
    """None before the first commit."""
    state_bytes: int
    """Raw bytes of the database at the head."""
    chain_bytes: int
    """Encoded bytes of the newest snapshot and the deltas after it."""
    chain_deltas: int
    """Deltas after the newest snapshot."""
    snapshot_version: Version
    """Where the newest snapshot stands; 0 before the first commit."""
    digest: bytes | None
    """Of the head's rows, when its worker was asked for one."""
    waiting: int
    """Queued turns."""
    running_message_id: MessageId | None
    metadata: dict[str, Any] | None
    """Its first message's."""
    created_at_ms: int
    updated_at_ms: int
    snapshot_bytes: int = 0
    """Encoded bytes of the newest snapshot: the part of ``chain_bytes`` that compaction weighs the rest against."""


class Turn(msgspec.Struct, frozen=True):
    """A turn's row. ``place`` is its position in the session's order, given by the store."""

    key: SessionKey
    message_id: MessageId
    place: int
    agent: str
    text: str
    metadata: dict[str, Any] | None
    status: TurnStatus
    starts: int
    """Starts over the message's whole life: the k of the cursor."""
    starts_before: int
    """Starts before the message was last sent: max_attempts counts from here."""
    epoch: Epoch | None
    """Of the running attempt; None otherwise."""
    version: Version | None
    answer: str | None
    """The committed answer; None before the commit and when it is no longer kept."""
    error: ErrorBody | None
    worker_deadline_ms: int | None
    """Until when the turn, first in order, waits for a worker; None: not yet first."""
    accepted_at_ms: int
    finished_at_ms: int | None


class Admission(msgspec.Struct, frozen=True):
    """What became of a message on arrival."""

    turn: Turn
    session: Session
    is_repeat: bool
    """The message was known and this call changed nothing: replay it or join it."""

    @property
    def is_started(self) -> bool:
        """This call started the turn, too: the row has its epoch, the session the base."""
        return self.turn.status is TurnStatus.RUNNING and not self.is_repeat


class Started(msgspec.Struct, frozen=True):
    turn: Turn
    session: Session
    """With the raised epoch; its head and state ID are what the attempt starts from."""


class ObjectName(msgspec.Struct, frozen=True):
    """An immutable object: SHA-256 of its bytes, within a session."""

    key: SessionKey
    content_hash: bytes
    size: int


class StoredPayload(msgspec.Struct, frozen=True):
    """A payload at rest: its envelope, and its bytes inline or as an object."""

    payload: Payload
    """``data`` is empty when ``object`` names the bytes."""
    object: ObjectName | None = None

    @property
    def size(self) -> int:
        """Encoded bytes."""
        return self.object.size if self.object is not None else self.payload.size


class StoredEvents(msgspec.Struct, frozen=True):
    """A turn's events as JSON lines, inline or as an object."""

    lines: bytes
    object: ObjectName | None = None


class Commit(msgspec.Struct, frozen=True):
    """All that one committed turn writes, compared with (base, epoch) first."""

    key: SessionKey
    message_id: MessageId
    epoch: Epoch
    base: StateName
    name: StateName
    payload: StoredPayload
    schema: SchemaName
    state_bytes: int
    digest: bytes | None
    answer: str
    events: StoredEvents
    finished_at_ms: int
    raw: bytes | None = None
    """What the payload holds, if whoever commits has it open: a backend that wants it need not open it again."""


class ChainLink(msgspec.Struct, frozen=True):
    """One stored link of a chain."""

    name: StateName
    stored: StoredPayload
    digest: bytes | None
    schema: SchemaName


class VersionRow(msgspec.Struct, frozen=True):
    """One retained version, without its bytes."""

    name: StateName
    kind: PayloadKind
    size: int
    raw_size: int
    message_id: MessageId
    digest: bytes | None
    schema: SchemaName
    committed_at_ms: int


class PublishedSnapshot(msgspec.Struct, frozen=True):
    """A snapshot that compaction made of a committed version."""

    key: SessionKey
    name: StateName
    payload: StoredPayload
    digest: bytes


class Log(Protocol):
    """Small rows, fenced, one transaction a call.

    Order: calls of one hub on one session take effect in the order in which they
    were made. Errors: ``Fenced`` changed nothing; ``StoreUnavailable`` leaves the
    outcome unknown: read it back by message ID, never guess.
    """

    async def register_agent(self, tenant: Tenant, spec: AgentSpec) -> None:
        """Remember an agent and the fingerprint of its schema number. Repeating it changes nothing.

        Raises ``SchemaRefused`` if that number is known with another fingerprint:
        the schema was changed without a migration.
        """

    async def agents(self, tenant: Tenant) -> Sequence[AgentSpec]:
        """Return every agent ever registered, by name, as last registered."""

    async def admit(
        self,
        turn: NewTurn,
        *,
        queue_length_max: int,
        start: bool = False,
        skip: int = 0,
        decided: Callable[["Admission"], None] | None = None,
    ) -> Admission:
        """Place a new message in its session's order, creating the session; or find the known one.

        The decision is ``satchel.store.admission.admit``. A repeat of a committed,
        cancelled, queued or running message changes nothing. A failed one becomes
        queued again, last in order, with ``starts_before = starts``, both one more if it
        never started since it was last sent: its end has that start's numbers. With *start*, what
        this call placed first in order is started in the same transaction, as ``start``
        does with *skip*; anything else waits as without it.

        A store that knows the outcome before it is durable calls *decided* with it then,
        on the caller's loop; another store never does. Nobody outside may hear of it yet,
        and it may still come to nothing.

        Raises ``AgentNotFound``, ``AgentMismatch``, ``InvalidRequest`` (no agent named
        and not exactly one known), ``MessageIdReused``, ``SessionBusy``, ``QueueFull``.
        """

    async def start(self, key: SessionKey, message_id: MessageId, *, skip: int = 0) -> Started:
        """Make the first queued turn of an idle session running: epoch + 1 + *skip*, starts + 1.

        *skip* leaves out epochs that an attempt may have whose start was never durable.

        Raises ``Fenced`` if the turn is not queued, not first, or another one runs.
        """

    async def requeue(self, key: SessionKey, message_id: MessageId, epoch: Epoch) -> Turn:
        """Make the running attempt *epoch* queued again, at its place. Raises ``Fenced``."""

    async def wait_for_worker(self, key: SessionKey, message_id: MessageId, deadline_ms: int) -> Turn:
        """Set a queued turn's worker deadline unless it has one; return the turn as it stands."""

    async def commit(self, commit: Commit) -> Turn:
        """Write a version with its turn's answer and events, if (head, state ID, epoch) are its base.

        Objects it names must be there. A snapshot starts a new chain. Repeating a
        commit that was made returns the same turn. Raises ``Fenced``, and
        ``CorruptPayload`` for what could never be rebuilt: an object that is not
        there, a version that does not follow its base, a first one that is a delta.
        """

    async def fail(
        self, key: SessionKey, message_id: MessageId, error: ErrorBody, *, epoch: Epoch | None, now_ms: int
    ) -> Turn:
        """End a turn as failed, if it is queued (*epoch* None) or running under *epoch*.

        A running one raises the session's epoch. Raises ``Fenced``.
        """

    async def cancel(self, key: SessionKey, message_id: MessageId, *, now_ms: int) -> Turn:
        """End a queued or running turn as cancelled (running: epoch + 1); return it as it stands.

        A turn that is final already is returned unchanged. Raises ``MessageNotFound``.
        """

    async def turn(self, key: SessionKey, message_id: MessageId) -> Turn:
        """Raises ``SessionNotFound``, ``MessageNotFound``."""

    async def turns(self, key: SessionKey, *, limit: int, before: int | None) -> Sequence[Turn]:
        """Return the newest *limit* turns with ``place < before``, oldest first. Raises ``SessionNotFound``."""

    async def events(self, key: SessionKey, message_id: MessageId) -> StoredEvents | None:
        """Return a committed turn's events; None when they are no longer kept or never were."""

    async def session(self, key: SessionKey) -> Session:
        """Raises ``SessionNotFound``."""

    async def sessions(
        self, tenant: Tenant, *, agent: str | None, limit: int, after: SessionId | None
    ) -> Sequence[Session]:
        """Return up to *limit* sessions with an ID after *after*, by ID."""

    async def unfinished(self) -> Sequence[Turn]:
        """Return every queued or running turn of every tenant, by session and place."""

    async def chain(self, key: SessionKey, version: Version) -> Sequence[ChainLink]:
        """Return the snapshot nearest below or at *version* and the deltas after it up to *version*.

        Raises ``SessionNotFound``, ``VersionNotFound`` (beyond the head, or 0), ``VersionExpired``.
        """

    async def deltas(self, key: SessionKey, after: Version, upto: Version) -> Sequence[ChainLink] | None:
        """Return the deltas ``after+1..upto``, in order; None if one is not a delta or not kept."""

    async def versions(self, key: SessionKey, *, limit: int, before: Version | None) -> Sequence[VersionRow]:
        """Return the newest *limit* retained versions below *before*, oldest first."""

    async def publish(self, snapshot: PublishedSnapshot) -> bool:
        """Add a snapshot of a committed version; later deltas of the chain stand on it.

        False, and nothing changed, if the version is not kept any more or a snapshot
        at or after it exists. Raises ``Fenced`` if the version has another state ID
        or digest, ``CorruptPayload`` if it is no snapshot or its object is not there.
        """

    async def trim(self, key: SessionKey, *, retain_versions: int, retain_answers: int) -> None:
        """Delete what retention no longer keeps.

        That is whole chains of which no version is within *retain_versions* of the head,
        and all answers and events but those of the last *retain_answers* committed turns.

        What is needed to rebuild the head and the version before it always stays.
        """

    async def named_objects(self, key: SessionKey) -> frozenset[bytes]:
        """Return the content hashes that rows of this session name."""


class Objects(Protocol):
    """Immutable bytes by session and content hash, written in pieces of at most 1 MiB."""

    async def put(self, key: SessionKey, data: bytes) -> ObjectName:
        """Write an object; durable when it returns. A put of bytes already there touches them."""

    async def get(self, name: ObjectName) -> bytes:
        """Return an object's bytes, checked against its name. Raises ``CorruptPayload`` (also when it is gone)."""

    def sweepable(self, *, older_than_ms: int) -> AsyncIterator[ObjectName]:
        """Yield objects that no put touched since *older_than_ms*."""

    async def delete(self, name: ObjectName, *, older_than_ms: int) -> bool:
        """Delete an object unless a put touched it since *older_than_ms*."""


class Store(Protocol):
    """Both contracts over one place, opened by ``open_store``."""

    log: Log
    objects: Objects
    location: str
    """What a person would call it: the path or URL without secrets."""

    async def close(self) -> None:
        """Finish what was begun, and close. Idempotent."""
