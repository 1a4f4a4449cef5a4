"""The recorder: a session's database, open at a version, one turn at a time.

A turn is ``begin``, the handler's work on ``state`` and ``history``, ``finish``,
and then ``commit`` or ``rollback``. It is one transaction, opened and ended here.
After ``finish`` it stays open: inside it is the pending version, outside the base.

SQLite's session extension records what a handler's statements change. Satchel's own
rows nothing else may write: their changes are known, and a turn without a statement
needs no recorder.
"""

from collections.abc import Iterator, Sequence

import apsw
import msgspec

from satchel import limits
from satchel.errors import CorruptPayload, CorruptState, SchemaRefused, StateMisused
from satchel.model import (
    EMPTY,
    Epoch,
    Link,
    MessageId,
    PayloadKind,
    SchemaName,
    SessionId,
    StateName,
    Version,
    next_state_id,
)
from satchel.state import tables
from satchel.state.changeset import Value, updated
from satchel.state.database import Database, empty_database
from satchel.state.delta import TURN_HEADER, Changes, Counts, apply_deltas, changes, check_delta
from satchel.state.digest import digest
from satchel.state.history import History
from satchel.state.image import opened_snapshot
from satchel.state.payload import unseal
from satchel.state.schema import Facts, Schema, create_own_tables, lint, survey
from satchel.state.values import State

__all__ = ["OpenSession", "Recorded"]

_INSERT_TURN = f"INSERT INTO {tables.TURN} VALUES (1, ?, 0, 0, x'', ?)"
_UPDATE_TURN = f"UPDATE {tables.TURN} SET version = ?, epoch = ?, base_state_id = ?, schema_number = ? WHERE id = 1"
_READ_TURN = f"SELECT * FROM {tables.TURN}"


class Recorded(msgspec.Struct, frozen=True):
    """A finished turn: its payload, and what it did."""

    kind: PayloadKind
    raw: bytes
    changed_rows: Counts
    """Without Satchel's own tables; a full-text or R-Tree table counts as itself."""
    digest: bytes | None
    schema: SchemaName
    state_bytes: int
    reasons: tuple[str, ...]
    """Why it is a snapshot; empty for a delta."""


