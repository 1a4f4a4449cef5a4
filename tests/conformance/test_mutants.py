"""Deliberately broken stores: each is failed by the clause that names what it breaks."""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from satchel.errors import CorruptPayload, StoreUnavailable
from satchel.model import SessionKey
from satchel.store import sqlite, thread
from satchel.store.admission import Arrival
from satchel.store.base import Admission, ChainLink, Commit, ObjectName, PublishedSnapshot, Session, StoredEvents, Turn
from satchel.store.sqlite import SqliteLog
from satchel.store.sqlite_objects import SqliteObjects
from satchel.store.thread import DatabaseThread
from tests.conformance.trial import Mutation, Patch, assert_caught, assert_passed, edit, registry

MUTANTS, fails = registry()


# --- the fence -----------------------------------------------------------------------------------


@fails("test_a_fenced_out_attempt_cannot_commit", "test_a_commit_of_another_epoch_is_refused")
def drops_the_epoch_check(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    real = sqlite.check_commit

    def check(session: Session, turn: Turn, commit: Commit) -> None:
        real(session, turn, msgspec.structs.replace(commit, epoch=session.epoch))

    patch.setattr(sqlite, "check_commit", check)


@fails("test_a_commit_on_another_state_of_the_base_version_is_refused")
def drops_the_state_id_check(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    real = sqlite.check_commit

    def check(session: Session, turn: Turn, commit: Commit) -> None:
        is_same = commit.base.version == session.head.version
        real(session, turn, msgspec.structs.replace(commit, base=session.head) if is_same else commit)

    patch.setattr(sqlite, "check_commit", check)


@fails("test_a_commit_behind_or_ahead_of_the_head_is_refused")
def drops_the_head_check(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    real = sqlite.check_commit

    def check(session: Session, turn: Turn, commit: Commit) -> None:
        real(msgspec.structs.replace(session, head=commit.base), turn, commit)

    patch.setattr(sqlite, "check_commit", check)


@fails("test_one_of_two_writers_commits")
def takes_the_second_writer_for_a_repeat(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log._is_repeated

    def is_repeated(db: apsw.Connection, commit: Commit) -> bool:
        made = log._maybe(db, "committed_name", {**sqlite.key_bindings(commit.key), "message_id": commit.message_id})
        return real(db, commit) or made is not None

    log._is_repeated = is_repeated


@fails("test_a_repeated_commit_gives_the_same_turn", "test_a_repeated_commit_at_once_is_one_commit")
def does_not_know_a_repeated_commit(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    log._is_repeated = lambda _db, _commit: False


@fails("test_a_fenced_out_attempt_cannot_commit", "test_a_requeued_turn_keeps_its_place")
def starts_under_the_old_epoch(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "touch_session", "epoch + :raised", "max(epoch, 1)")


@fails("test_cancelling_a_running_turn_raises_the_epoch", "test_a_running_turn_that_fails_raises_the_epoch")
def ends_a_turn_under_its_epoch(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log._end

    def end(db: apsw.Connection, turn: Turn, *rest: Any) -> Turn:
        real(db, turn, *rest)
        db.execute("UPDATE session SET epoch = coalesce(?, epoch)", (turn.epoch,))
        return log._turn(db, turn.key, turn.message_id)

    log._end = end


@fails(
    "test_a_cancelled_turn_cannot_commit", "test_a_failed_turn_cannot_commit", "test_a_requeued_attempt_cannot_commit"
)
def commits_turns_that_do_not_run(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    real = sqlite.check_commit

    def check(session: Session, turn: Turn, commit: Commit) -> None:
        running = msgspec.structs.replace(turn, status=sqlite.TurnStatus.RUNNING, epoch=commit.epoch)
        real(msgspec.structs.replace(session, epoch=commit.epoch), running, commit)

    patch.setattr(sqlite, "check_commit", check)


@fails("test_an_unknown_agent_leaves_nothing")
def keeps_what_a_refused_call_wrote(log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    real = log._admit

    def admit(db: apsw.Connection, new: Any, queue_length_max: int, **options: Any) -> Any:
        if log._find_session(db, new.key) is None:
            state: dict[str, Any] = {"state_id": bytes(16), "at_ms": 0, "agent": new.agent, "message_id": "m1"}
            log._run(db, "insert_session", {**sqlite.key_bindings(new.key), **state})
        return real(db, new, queue_length_max, **options)

    def work_group(connection: apsw.Connection, group: list[Any]) -> None:
        for call in group:
            try:
                call.result = call.work(connection)
            except Exception as error:  # noqa: BLE001  # broken on purpose: nothing is undone
                call.error = error

    log._admit = admit
    patch.setattr(thread, "work_group", work_group)


# --- admission -----------------------------------------------------------------------------------


@fails("test_a_repeat_of_a_queued_message_changes_nothing", "test_a_repeat_of_a_committed_message_gives_its_answer")
def runs_a_repeated_message_again(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    patch.setattr(sqlite, "admit", lambda known, *_rest, **_more: Arrival.RESEND if known else Arrival.NEW)


@fails("test_a_reused_message_id_is_refused")
def takes_any_request_for_a_repeat(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    patch.setattr(sqlite, "request_digest", lambda **_request: bytes(32))


@fails("test_the_queue_holds_its_bound_and_no_more", "test_a_failed_message_needs_room_in_the_queue")
def has_no_queue_bound(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    real = sqlite.admit
    patch.setattr(sqlite, "admit", lambda *known, **more: real(*known, **{**more, "queue_length_max": 10**6}))


@fails("test_the_queue_holds_its_bound_and_no_more")
def has_a_queue_bound_of_one_more(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    real = sqlite.admit

    def admit(*known: Any, queue_length_max: int, **more: Any) -> Arrival:
        return real(*known, queue_length_max=queue_length_max + 1, **more)

    patch.setattr(sqlite, "admit", admit)


@fails("test_reject_refuses_while_a_turn_waits")
def rejects_only_while_a_turn_runs(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    real = sqlite.Busy
    patch.setattr(sqlite, "Busy", lambda running, _waiting: real(running, 0))


@fails("test_what_is_not_first_does_not_start_as_it_is_admitted")
def starts_whatever_is_admitted(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    patch.setattr(sqlite.Busy, "is_busy", False)


@fails("test_a_message_can_start_as_it_is_admitted")
def starts_in_a_second_step(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log._admit
    log._admit = lambda *admitted, **_start: real(*admitted, start=False)


@fails("test_a_start_can_leave_epochs_out")
def gives_the_next_epoch_at_an_admission(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log._admit
    log._admit = lambda *admitted, **options: real(*admitted, start=options["start"])


@fails("test_a_start_can_leave_epochs_out")
def gives_the_next_epoch_at_a_start(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log.start
    log.start = lambda *turn, **_skip: real(*turn)


@fails("test_a_repeat_starts_nothing")
def starts_a_repeat(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log._admit

    def admit(db: apsw.Connection, new: Any, queue_length_max: int, **options: Any) -> Any:
        admission = real(db, new, queue_length_max, **options)
        if not options["start"] or admission.turn.status is not sqlite.TurnStatus.QUEUED:
            return admission
        bindings = {**sqlite.key_bindings(new.key), "message_id": new.message_id, "raised": 1, "at_ms": 0}
        log._run(db, "start_turn", bindings | {"epoch": log._one(db, "touch_session", bindings)[0]})
        return msgspec.structs.replace(admission, turn=log._turn(db, new.key, new.message_id))

    log._admit = admit


@fails("test_messages_that_arrive_at_once_take_places_in_order", "test_only_the_first_in_order_starts")
def serves_the_last_first(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "arrival", "coalesce(max(place), 0) + 1", "coalesce(min(place), 100) - 1")


@fails("test_messages_that_arrive_at_once_take_places_in_order")
def shuffles_calls_that_share_a_transaction(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    real = DatabaseThread._next_group

    def next_group(self: DatabaseThread) -> None:
        random.Random(2).shuffle(self._waiting)  # noqa: S311  # the same wrong order every time
        real(self)

    patch.setattr(DatabaseThread, "_next_group", next_group)


@fails("test_a_start_asked_for_right_behind_a_commit_stands_on_it")
def runs_what_was_asked_for_last_first(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    real = DatabaseThread._next_group

    def next_group(self: DatabaseThread) -> None:
        self._waiting.reverse()
        real(self)

    patch.setattr(DatabaseThread, "_next_group", next_group)


@fails("test_a_failed_message_sent_again_is_last_and_counts_anew")
def counts_attempts_on_when_sent_again(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "resend_turn", "starts_before = starts,", "")


@fails("test_a_requeued_turn_keeps_its_place")
def requeues_at_the_end(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "requeue_turn", "epoch = NULL", "epoch = NULL, place = 1000")


@fails("test_a_worker_deadline_is_set_once")
def gives_a_later_deadline(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "set_worker_deadline", "AND worker_deadline_ms IS NULL", "")


@fails("test_one_turn_of_a_session_runs_at_a_time", "test_only_the_first_in_order_starts")
def starts_any_turn(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    patch.setattr(sqlite, "check_start", lambda _turn, *, first: first)


@fails("test_tenants_share_nothing")
def reads_across_tenants(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "session", "tenant = :tenant", ":tenant IS NOT NULL")


@fails("test_objects_of_another_session_or_tenant_are_not_there")
def reads_objects_across_tenants(_log: SqliteLog, objects: SqliteObjects, _patch: Patch) -> None:
    edit(objects, "pieces", "o.tenant = :tenant", ":tenant IS NOT NULL")


# --- chains, retention, objects ------------------------------------------------------------------


@fails("test_a_commit_that_names_a_missing_object_is_refused")
def commits_before_its_objects(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    log._require_objects = lambda *_names: None


@fails("test_an_object_is_durable_when_its_put_returns")
def puts_objects_later(_log: SqliteLog, objects: SqliteObjects, _patch: Patch) -> None:
    memory: dict[ObjectName, bytes] = {}

    async def put(key: SessionKey, data: bytes) -> ObjectName:
        name = ObjectName(key, hashlib.sha256(data).digest(), len(data))
        memory[name] = data
        return name

    async def get(name: ObjectName) -> bytes:
        if name not in memory:
            raise CorruptPayload
        return memory[name]

    objects.put, objects.get = put, get


@fails("test_the_head_and_the_version_before_it_always_stay", "test_a_published_head_keeps_the_chain_before_it")
def keeps_only_the_head(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    patch.setattr(sqlite, "max", lambda value, _least: value, raising=False)


@fails("test_trim_deletes_whole_chains_beyond_retention", "test_trim_keeps_what_retention_covers")
def retains_one_version_less(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log._trim_chains
    log._trim_chains = lambda db, key, retain: real(db, key, retain - 1)


@fails("test_an_answer_is_whole_without_the_delta_of_its_turn")
def deletes_deltas_under_their_answers(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "leaning_events", "LIMIT :limit", "LIMIT 0 * :limit")


@fails("test_trim_takes_answers_and_events_but_no_message")
def forgets_messages_with_their_answers(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    log._sql["trim_answers"] = (
        log._sql["trim_answers"]
        + "DELETE FROM version WHERE tenant = :tenant AND session_id = :session_id AND message_id IN "
        "(SELECT message_id FROM turn WHERE place NOT IN (SELECT place FROM events)); "
        "DELETE FROM turn WHERE tenant = :tenant AND session_id = :session_id "
        "AND place NOT IN (SELECT place FROM events)"
    )


@fails("test_a_published_snapshot_is_what_later_deltas_stand_on")
def publishes_without_weighing_the_chain(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    log._sql["weigh_chain"] = "SELECT :version, :size, :tenant, :session_id"


@fails("test_a_snapshot_of_another_state_is_not_published")
def publishes_any_snapshot(_log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    patch.setattr(sqlite, "check_snapshot", lambda *_snapshot, **_known: None)


@fails("test_deltas_are_given_in_order_or_not_at_all")
def gives_deltas_with_a_gap(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    async def deltas(key: SessionKey, after: Any, upto: Any) -> Sequence[ChainLink]:
        rows = await log._reader.call(lambda db: log._deltas(db, key, after, upto))
        return [sqlite.chain_link(key, row) for row in rows]

    log.deltas = deltas


@fails("test_an_object_that_was_touched_is_not_deleted")
def deletes_objects_of_any_age(_log: SqliteLog, objects: SqliteObjects, _patch: Patch) -> None:
    edit(objects, "delete_object", "touched_at_ms < :older_than_ms", ":older_than_ms IS NOT NULL")


@fails("test_the_sweep_deletes_what_no_row_names")
def names_no_event_lists(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "named_objects", "FROM events WHERE", "FROM events WHERE 0 AND")


@fails("test_an_object_is_read_back_exactly")
def joins_pieces_in_any_order(_log: SqliteLog, objects: SqliteObjects, _patch: Patch) -> None:
    edit(objects, "pieces", "ORDER BY p.number", "ORDER BY p.number DESC")


# --- what was made once and is asked for again ------------------------------------------------------


@fails("test_a_repeated_registration_changes_nothing")
def registers_once(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "register_schema", "ON CONFLICT DO NOTHING", "")


@fails(
    "test_a_repeat_of_a_queued_message_changes_nothing",
    "test_a_repeat_of_a_committed_message_gives_its_answer",
    "test_a_repeat_of_a_cancelled_message_stays_cancelled",
)
def takes_a_repeat_for_a_sign_of_life(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log._admit

    def admit(db: apsw.Connection, new: Any, queue_length_max: int, **options: Any) -> Any:
        admission = real(db, new, queue_length_max, **options)
        log._run(db, "touch_session", {**sqlite.key_bindings(new.key), "raised": 0, "at_ms": new.accepted_at_ms})
        return msgspec.structs.replace(admission, session=log._session(db, new.key))

    log._admit = admit


@fails("test_a_put_of_bytes_already_there_touches_them")
def leaves_known_objects_untouched(_log: SqliteLog, objects: SqliteObjects, _patch: Patch) -> None:
    edit(objects, "begin_object", "max(touched_at_ms, excluded.touched_at_ms)", "touched_at_ms")


@fails("test_a_commit_that_names_a_deleted_object_is_refused")
def remembers_objects_that_were_there(log: SqliteLog, _objects: SqliteObjects, patch: Patch) -> None:
    real, known = log._witness.holds, set()

    def holds(name: ObjectName) -> bool:
        if name in known or real(name):
            known.add(name)
        return name in known

    patch.setattr(log._witness, "holds", holds)


@fails("test_objects_of_deltas_and_of_published_snapshots_are_named")
def names_no_deltas(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "named_objects", "FROM version WHERE", "FROM version WHERE 0 AND")


@fails("test_a_snapshot_of_a_version_that_is_not_kept_is_not_published")
def takes_a_version_that_is_not_kept_for_a_fault(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log._publish

    def publish(db: apsw.Connection, snapshot: PublishedSnapshot) -> bool:
        row = log._maybe(db, "version", {**sqlite.key_bindings(snapshot.key), "version": snapshot.name.version})
        if row is None:
            raise CorruptPayload
        return real(db, snapshot)

    log._publish = publish


@fails("test_events_that_never_were_are_none")
def refuses_to_give_no_events(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log.events

    async def events(key: SessionKey, message_id: Any) -> StoredEvents | None:
        await log.turn(key, message_id)
        return await real(key, message_id)

    log.events = events


@fails("test_unfinished_turns_are_every_tenants")
def knows_one_tenants_work(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    edit(log, "unfinished", "WHERE status", "WHERE tenant = 'default' AND status")


@fails("test_calls_on_a_session_take_effect_in_the_order_in_which_they_were_made")
def admits_a_little_later(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real = log.admit

    async def admit(*new: Any, **options: Any) -> Admission:
        for _ in range(3):
            await asyncio.sleep(0)
        return await real(*new, **options)

    log.admit = admit


@fails("test_close_finishes_what_was_begun")
def forgets_at_its_close_what_waits(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real_admit, real_close, closed = log.admit, log.close, []

    async def admit(*new: Any, **options: Any) -> Admission:
        for _ in range(3):
            await asyncio.sleep(0)
        if closed:
            raise StoreUnavailable
        return await real_admit(*new, **options)

    async def close() -> None:
        closed.append(True)
        await real_close()

    log.admit, log.close = admit, close


@fails("test_close_finishes_what_was_begun")
def closes_once(log: SqliteLog, _objects: SqliteObjects, _patch: Patch) -> None:
    real, closed = log.close, []

    async def close() -> None:
        if closed == [True]:
            closed.append(True)
            raise StoreUnavailable
        closed.append(True)
        await real()

    log.close = close


# --- the trial -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mutation", "clause"), [pytest.param(*each, id=f"{each[0].__name__}-{each[1][5:]}") for each in MUTANTS]
)
async def test_a_broken_store_fails_its_clause(
    mutation: Mutation, clause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A suite that passes a store without the fence would let every backend lose turns."""
    await assert_caught(mutation, clause, tmp_path, monkeypatch)


async def test_the_unbroken_store_passes_every_clause_named_here(tmp_path: Path):
    """A clause that always fails would catch every mutant and prove nothing."""
    await assert_passed({clause for _mutation, clause in MUTANTS}, tmp_path)
