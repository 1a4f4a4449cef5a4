"""The embedded store: a log file and an objects file, one process, one writer each.

``SqliteLog`` carries out in SQL what ``admission`` and ``fence`` decide. Writes run
in one thread and share transactions; reads run in another, on a connection of
their own, and see every write that has returned.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import apsw
import msgspec

from satchel.errors import (
    AgentMismatch,
    AgentNotFound,
    CorruptPayload,
    InvalidRequest,
    MessageNotFound,
    SchemaRefused,
    SessionNotFound,
    VersionExpired,
    VersionNotFound,
)
from satchel.limits import GROUP_COMMIT_MAX
from satchel.model import (
    AgentSpec,
    Epoch,
    ErrorBody,
    MessageId,
    PayloadKind,
    SessionId,
    SessionKey,
    Tenant,
    TurnStatus,
    Version,
    first_state_id,
    request_digest,
)
from satchel.store.admission import Arrival, Busy, Known, admit
from satchel.store.answers import standing_alone
from satchel.store.base import (
    Admission,
    ChainLink,
    Commit,
    Log,
    NewTurn,
    ObjectName,
    Objects,
    PublishedSnapshot,
    Session,
    Started,
    StoredEvents,
    Turn,
    VersionRow,
)
from satchel.store.fence import check_attempt, check_commit, check_snapshot, check_start
from satchel.store.files import StoreLock, connect_log, connect_reader
from satchel.store.rows import (
    Bindings,
    Row,
    agent_row,
    chain_link,
    error_text,
    events_bindings,
    events_row,
    json_text,
    key_bindings,
    payload_bindings,
    schema_bindings,
    session_row,
    turn_row,
    version_row,
)
from satchel.store.sqlite_objects import ObjectWitness, SqliteObjects
from satchel.store.statements import statements
from satchel.store.thread import DatabaseThread, MakesDatabases

WRITE: Final = "BEGIN IMMEDIATE"
READ: Final = "BEGIN"

_FRAMES_AT_A_TIME: Final = 16
"""Answers that one step of a trim codes anew: about a millisecond of the loop."""


class SqliteStore:
    """One open embedded store. Made by ``open_store``."""

    def __init__(
        self,
        path: Path,
        lock: StoreLock,
        *,
        now_ms: Callable[[], int],
        database: MakesDatabases = DatabaseThread,
    ) -> None:
        self.location = str(path)
        self._lock = lock
        log = SqliteLog(path, database)
        objects = SqliteObjects(path, database, now_ms=now_ms, settle_log=log.settle)
        self._parts = (log, objects)
        self.log: Log = log
        self.objects: Objects = objects

    async def open(self) -> None:
        """Open both files. Raises ``StoreFormatUnknown``; nothing stays open then."""
        try:
            for part in self._parts:
                await part.open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what was begun, close the files, let the lock go. Idempotent."""
        for part in self._parts:
            await part.close()
        self._lock.release()