class _Turn:
    """What is open between ``begin`` and ``commit`` or ``rollback``."""

    def __init__(self, database: Database, *, version: Version, epoch: Epoch, number: int, history: History) -> None:
        self.version = version
        self.epoch = epoch
        self.number = number
        """The schema number that the turn leaves."""
        self.state = State(database)
        self.history = history
        self.recorder: apsw.Session | None = None
        """None: no statement has run that is not Satchel's."""
        self.has_seen_mark = False
        """Whether the recorder, if there is one, lived to the end: it was shown the mark."""
        self.is_closed = False
        """Whether a handler may use it no more."""
        self.state_bytes = 0
        """0 until it is finished."""
        self.own_changes = b""
        """What the turn changed of Satchel's own rows, but for the mark, once it is finished."""
        self.sequences: dict[str, int] = {}
        self.row: tuple[Value, ...] = ()
        """The mark that the turn leaves, once it is finished."""
        self.reasons: list[str] = []
        self.facts: Facts | None = None
        """Of the schema that the turn leaves, when it changed it."""

    def is_recorded(self, table: str) -> bool:
        """Whether the recorder, which asks at each change of a table that it does not record, is to record this one."""
        if table == tables.TURN:
            self.has_seen_mark = True
        return table not in tables.STATEMENTS

    def close_to_handler(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.state.close()
            self.history.close()

    def close(self) -> None:
        self.close_to_handler()
        if self.recorder is not None:
            self.recorder.close()
            self.recorder = None


class OpenSession:
    """A session's database where it is open. Not to be used from two threads at once.

    When a method raises anything but ``StateMisused``, ``StateTooLarge`` or
    ``SchemaRefused``, or ``is_broken`` is true, drop the copy (``close``).
    """

    def __init__(
        self, session_id: SessionId, database: Database, *, name: StateName, number: int, facts: Facts
    ) -> None:
        self.session_id = session_id
        self._is_broken = False
        self._database = database
        self._name = name
        self._pending: StateName | None = None
        self._number = number
        self._facts = facts
        self._schema_version = database.schema_version
        self._state_bytes = database.size
        self._row = _turn_row(database)
        self._history_length: int | None = None
        """Items as committed; None: not counted yet."""
        self._turn: _Turn | None = None
        database.before_statements = self._record
        database.before_savepoint = self._flush
        database.after_rollback = self._rolled_back_to_savepoint
        database.set_quiet(quiet=False)

    # --- opening -----------------------------------------------------------------------------

    @classmethod
    def empty(cls, session_id: SessionId, schema: Schema, *, name: StateName) -> "OpenSession":
        """Return the empty session, version 0: our tables and the declared ones.

        Raises ``SchemaRefused``.
        """
        assert name.version == EMPTY, "the empty session is version 0"
        database = empty_database()
        try:
            create_own_tables(database)
            database.run(_INSERT_TURN, (session_id, schema.number))
            schema.migrate(database, after=0)
            return cls(session_id, database, name=name, number=schema.number, facts=survey(database))
        except BaseException:
            database.close()
            raise

    @classmethod
    def from_chain(
        cls, session_id: SessionId, links: Sequence[Link], *, base: StateName, schema: SchemaName, digest: bytes | None
    ) -> "OpenSession":
        """Return the session at *base*, from a snapshot and the deltas behind it (a cold start).

        The snapshot's own name starts the chain; every later state ID is computed
        anew. Raises ``CorruptPayload``, ``CorruptState`` and ``ApplyConflict`` for
        what is not what it claims to be; nothing is left open then.
        """
        if not links or links[0].payload.kind is not PayloadKind.SNAPSHOT:
            raise CorruptPayload("A cold start does not begin with a snapshot.")
        database = opened_snapshot(links[0].payload)
        try:
            facts = survey(database)
            start = links[0].name
            _check_turn_row(database, session_id=session_id, version=start.version, number=schema.number)
            _check_fingerprint(facts, schema)
            _apply_chain(database, links[1:], facts, session_id=session_id, start=start, base=base)
            _check_digest(database, digest)
            _forget_what_changed(database, facts, links[1:])
            return cls(session_id, database, name=base, number=schema.number, facts=facts)
        except (apsw.Error, ValueError) as error:  # sound pages; names that are not UTF-8, or not those of their tables
            database.close()
            raise CorruptState(f"A state cannot be read: {error}") from error
        except BaseException:
            database.close()
            raise

    def catch_up(self, links: Sequence[Link], *, base: StateName, schema: SchemaName, digest: bytes | None) -> None:
        """Bring the copy to *base* by the deltas after its version, in one transaction.

        Raises ``CorruptPayload``, ``CorruptState`` and ``ApplyConflict``: drop the copy then.
        """
        assert self._turn is None, "a turn is open"
        self._database.set_quiet(quiet=True)
        try:
            _check_fingerprint(self._facts, schema)
            _apply_chain(self._database, links, self._facts, session_id=self.session_id, start=self._name, base=base)
            _check_digest(self._database, digest)
            _forget_what_changed(self._database, self._facts, links)
            self._state_bytes = self._database.size
            self._row = _turn_row(self._database)
            self._history_length = None
        except BaseException:
            self._is_broken = True
            raise
        self._database.set_quiet(quiet=False)
        self._name = base

    # --- what it is --------------------------------------------------------------------------

    @property
    def name(self) -> StateName:
        """The committed state."""
        return self._name

    @property
    def pending(self) -> StateName | None:
        """The finished turn's state, when it has been named and not yet committed."""
        return self._pending

    @property
    def is_broken(self) -> bool:
        """Whether the copy is no state that has a name, or its transaction ended behind our back: close it."""
        return self._is_broken or self._database.is_lost

    @property
    def must_be_whole(self) -> bool:
        """Whether it is known before ``finish`` that the open turn's payload is a snapshot."""
        return bool(self._open_turn.reasons or self._database.authorizer.structural or self._facts.findings)

    @property
    def schema(self) -> SchemaName:
        """The session's own schema, as committed."""
        return SchemaName(self._number, self._facts.fingerprint)

    @property
    def state_bytes(self) -> int:
        """Bytes of the database, pages x page size, with what is pending."""
        turn = self._turn
        return self._state_bytes if turn is None else turn.state_bytes or self._database.size

    @property
    def state(self) -> State:
        """What the handler sees of the rows, from ``begin`` to ``finish``."""
        return self._open_turn.state

    @property
    def history(self) -> History:
        """What the handler sees of the conversation, from ``begin`` to ``finish``."""
        return self._open_turn.history

    @property
    def _open_turn(self) -> _Turn:
        assert self._turn is not None, "no turn is open"
        return self._turn

    # --- a turn ------------------------------------------------------------------------------

    def begin(self, *, version: Version, epoch: Epoch, message_id: MessageId, schema: Schema) -> None:
        """Open the transaction of the turn that makes *version*, and run the migrations it needs.

        Raises ``SchemaRefused`` if the session's schema is newer than *schema*, or a
        migration fails on these rows; ``StateTooLarge``. Nothing is left open then.
        """
        assert self._turn is None, "a turn is open"
        assert not self.is_broken, "a broken copy runs no turn"
        assert version == self._name.version + 1, "a turn makes the next version"
        if schema.number < self._number:
            raise SchemaRefused(
                f"The session has schema number {self._number}; this agent knows {schema.number}.",
                hint="Run the newer build of the agent.",
            )
        self._database.begin()
        history = History(self._database, message_id, length=self._history_length)
        turn = _Turn(self._database, version=version, epoch=epoch, number=schema.number, history=history)
        self._turn = turn
        try:
            self._prepare(turn, schema)
        except BaseException:
            self.rollback()
            raise

    def _prepare(self, turn: _Turn, schema: Schema) -> None:
        database = self._database
        if database.authorizer.structural:
            # A kept statement that was marked is marked again when it is prepared again.
            database.expire_statements()
            database.authorizer.structural.clear()
        if self._name.version == EMPTY:
            turn.reasons.append("the first version")
        if schema.number > self._number:
            turn.reasons.append(f"migrated to schema number {schema.number}")
            self._record()
            schema.migrate(database, after=self._number)

    def _record(self) -> None:
        """Record from here to the end of the turn: a statement comes that may change any row."""
        turn = self._open_turn
        if turn.recorder is None:
            turn.sequences = self._sequences()
            turn.recorder = apsw.Session(self._database.connection, "main")
            turn.recorder.table_filter(turn.is_recorded)
            turn.recorder.attach()

    def _flush(self) -> None:
        self._open_turn.state.flush()

    def _rolled_back_to_savepoint(self) -> None:
        turn = self._open_turn
        turn.state.forget()
        turn.history.restore()

    def finish(self, *, wants_digest: bool, wants_snapshot: bool) -> Recorded:
        """End the handler's part and return the turn's payload; the transaction stays open.

        Name the result with ``set_pending``, then ``commit`` or ``rollback``. On
        ``StateMisused`` (a value that is not JSON, a foreign key left broken, a
        transaction lost: then ``is_broken`` is true) and ``StateTooLarge``: ``rollback``.
        """
        turn = self._open_turn
        try:
            self._complete(turn)
            return self._recorded(turn, wants_digest=wants_digest, wants_snapshot=wants_snapshot)
        finally:
            turn.close()

    def _complete(self, turn: _Turn) -> None:
        """Write what the turn leaves, the mark last."""
        database = self._database
        with database.lock:  # a tool's thread may outlive its handler: nothing of it comes after what is recorded
            database.check_transaction()
            turn.state.flush()
            turn.own_changes = turn.history.changes() + turn.state.changes()
            turn.close_to_handler()
        if turn.recorder is not None:
            self._check_statements(turn)
        turn.row = (1, self.session_id, turn.version, turn.epoch, self._name.state_id, turn.number)
        database.run_kept(_UPDATE_TURN, turn.row[2:])
        if turn.recorder is not None and database.schema_version != self._schema_version:
            turn.reasons.append("the schema's version changed")
        if turn.reasons:
            turn.facts = self._surveyed()

    def _check_statements(self, turn: _Turn) -> None:
        """See to what a handler's statements may have left, before the mark."""
        database = self._database
        if database.connection.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0]:
            raise StateMisused("A deferred foreign key is broken at the end of the turn.")
        turn.reasons += sorted(database.authorizer.structural)
        if not turn.history.is_whole():
            turn.reasons.append("the history is not what was appended")
        if self._facts.virtual or turn.reasons:
            # Full-text tables keep writes in memory until a savepoint or the commit.
            database.run("SAVEPOINT satchel")
            database.run("RELEASE satchel")

    def _surveyed(self) -> Facts:
        for finding in lint(self._database.connection):
            if tables.is_ours(finding.table):
                raise StateMisused(str(finding))
        return survey(self._database)

    def _recorded(self, turn: _Turn, *, wants_digest: bool, wants_snapshot: bool) -> Recorded:
        facts = turn.facts or self._facts
        state_bytes = turn.state_bytes = self._database.size
        raw, seen, reasons = self._changeset(turn, facts)
        if raw is not None and not reasons:
            reasons = self._reasons_to_resync(turn, facts, raw, seen, state_bytes, wants_snapshot=wants_snapshot)
        kind = PayloadKind.SNAPSHOT if raw is None or reasons else PayloadKind.DELTA
        return Recorded(
            kind=kind,
            raw=raw if kind is PayloadKind.DELTA and raw is not None else self._database.image(),
            changed_rows=_changed_rows(seen, facts),
            digest=digest(self._database) if wants_digest else None,
            schema=SchemaName(turn.number, facts.fingerprint),
            state_bytes=state_bytes,
            reasons=tuple(reasons),
        )

    def _changeset(self, turn: _Turn, facts: Facts) -> tuple[bytes | None, Changes, list[str]]:
        """Return the changeset with what it changes, and why it must not be sent."""
        own = turn.own_changes + TURN_HEADER + updated(self._row, turn.row)
        if turn.recorder is None:
            return own, Changes({}, {}, None), list(turn.reasons)
        try:
            raw = turn.recorder.changeset()
            return raw + own, changes(raw, facts.autoincrement), list(turn.reasons)
        except (apsw.Error, ValueError) as error:
            # Both say the same: the recorder could not follow the schema.
            return None, Changes({}, {}, None), [*turn.reasons, f"no changeset: {error}"]

    def _reasons_to_resync(
        self, turn: _Turn, facts: Facts, raw: bytes, seen: Changes, state_bytes: int, *, wants_snapshot: bool
    ) -> list[str]:
        """Return why a changeset, although it is there, would not bring a copy of the base to this state."""
        reasons = [str(finding) for finding in facts.findings]
        if wants_snapshot:
            reasons.append("the hub asked")
        if len(raw) >= state_bytes:
            reasons.append("the delta is not smaller than the snapshot")
        return reasons if turn.recorder is None else reasons + self._reasons_of_statements(turn, seen)

    def _reasons_of_statements(self, turn: _Turn, seen: Changes) -> list[str]:
        """Return what the recorder has missed of a handler's statements."""
        reasons = []
        if self._expected_sequences(turn, seen) != self._sequences():
            reasons.append("sqlite_sequence is not what the changed rows imply")
        if not turn.has_seen_mark:
            reasons.append("the recorder did not see the end")
        return reasons

    def _sequences(self) -> dict[str, int]:
        if not self._facts.autoincrement:
            return {}
        return dict(self._database.run_kept("SELECT name, seq FROM main.sqlite_sequence"))

    def _expected_sequences(self, turn: _Turn, seen: Changes) -> dict[str, int]:
        """Return what a copy's ``sqlite_sequence`` will be after it applied the changes."""
        expected = dict(turn.sequences)
        for table, key in seen.largest_keys.items():
            expected[table] = max(expected.get(table, 0), key)
        return expected

    def pending_snapshot(self) -> bytes:
        """Return the image of the pending version."""
        assert self._turn is not None, "nothing is pending"
        return self._database.image()

    def set_pending(self, name: StateName) -> None:
        """Name the finished turn's state."""
        assert name.version == self._open_turn.version, "the pending state is the turn's"
        self._pending = name

    def commit(self) -> None:
        """Make the pending state the committed one."""
        turn = self._open_turn
        assert self._pending is not None, "nothing is pending"
        try:
            self._database.commit()
        except BaseException:
            self._is_broken = True
            raise
        self._name, self._pending, self._turn = self._pending, None, None
        self._row = turn.row
        self._history_length = None if turn.reasons else turn.history.known_length
        self._number = turn.number
        self._state_bytes = turn.state_bytes
        if turn.facts is not None:
            self._facts = turn.facts
            self._schema_version = self._database.schema_version

    def rollback(self) -> None:
        """Undo the open turn, finished or not: the copy is exactly the committed state again. Idempotent."""
        if self._turn is not None:
            self._turn.close()
            self._turn, self._pending = None, None
            self._database.rollback()

    def compact(self) -> tuple[bytes, bytes]:
        """Return the vacuumed image of the committed state, and its digest.

        The rows are read before and after: raises ``CorruptState`` if VACUUM changed them.
        """
        assert self._turn is None, "a turn is open"
        before = digest(self._database)
        image = self._database.vacuumed()
        self._state_bytes = self._database.size
        if digest(self._database) != before:
            raise CorruptState("VACUUM changed the rows of a state.")
        return image, before

    def close(self) -> None:
        """Close the copy; an open turn is gone. Idempotent."""
        if self._turn is not None:
            self._turn.close()
            self._turn, self._pending = None, None
        self._database.close()


