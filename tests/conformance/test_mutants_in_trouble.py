"""Deliberately broken stores whose fault shows in a crash, under a reader's eyes, or at a bound."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
import zstandard

from satchel.errors import CorruptPayload
from satchel.limits import ID_LENGTH_MAX, OBJECT_PIECE_BYTES_MAX
from satchel.model import Epoch, MessageId, SessionKey, TurnStatus, Version, first_state_id
from satchel.store import sqlite, sqlite_objects
from satchel.store.base import (
    Admission,
    ChainLink,
    Commit,
    NewTurn,
    ObjectName,
    PublishedSnapshot,
    Started,
    StoredEvents,
    Turn,
)
from satchel.store.fence import check_attempt, check_start
from satchel.store.sqlite import SqliteLog
from satchel.store.sqlite_objects import SqliteObjects
from satchel.testing.conformance.bounds import BoundClauses
from satchel.testing.conformance.crashes import CrashClauses
from satchel.testing.conformance.reads import ReadClauses
from tests.conformance.trial import Mutation, Patch, assert_caught, assert_passed, edit, registry

MUTANTS, fails = registry()


def turn_bindings(key: SessionKey, message_id: MessageId) -> dict[str, Any]:
    return {**sqlite.key_bindings(key), "message_id": message_id}


# --- two writes where one was promised -------------------------------------------------------------


@fails("test_a_crash_in_admit")
def creates_the_session_before_its_message(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log.admit

    def create(db: apsw.Connection, new: NewTurn) -> None:
        if log._find_session(db, new.key) is None:
            state: dict[str, Any] = {"agent": new.agent, "state_id": first_state_id(new.key), "at_ms": 0}
            log._run(db, "insert_session", {**turn_bindings(new.key, new.message_id), **state})

    async def admit(new: NewTurn, **options: Any) -> Admission:
        await log._writer.call(lambda db: create(db, new))
        return await real(new, **options)

    log.admit = admit


@fails("test_a_crash_in_admit_and_start")
def starts_after_it_admitted(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log.admit

    async def admit(new: NewTurn, *, start: bool = False, **options: Any) -> Admission:
        admission = await real(new, start=False, **options)
        if not start or admission.is_repeat:
            return admission
        started = await log.start(new.key, new.message_id)
        return msgspec.structs.replace(admission, turn=started.turn, session=started.session)

    log.admit = admit


@fails("test_a_crash_in_start")
def raises_the_epoch_before_it_starts(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    async def start(key: SessionKey, message_id: MessageId, *, skip: int = 0) -> Started:
        bindings = turn_bindings(key, message_id)

        def raise_epoch(db: apsw.Connection) -> int:
            first = log._maybe(db, "first_unfinished", bindings)
            check_start(log._turn(db, key, message_id), first=None if first is None else first[0])
            return int(log._one(db, "touch_session", {**bindings, "raised": 1 + skip, "at_ms": 0})[0])

        def run(db: apsw.Connection) -> Started:
            log._run(db, "start_turn", {**bindings, "epoch": epoch})
            return Started(turn=log._turn(db, key, message_id), session=log._session(db, key))

        epoch = await log._writer.call(raise_epoch)
        return await log._writer.call(run)

    log.start = start


@fails("test_a_crash_in_requeue")
def ends_the_attempt_before_it_requeues(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    async def requeue(key: SessionKey, message_id: MessageId, epoch: Epoch) -> Turn:
        def end(db: apsw.Connection) -> None:
            check_attempt(log._turn(db, key, message_id), epoch)
            update(db, key, message_id, "status = 'cancelled', epoch = NULL, finished_at_ms = 0")

        def queue(db: apsw.Connection) -> Turn:
            update(db, key, message_id, "status = 'queued', finished_at_ms = NULL")
            return log._turn(db, key, message_id)

        await log._writer.call(end)
        return await log._writer.call(queue)

    log.requeue = requeue


@fails("test_a_crash_in_wait_for_worker")
def clears_the_deadline_before_it_sets_it(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log.wait_for_worker

    async def wait_for_worker(key: SessionKey, message_id: MessageId, deadline_ms: int) -> Turn:
        await real(key, message_id, 0)
        await log._writer.call(lambda db: update(db, key, message_id, f"worker_deadline_ms = {deadline_ms}"))
        return await log.turn(key, message_id)

    log.wait_for_worker = wait_for_worker


def update(db: apsw.Connection, key: SessionKey, message_id: MessageId, assignments: str) -> None:
    where = "tenant = :tenant AND session_id = :session_id AND message_id = :message_id"
    db.execute(f"UPDATE turn SET {assignments} WHERE {where}", {**sqlite.key_bindings(key), "message_id": message_id})


@fails("test_a_crash_in_put")
def calls_an_object_whole_before_it_is(_log: SqliteLog, objects: SqliteObjects, _patch: Patch) -> None:
    real = objects._put_piece

    async def put_piece(name: ObjectName, number: int, piece: bytes) -> None:
        await objects._finish(name)
        await real(name, number, piece)

    objects._put_piece = put_piece


@fails("test_a_crash_in_commit")
def writes_events_after_the_commit(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    split_commit(log, lambda _commit: True)


@fails("test_a_crash_in_a_commit_of_objects")
def names_objects_after_the_commit(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    split_commit(log, lambda commit: commit.events.object is not None)


def split_commit(log: SqliteLog, is_split: Callable[[Commit], bool]) -> None:
    """Write the events of some commits in a transaction of their own."""
    edit(log, "insert_events", "INSERT INTO", "INSERT OR IGNORE INTO")
    real, insert_events = log.commit, log._insert_events

    async def commit(commit: Commit) -> Turn:
        turn = await real(commit)
        await log._writer.call(lambda db: insert_events(db, commit, place=turn.place))
        return turn

    log.commit = commit
    log._insert_events = lambda db, commit, place: is_split(commit) or insert_events(db, commit, place=place)


@fails("test_a_crash_in_fail", "test_a_crash_in_cancel")
def raises_the_epoch_after_it_ended_the_turn(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "touch_session", "epoch + :raised", "epoch + 0 * :raised")
    later = "UPDATE session SET epoch = epoch + 1 WHERE tenant = :tenant AND session_id = :session_id"
    log._sql["raise_epoch_later"] = later

    async def start(key: SessionKey, message_id: MessageId, *, skip: int = 0) -> Started:
        await raise_epoch(key)
        return await real_start(key, message_id, skip=skip)

    async def fail(key: SessionKey, message_id: MessageId, *rest: Any, **more: Any) -> Turn:
        turn = await real_fail(key, message_id, *rest, **more)
        await raise_epoch(key)
        return turn

    async def cancel(key: SessionKey, message_id: MessageId, **more: Any) -> Turn:
        was_running = (await log.turn(key, message_id)).status is TurnStatus.RUNNING
        turn = await real_cancel(key, message_id, **more)
        if was_running:
            await raise_epoch(key)
        return turn

    async def raise_epoch(key: SessionKey) -> None:
        await log._writer.call(lambda db: log._run(db, "raise_epoch_later", sqlite.key_bindings(key)))

    real_start, real_fail, real_cancel = log.start, log.fail, log.cancel
    log.start, log.fail, log.cancel = start, fail, cancel


@fails("test_a_crash_in_publish")
def weighs_the_chain_after_it_published(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real, weigh_chain = log.publish, log._sql["weigh_chain"]
    log._sql["weigh_chain"] = "SELECT :version, :size, :tenant, :session_id"

    async def publish(snapshot: PublishedSnapshot) -> bool:
        bindings: dict[str, Any] = {"version": snapshot.name.version, "size": snapshot.payload.size}
        is_published = await real(snapshot)
        await log._writer.call(lambda db: db.execute(weigh_chain, {**sqlite.key_bindings(snapshot.key), **bindings}))
        return is_published

    log.publish = publish


@fails("test_a_crash_in_trim")
def trims_answers_after_chains(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    async def trim(key: SessionKey, *, retain_versions: int, retain_answers: int) -> None:
        await log._writer.call(lambda db: log._trim_chains(db, key, retain_versions))
        await log._writer.call(lambda db: log._trim_answers(db, key, retain_answers))

    log.trim = trim


@fails("test_a_crash_in_the_sweep")
def deletes_an_object_piece_by_piece(_log: SqliteLog, objects: SqliteObjects, _patch: Patch) -> None:
    real = objects.delete

    async def delete(name: ObjectName, *, older_than_ms: int) -> bool:
        bindings = {"hash": name.content_hash, **sqlite.key_bindings(name.key)}
        where = "tenant = :tenant AND session_id = :session_id AND content_hash = :hash"
        for number in range(3, -1, -1):
            sql = f"DELETE FROM piece WHERE {where} AND number = {number}"
            await objects._writer.call(lambda db, sql=sql: db.execute(sql, bindings).fetchall())
        return await real(name, older_than_ms=older_than_ms)

    objects.delete = delete


@fails("test_a_crash_in_start", "test_a_crash_in_commit", "test_a_crash_in_cancel")
def answers_before_the_log_is_synced(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    patch.setattr(sqlite, "connect_log", unsynced(sqlite.connect_log))


@fails("test_a_crash_in_put")
def answers_before_the_object_is_synced(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    patch.setattr(sqlite_objects, "connect_objects", unsynced(sqlite_objects.connect_objects))


def unsynced(connect: Callable[[Path], apsw.Connection]) -> Callable[[Path], apsw.Connection]:
    def connect_unsynced(path: Path) -> apsw.Connection:
        connection = connect(path)
        connection.pragma("synchronous", "off")
        return connection

    return connect_unsynced


# --- two reads where one was promised ---------------------------------------------------------------


def meet(part: SqliteLog | SqliteObjects, *changes: str) -> Callable[[], Awaitable[None]]:
    """Return a pause for the middle of a read: in the first one the changes begin, and all end with the last."""
    has_read, has_changed = asyncio.Event(), asyncio.Event()

    def gated(name: str) -> Callable[..., Awaitable[Any]]:
        real = getattr(part, name)

        async def change(*args: Any, **options: Any) -> Any:
            await has_read.wait()
            result = await real(*args, **options)
            if name == changes[-1]:
                has_changed.set()
            return result

        return change

    async def pause() -> None:
        has_read.set()
        await has_changed.wait()

    for name in changes:
        setattr(part, name, gated(name))
    return pause


@fails("test_a_chain_read_while_it_is_trimmed_is_whole_or_expired", "test_a_chain_read_while_its_base_changes_is_whole")
def reads_deltas_after_their_base(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real, pause = log.chain, meet(log, "publish", "trim")

    async def chain(key: SessionKey, version: Version) -> Sequence[ChainLink]:
        base, *_ = await real(key, version)
        await pause()
        rows = await log._reader.call(lambda db: log._deltas(db, key, base.name.version, version))
        return [base, *(sqlite.chain_link(key, row) for row in rows)]

    log.chain = chain


@fails("test_deltas_read_while_they_are_trimmed_are_all_or_none")
def counts_deltas_before_it_reads_them(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real, pause = log.deltas, meet(log, "trim")

    async def deltas(key: SessionKey, after: Version, upto: Version) -> Sequence[ChainLink] | None:
        if await real(key, after, upto) is None:
            return None
        await pause()
        rows = await log._reader.call(lambda db: log._deltas(db, key, after, upto))
        return [sqlite.chain_link(key, row) for row in rows]

    log.deltas = deltas


@fails("test_events_read_while_they_are_trimmed_are_whole_or_gone")
def empties_events_before_it_deletes_them(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real_trim, real_events = log.trim, log.events
    is_empty, is_seen = asyncio.Event(), asyncio.Event()

    async def trim(key: SessionKey, **retained: int) -> None:
        nothing = zstandard.compress(b"")
        await log._writer.call(
            lambda db: db.execute(
                "UPDATE events SET answer_bytes = 0, delta_version = NULL, data = ? WHERE place = 1", (nothing,)
            ).fetchall()
        )
        is_empty.set()
        await is_seen.wait()
        await real_trim(key, **retained)

    async def events(key: SessionKey, message_id: MessageId) -> StoredEvents | None:
        was_empty = is_empty.is_set()
        found = await real_events(key, message_id)
        if was_empty:
            is_seen.set()
        return found

    log.trim, log.events = trim, events


@fails("test_an_object_read_while_it_is_deleted_is_whole_or_gone")
def reads_an_object_piece_by_piece(_log: SqliteLog, objects: SqliteObjects, _patch: Patch) -> None:
    edit(objects, "pieces", "ORDER BY p.number", "AND p.number = :number")
    pause = meet(objects, "delete")

    async def get(name: ObjectName) -> bytes:
        pieces = []
        for number in range(-(-name.size // OBJECT_PIECE_BYTES_MAX)):
            bindings: dict[str, Any] = {"content_hash": name.content_hash, "number": number}
            bindings |= sqlite.key_bindings(name.key)
            rows = await objects._reader.call(lambda db, of=bindings: db.execute(objects._sql["pieces"], of).fetchall())
            pieces += [row[0] for row in rows]
            await pause()
        if not pieces:
            raise CorruptPayload
        return b"".join(pieces)

    objects.get = get


@fails("test_a_state_read_while_it_is_compacted_and_swept_is_whole_or_refused")
def names_no_published_snapshots(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "named_objects", "FROM snapshot WHERE", "FROM snapshot WHERE 0 AND")


# --- bounds ------------------------------------------------------------------------------------------


@fails("test_the_longest_ids_are_told_apart_by_their_last_character")
def cuts_session_ids(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    real = sqlite.key_bindings
    cut = ID_LENGTH_MAX - 1
    patch.setattr(sqlite, "key_bindings", lambda key: {**real(key), "session_id": key.session_id[:cut]})


@fails("test_the_longest_ids_are_told_apart_by_their_last_character")
def folds_the_case_of_message_ids(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    for statement in ("arrival", "turn"):
        edit(log, statement, "message_id = :message_id", "message_id = :message_id COLLATE NOCASE")


@fails("test_the_longest_agents_names_are_told_apart")
def cuts_agents_names(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "register_agent", ":agent,", "substr(:agent, 1, 127),")


@fails("test_the_largest_message_is_kept_exactly")
def cuts_texts_by_the_character(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "insert_turn", ":text", "substr(:text, 1, 262143)")


@fails("test_the_largest_inline_bytes_are_kept_exactly")
def cuts_what_is_inline(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "insert_version", ":data", "substr(:data, 1, 65535)")


@fails("test_the_largest_object_is_kept_exactly")
def writes_sixteen_pieces_at_most(_log: SqliteLog, objects: SqliteObjects, _patch: Patch) -> None:
    real = objects._put_piece

    async def put_piece(name: ObjectName, number: int, piece: bytes) -> None:
        if number < 16:
            await real(name, number, piece)

    objects._put_piece = put_piece


@fails("test_a_page_holds_its_limit_and_no_more")
def gives_one_session_more(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "sessions", "LIMIT :limit", "LIMIT :limit + 1")


@fails("test_as_many_answers_are_kept_as_were_asked_for")
def keeps_one_answer_less(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "trim_answers", "OFFSET :kept", "OFFSET :kept - 1")


# --- the trial -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mutation", "clause"), [pytest.param(*each, id=f"{each[0].__name__}-{each[1][5:]}") for each in MUTANTS]
)
async def test_a_broken_store_fails_its_clause(
    mutation: Mutation, clause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A backend that is right only when all goes well is not right."""
    await assert_caught(mutation, clause, tmp_path, monkeypatch)


async def test_the_unbroken_store_passes_every_clause_named_here(tmp_path: Path):
    """A clause that always fails would catch every mutant and prove nothing."""
    await assert_passed({clause for _mutation, clause in MUTANTS}, tmp_path)


def test_every_clause_of_trouble_has_its_mutant():
    """A clause that no broken store fails may hold for any store."""
    clauses = {
        name for part in (BoundClauses, CrashClauses, ReadClauses) for name in vars(part) if name.startswith("test_")
    }

    assert clauses == {clause for _mutation, clause in MUTANTS}