class SqliteLog:
    """The log over one SQLite file. See ``satchel.store.base.Log``."""

    def __init__(self, path: Path, database: MakesDatabases = DatabaseThread) -> None:
        self._sql = statements("log")
        self._witness = ObjectWitness(path)
        self._writer = database(
            lambda: connect_log(path), name="satchel-log-writer", begin=WRITE, group_max=GROUP_COMMIT_MAX, is_quick=True
        )
        self._reader = database(lambda: connect_reader(path), name="satchel-log-reader", begin=READ, group_max=1)

    async def open(self) -> None:
        await self._writer.open()
        await self._reader.open()

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()  # last: it checkpoints, and a stopped store is its two files alone
        self._witness.close()

    async def settle(self) -> None:
        """Wait until every write asked for before this one is durable."""
        await self._writer.settle()

    # --- agents ------------------------------------------------------------------------------

    async def register_agent(self, tenant: Tenant, spec: AgentSpec) -> None:
        def work(db: apsw.Connection) -> None:
            bindings: Bindings = {
                "tenant": tenant,
                "agent": spec.name,
                "number": spec.schema.number,
                "fingerprint": spec.schema.fingerprint,
                "schema_min": spec.schema_min,
                "turn_timeout_s": spec.turn_timeout_s,
                "max_attempts": spec.max_attempts,
                "on_busy": spec.on_busy.value,
            }
            self._run(db, "register_schema", bindings)
            if self._one(db, "schema_fingerprint", bindings)[0] != spec.schema.fingerprint:
                raise SchemaRefused(
                    f"Agent {spec.name!r} is known with other tables under schema number {spec.schema.number}.",
                    hint="Leave the schema as it was, and put the change into migrations=[…]. To throw the sessions "
                    "away instead, stop the hub and delete its store, or start it on another with --store.",
                    agent=spec.name,
                    schema_number=spec.schema.number,
                )
            self._run(db, "register_agent", bindings)

        await self._writer.call(work)

    async def agents(self, tenant: Tenant) -> Sequence[AgentSpec]:
        rows = await self._reader.call(lambda db: self._all(db, "agents", {"tenant": tenant}))
        return [agent_row(row) for row in rows]

    # --- the life of a turn ------------------------------------------------------------------

    async def admit(
        self,
        turn: NewTurn,
        *,
        queue_length_max: int,
        start: bool = False,
        skip: int = 0,
        decided: Callable[[Admission], None] | None = None,
    ) -> Admission:
        return await self._writer.call(
            lambda db: self._admit(db, turn, queue_length_max, start=start, skip=skip), decided=decided
        )

    def _admit(
        self, db: apsw.Connection, new: NewTurn, queue_length_max: int, *, start: bool, skip: int = 0
    ) -> Admission:
        session = self._find_session(db, new.key)
        spec, place, known = self._arrived(db, new, session)
        digest = request_digest(text=new.text, metadata=new.metadata, agent=spec.name)
        busy = Busy(session.running_message_id, session.waiting) if session else Busy(None, 0)
        arrival = admit(
            known,
            busy,
            request_digest=digest,
            on_busy=new.on_busy or spec.on_busy,
            queue_length_max=queue_length_max,
        )
        if arrival is Arrival.REPEAT:
            turn, session = self._turn(db, new.key, new.message_id), self._session(db, new.key)
            return Admission(turn=turn, session=session, is_repeat=True)
        is_started = start and not busy.is_busy
        bindings: Bindings = {
            **key_bindings(new.key),
            "message_id": new.message_id,
            "agent": spec.name,
            "request_digest": digest,
            "metadata": json_text(new.metadata),
            "text": new.text,
            "at_ms": new.accepted_at_ms,
            "place": place,
            "status": (TurnStatus.RUNNING if is_started else TurnStatus.QUEUED).value,
            "started": int(is_started),
            "raised": 1 + skip if is_started else 0,
        }
        if session is None:
            self._run(db, "insert_session", bindings | {"state_id": first_state_id(new.key)})
        epoch = self._one(db, "touch_session", bindings)[0]
        bindings["epoch"] = epoch if is_started else None
        self._run(db, "insert_turn" if arrival is Arrival.NEW else "resend_turn", bindings)
        if session is None or arrival is Arrival.RESEND:
            turn, session = self._turn(db, new.key, new.message_id), self._session(db, new.key)
            return Admission(turn=turn, session=session, is_repeat=False)
        return Admission(
            turn=_new_turn(new, spec, place, epoch=epoch if is_started else None),
            session=msgspec.structs.replace(
                session,
                epoch=epoch,
                waiting=session.waiting + (not is_started),
                running_message_id=new.message_id if is_started else session.running_message_id,
                updated_at_ms=max(session.updated_at_ms, new.accepted_at_ms),
            ),
            is_repeat=False,
        )

    def _arrived(
        self, db: apsw.Connection, new: NewTurn, session: Session | None
    ) -> tuple[AgentSpec, int, Known | None]:
        """Return the agent that a message goes to, the next place in its session, and the message if it is known.

        The agent is the session's, the one that the message names, or the only one.
        """
        if session is not None and new.agent not in {None, session.agent}:
            raise AgentMismatch(f"The session belongs to agent {session.agent!r}.", agent=session.agent)
        name = session.agent if session is not None else new.agent or self._only_agent(db, new.key.tenant)
        row = self._maybe(db, "arrival", {"agent": name, **key_bindings(new.key), "message_id": new.message_id})
        if row is None:
            raise AgentNotFound(f"No worker has ever registered agent {name!r}.", agent=name)
        *agent, place, status, digest = row
        return agent_row(tuple(agent)), place, None if status is None else Known(TurnStatus(status), digest)

    def _only_agent(self, db: apsw.Connection, tenant: Tenant) -> str:
        rows = self._all(db, "agents", {"tenant": tenant})
        if len(rows) != 1:
            raise InvalidRequest(
                f"A new session must name its agent: {len(rows)} agents are known.",
                hint="Send agent.",
                field="agent",
                agents=[row[0] for row in rows],
            )
        return str(rows[0][0])

    async def start(self, key: SessionKey, message_id: MessageId, *, skip: int = 0) -> Started:
        def work(db: apsw.Connection) -> Started:
            bindings: Bindings = {**key_bindings(key), "message_id": message_id, "raised": 1 + skip, "at_ms": 0}
            first = self._maybe(db, "first_unfinished", key_bindings(key))
            check_start(self._turn(db, key, message_id), first=None if first is None else first[0])
            epoch = self._one(db, "touch_session", bindings)[0]
            self._run(db, "start_turn", bindings | {"epoch": epoch})
            return Started(turn=self._turn(db, key, message_id), session=self._session(db, key))

        return await self._writer.call(work)

    async def requeue(self, key: SessionKey, message_id: MessageId, epoch: Epoch) -> Turn:
        def work(db: apsw.Connection) -> Turn:
            check_attempt(self._turn(db, key, message_id), epoch)
            self._run(db, "requeue_turn", {**key_bindings(key), "message_id": message_id})
            return self._turn(db, key, message_id)

        return await self._writer.call(work)

    async def wait_for_worker(self, key: SessionKey, message_id: MessageId, deadline_ms: int) -> Turn:
        def work(db: apsw.Connection) -> Turn:
            bindings: Bindings = {**key_bindings(key), "message_id": message_id, "deadline_ms": deadline_ms}
            self._run(db, "set_worker_deadline", bindings)
            return self._turn(db, key, message_id)

        return await self._writer.call(work)

    async def commit(self, commit: Commit) -> Turn:
        return await self._writer.call(lambda db: self._commit(db, commit))

    def _commit(self, db: apsw.Connection, commit: Commit) -> Turn:
        turn = self._turn(db, commit.key, commit.message_id)
        if turn.status is TurnStatus.COMMITTED and self._is_repeated(db, commit):
            return turn
        session = self._session(db, commit.key)
        check_commit(session, turn, commit)
        self._require_objects(commit.payload.object, commit.events.object)
        bindings: Bindings = {
            **key_bindings(commit.key),
            **payload_bindings(commit.payload),
            **schema_bindings(commit.schema),
            **_chain_after(session, commit),
            "message_id": commit.message_id,
            "version": commit.name.version,
            "state_id": commit.name.state_id,
            "state_bytes": commit.state_bytes,
            "kind": commit.payload.payload.kind.value,
            "digest": commit.digest,
            "at_ms": commit.finished_at_ms,
        }
        if commit.payload.payload.kind is PayloadKind.SNAPSHOT:
            self._run(db, "insert_snapshot", bindings)
            bindings |= {"data": None, "object_hash": None}  # the bytes are the snapshot's, once
        self._run(db, "insert_version", bindings)
        self._run(db, "move_head", bindings)
        self._run(db, "commit_turn", bindings)
        self._insert_events(db, commit, place=turn.place)
        return msgspec.structs.replace(
            turn,
            status=TurnStatus.COMMITTED,
            epoch=None,
            version=commit.name.version,
            answer=commit.answer,
            finished_at_ms=commit.finished_at_ms,
        )

    def _is_repeated(self, db: apsw.Connection, commit: Commit) -> bool:
        """Tell whether exactly this commit was made: its reply may have been lost."""
        bindings: Bindings = {**key_bindings(commit.key), "message_id": commit.message_id}
        made = self._maybe(db, "committed_name", bindings)
        return made == (commit.name.version, commit.name.state_id)

    def _insert_events(self, db: apsw.Connection, commit: Commit, *, place: int) -> None:
        bindings: Bindings = {
            **key_bindings(commit.key),
            **events_bindings(commit),
            "place": place,
        }
        self._run(db, "insert_events", bindings)

    async def fail(
        self, key: SessionKey, message_id: MessageId, error: ErrorBody, *, epoch: Epoch | None, now_ms: int
    ) -> Turn:
        def work(db: apsw.Connection) -> Turn:
            turn = self._turn(db, key, message_id)
            check_attempt(turn, epoch)
            return self._end(db, turn, TurnStatus.FAILED, error, now_ms)

        return await self._writer.call(work)

    async def cancel(self, key: SessionKey, message_id: MessageId, *, now_ms: int) -> Turn:
        def work(db: apsw.Connection) -> Turn:
            turn = self._turn(db, key, message_id)
            return turn if turn.status.is_final else self._end(db, turn, TurnStatus.CANCELLED, None, now_ms)

        return await self._writer.call(work)

    def _end(self, db: apsw.Connection, turn: Turn, status: TurnStatus, error: ErrorBody | None, now_ms: int) -> Turn:
        """End a turn without a version. If it runs, its attempt is fenced out."""
        bindings: Bindings = {
            **key_bindings(turn.key),
            "message_id": turn.message_id,
            "status": status.value,
            "error": error_text(error),
            "at_ms": now_ms,
            "raised": int(turn.status is TurnStatus.RUNNING),
        }
        self._run(db, "end_turn", bindings)
        self._run(db, "touch_session", bindings)
        return self._turn(db, turn.key, turn.message_id)

    # --- reading -----------------------------------------------------------------------------

    async def turn(self, key: SessionKey, message_id: MessageId) -> Turn:
        return await self._reader.call(lambda db: self._turn(db, key, message_id))

    async def turns(self, key: SessionKey, *, limit: int, before: int | None) -> Sequence[Turn]:
        def work(db: apsw.Connection) -> list[Row]:
            self._session(db, key)
            return self._all(db, "turns", {**key_bindings(key), "limit": limit, "before": before})

        return [turn_row(row) for row in reversed(await self._reader.call(work))]

    async def events(self, key: SessionKey, message_id: MessageId) -> StoredEvents | None:
        bindings: Bindings = {**key_bindings(key), "message_id": message_id}
        row = await self._reader.call(lambda db: self._maybe(db, "events", bindings))
        return None if row is None else events_row(key, row)

    async def session(self, key: SessionKey) -> Session:
        return await self._reader.call(lambda db: self._session(db, key))

    async def sessions(
        self, tenant: Tenant, *, agent: str | None, limit: int, after: SessionId | None
    ) -> Sequence[Session]:
        bindings: Bindings = {"tenant": tenant, "agent": agent, "limit": limit, "after": after or ""}
        return [session_row(row) for row in await self._reader.call(lambda db: self._all(db, "sessions", bindings))]

    async def unfinished(self) -> Sequence[Turn]:
        return [turn_row(row) for row in await self._reader.call(lambda db: self._all(db, "unfinished", {}))]

    # --- chains ------------------------------------------------------------------------------

    async def chain(self, key: SessionKey, version: Version) -> Sequence[ChainLink]:
        def work(db: apsw.Connection) -> list[Row]:
            head = self._session(db, key).head.version
            if not 1 <= version <= head:
                raise VersionNotFound(f"The session has no version {version}.", version=version, head=head)
            base = self._maybe(db, "snapshot_link", {**key_bindings(key), "version": version})
            if base is None:
                raise VersionExpired(f"Version {version} is no longer kept.", version=version, head=head)
            return [base, *self._deltas(db, key, base[0], version)]

        return [chain_link(key, row) for row in await self._reader.call(work)]

    async def deltas(self, key: SessionKey, after: Version, upto: Version) -> Sequence[ChainLink] | None:
        rows = await self._reader.call(lambda db: self._deltas(db, key, after, upto))
        return [chain_link(key, row) for row in rows] if len(rows) == upto - after else None

    def _deltas(self, db: apsw.Connection, key: SessionKey, after: Version, upto: Version) -> list[Row]:
        return self._all(db, "delta_links", {**key_bindings(key), "after": after, "upto": upto})

    async def versions(self, key: SessionKey, *, limit: int, before: Version | None) -> Sequence[VersionRow]:
        bindings: Bindings = {**key_bindings(key), "limit": limit, "before": before}
        rows = await self._reader.call(lambda db: self._all(db, "versions", bindings))
        return [version_row(row) for row in reversed(rows)]

    async def publish(self, snapshot: PublishedSnapshot) -> bool:
        return await self._writer.call(lambda db: self._publish(db, snapshot))

    def _publish(self, db: apsw.Connection, snapshot: PublishedSnapshot) -> bool:
        session = self._session(db, snapshot.key)
        bindings: Bindings = {
            **key_bindings(snapshot.key),
            **payload_bindings(snapshot.payload),
            "version": snapshot.name.version,
        }
        kept = self._maybe(db, "version", bindings)
        if kept is None or session.snapshot_version >= snapshot.name.version:
            return False
        check_snapshot(snapshot, state_id=kept[0], digest=kept[1])
        self._require_objects(snapshot.payload.object)
        self._run(db, "insert_snapshot", bindings)
        self._run(db, "stand_on_snapshot", bindings)
        self._run(db, "weigh_chain", bindings)
        return True

    async def trim(self, key: SessionKey, *, retain_versions: int, retain_answers: int) -> None:
        def work(db: apsw.Connection) -> bool:
            self._trim_answers(db, key, retain_answers)
            return self._trim_chains(db, key, retain_versions)

        while not await self._writer.call(work):
            pass

    def _trim_chains(self, db: apsw.Connection, key: SessionKey, retain_versions: int) -> bool:
        """Delete older chains, once no answer leans on them; return whether that is done."""
        oldest = self._session(db, key).head.version - max(retain_versions, 1)  # head and n-1, whatever the policy
        base = self._one(db, "oldest_kept_base", {**key_bindings(key), "oldest": oldest})[0]
        if base is None:
            return True
        bindings: Bindings = {**key_bindings(key), "base": base, "limit": _FRAMES_AT_A_TIME}
        if leaning := self._all(db, "leaning_events", bindings):
            for place, *frame in leaning:
                self._run(db, "free_events", {**key_bindings(key), "place": place, "data": standing_alone(*frame)})
            return False
        for name in ("trim_delta_of_base", "trim_versions", "trim_snapshots"):
            self._run(db, name, bindings)
        return True

    def _trim_answers(self, db: apsw.Connection, key: SessionKey, retain_answers: int) -> None:
        self._run(db, "trim_answers", {**key_bindings(key), "kept": max(retain_answers, 1)})

    async def named_objects(self, key: SessionKey) -> frozenset[bytes]:
        rows = await self._reader.call(lambda db: self._all(db, "named_objects", key_bindings(key)))
        return frozenset(row[0] for row in rows)

    # --- inside a transaction ----------------------------------------------------------------

    def _find_session(self, db: apsw.Connection, key: SessionKey) -> Session | None:
        row = self._maybe(db, "session", key_bindings(key))
        return None if row is None else session_row(row)

    def _session(self, db: apsw.Connection, key: SessionKey) -> Session:
        session = self._find_session(db, key)
        if session is None:
            raise SessionNotFound(f"There is no session {key.session_id!r}.", session_id=key.session_id)
        return session

    def _turn(self, db: apsw.Connection, key: SessionKey, message_id: MessageId) -> Turn:
        row = self._maybe(db, "turn", {**key_bindings(key), "message_id": message_id})
        if row is None:
            self._session(db, key)
            raise MessageNotFound(f"The session has no message {message_id!r}.", message_id=message_id)
        return turn_row(row)

    def _require_objects(self, *names: ObjectName | None) -> None:
        """Raise ``CorruptPayload`` unless the objects are durable: no row may name bytes that can be lost."""
        for name in names:
            if name is not None and not self._witness.holds(name):
                raise CorruptPayload("The object is not in the store.", content_hash=name.content_hash.hex())

    def _run(self, db: apsw.Connection, name: str, bindings: Bindings) -> None:
        db.execute(self._sql[name], bindings).fetchall()

    def _all(self, db: apsw.Connection, name: str, bindings: Bindings) -> list[Row]:
        return db.execute(self._sql[name], bindings).fetchall()

    def _maybe(self, db: apsw.Connection, name: str, bindings: Bindings) -> Row | None:
        rows = self._all(db, name, bindings)
        return rows[0] if rows else None

    def _one(self, db: apsw.Connection, name: str, bindings: Bindings) -> Row:
        return self._all(db, name, bindings)[0]