def _changed_rows(seen: Changes, facts: Facts) -> Counts:
    shown: Counts = {}
    for table, (inserted, changed, deleted) in seen.counts.items():
        name = _shown_name(table, facts)
        if name is not None:
            shown[name] = (inserted, changed, deleted)
    return shown


def _shown_name(table: str, facts: Facts) -> str | None:
    """Return the name a user knows a table by; None if it is not theirs."""
    if tables.is_ours(table):
        return None
    owner, _, suffix = table.rpartition("_")
    while owner:
        if owner in facts.virtual:
            # FTS keeps one row a document in _content, R-Tree one an entry in _rowid.
            return owner if suffix in {"content", "rowid"} else None
        owner, _, suffix = owner.rpartition("_")
    return table


def _check_turn_row(database: Database, *, session_id: str, version: Version, number: int) -> None:
    rows = [(row[1], row[2], row[5]) for row in database.run(_READ_TURN)]
    if rows != [(session_id, version, number)]:
        raise CorruptState(
            f"A snapshot says it is {rows}, not session {session_id} at version {version} with schema {number}.",
            version=version,
        )


def _turn_row(database: Database) -> tuple[Value, ...]:
    (row,) = database.run(_READ_TURN)
    return row


def _check_fingerprint(facts: Facts, schema: SchemaName) -> None:
    if facts.fingerprint != schema.fingerprint:
        raise CorruptState("The tables of a state are not those of its schema's fingerprint.")


def _check_digest(database: Database, expected: bytes | None) -> None:
    if expected is not None and digest(database) != expected:
        raise CorruptState("The rows of a state do not have its digest.")


def _apply_chain(
    database: Database, links: Sequence[Link], facts: Facts, *, session_id: str, start: StateName, base: StateName
) -> None:
    """Apply deltas to a quiet database at *start* in one transaction; the last must be *base*."""
    if (links[-1].name if links else start) != base:
        raise CorruptPayload(f"A chain does not end at version {base.version}, which it is for.")
    database.begin()
    try:
        with database.trusted():
            apply_deltas(database, _checked_deltas(links, facts, session_id=session_id, start=start), facts)
        database.commit()
    except BaseException:
        database.rollback()
        raise


def _checked_deltas(
    links: Sequence[Link], facts: Facts, *, session_id: str, start: StateName
) -> Iterator[tuple[Version, bytes]]:
    """Yield each delta's version and bytes, once it is sure that it was made on the one before."""
    here = start
    for link in links:
        raw = _checked_delta(link, here)
        check_delta(raw, facts.shapes, session_id=session_id, version=link.name.version, base=here)
        yield link.name.version, raw
        here = link.name


def _checked_delta(link: Link, base: StateName) -> bytes:
    """Return a delta's bytes, if they make *link.name* from *base*."""
    if link.payload.kind is not PayloadKind.DELTA:
        raise CorruptPayload("A snapshot stands in the middle of a chain.")
    raw = unseal(link.payload, raw_size_max=limits.STATE_BYTES_MAX)
    version = Version(base.version + 1)
    if link.name != StateName(version, next_state_id(base.state_id, version, PayloadKind.DELTA, raw)):
        raise CorruptPayload(f"The delta of version {version} does not have its state ID.", version=version)
    return raw


def _forget_what_changed(database: Database, facts: Facts, links: Sequence[Link]) -> None:
    """Have full-text tables, which remember pages, read again what was applied beneath them."""
    if links and facts.virtual:
        database.forget_schema()