def _new_turn(new: NewTurn, spec: AgentSpec, place: int, *, epoch: Epoch | None) -> Turn:
    """Return the row of a message that has just arrived; with an *epoch* it runs."""
    return Turn(
        key=new.key,
        message_id=new.message_id,
        place=place,
        agent=spec.name,
        text=new.text,
        metadata=new.metadata,
        status=TurnStatus.QUEUED if epoch is None else TurnStatus.RUNNING,
        starts=int(epoch is not None),
        starts_before=0,
        epoch=epoch,
        version=None,
        answer=None,
        error=None,
        worker_deadline_ms=None,
        accepted_at_ms=new.accepted_at_ms,
        finished_at_ms=None,
    )


def _chain_after(session: Session, commit: Commit) -> Bindings:
    """Return what the session's chain weighs after a commit. A snapshot starts a new one."""
    size = commit.payload.size
    if commit.payload.payload.kind is PayloadKind.SNAPSHOT:
        return {
            "snapshot_version": commit.name.version,
            "snapshot_bytes": size,
            "chain_bytes": size,
            "chain_deltas": 0,
        }
    return {
        "snapshot_version": session.snapshot_version,
        "snapshot_bytes": session.snapshot_bytes,
        "chain_bytes": session.chain_bytes + size,
        "chain_deltas": session.chain_deltas + 1,
    }
