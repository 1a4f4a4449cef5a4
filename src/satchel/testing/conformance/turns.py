"""Clauses of ``start``, ``requeue``, ``wait_for_worker``, ``fail``, ``cancel`` and the listings."""

# ruff: noqa: PLR2004  # a clause is made of assertions about small numbers

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from satchel.errors import Fenced, MessageNotFound, SessionNotFound
from satchel.model import DEFAULT_TENANT, Epoch, MessageId, SessionId, Tenant, TurnStatus
from satchel.store.base import Admission, Started, Store, Turn
from satchel.testing.conformance.script import ERROR, Script, agent_spec, in_order_of_calls, session_key


class TurnClauses:
    """The life of a turn up to its end."""

    async def test_a_start_raises_the_epoch_and_counts(self, store: Store) -> None:
        """The epoch names the attempt; starts is the k of the cursor."""
        script = await Script.begin(store)
        await script.admit("m1")

        started = await script.start("m1")

        assert (started.turn, started.session) == (await script.turn("m1"), await script.session())
        assert (started.turn.status, started.turn.starts, started.turn.epoch) == (TurnStatus.RUNNING, 1, 1)
        assert (started.session.epoch, started.session.running_message_id, started.session.waiting) == (1, "m1", 0)

    async def test_a_message_can_start_as_it_is_admitted(self, store: Store) -> None:
        """A session that is idle needs one write, not two, before its worker can begin."""
        script = await Script.begin(store)

        first = await script.admit("m1", start=True)
        await script.fail("m1", Started(first.turn, first.session))
        again = await script.admit("m1", start=True)

        assert (first.is_started, first.turn.starts, first.turn.epoch, first.session.epoch) == (True, 1, 1, 1)
        assert (again.is_started, again.turn.starts, again.turn.starts_before, again.session.epoch) == (True, 2, 1, 3)
        assert (again.turn, again.session) == (await script.turn("m1"), await script.session())

    async def test_a_start_can_leave_epochs_out(self, store: Store) -> None:
        """An attempt may have them whose start was never durable: it must stay fenced out."""
        script = await Script.begin(store)

        first = await script.admit("m1", start=True, skip=1)
        await script.admit("m2", start=True, skip=1)
        await script.fail("m1", Started(first.turn, first.session))
        second = await script.start("m2", skip=2)

        assert (first.turn.epoch, first.session.epoch, first.turn.starts) == (2, 2, 1)
        assert (second.turn.epoch, second.session.epoch, second.turn.starts) == (6, 6, 1)

    async def test_what_is_not_first_does_not_start_as_it_is_admitted(self, store: Store) -> None:
        """It waits for its turn, behind one that runs and behind one that waits."""
        script = await Script.begin(store)
        running = await script.admit("m1", start=True)
        second = await script.admit("m2", start=True)
        await script.fail("m1", Started(running.turn, running.session))
        third = await script.admit("m3", start=True)

        for admission in (second, third):
            assert (admission.is_started, admission.turn.status) == (False, TurnStatus.QUEUED)
        assert ((await script.session()).epoch, (await script.session()).waiting) == (2, 2)

    async def test_a_repeat_starts_nothing(self, store: Store) -> None:
        """It joins, whatever its first time is waiting for."""
        script = await Script.begin(store)
        queued = await script.admit("m1")

        again = await script.admit("m1", start=True)
        running = await script.start("m1")
        joined = await script.admit("m1", start=True)

        assert (again.is_repeat, again.is_started, again.turn) == (True, False, queued.turn)
        assert (joined.is_repeat, joined.is_started, joined.turn) == (True, False, running.turn)

    async def test_only_the_first_in_order_starts(self, store: Store) -> None:
        """Turns commit in the order in which they were accepted."""
        script = await Script.begin(store)
        await script.admit("m1")
        await script.admit("m2")

        with pytest.raises(Fenced):
            await script.start("m2")

        assert (await script.session()).epoch == 0

    async def test_one_turn_of_a_session_runs_at_a_time(self, store: Store) -> None:
        """Also when two ask for it at once."""
        script = await Script.begin(store)
        await script.admit("m1")
        await script.admit("m2")

        outcomes = await in_order_of_calls(script.start("m1"), script.start("m1"), script.start("m2"))

        assert [type(outcome) for outcome in outcomes] == [Started, Fenced, Fenced]
        assert (await script.session()).epoch == 1

    async def test_a_start_asked_for_right_behind_a_commit_stands_on_it(self, store: Store) -> None:
        """The next turn need not wait for the disk once more; behind a commit that is refused, it does not begin."""
        script = await Script.begin(store)
        running = await script.run("m1")
        await script.admit("m2")
        commit = script.commit_of(running)
        late = msgspec.structs.replace(commit, epoch=Epoch(commit.epoch + 1))

        refused = await in_order_of_calls(script.commit(late), script.start("m2"))
        committed, started = await in_order_of_calls(script.commit(commit), script.start("m2"))

        assert [type(outcome) for outcome in refused] == [Fenced, Fenced]
        assert isinstance(started, Started)
        assert committed == await script.turn("m1")
        assert (started.turn, started.session) == (await script.turn("m2"), await script.session())
        assert (started.session.head.version, started.session.epoch) == (1, 2)

    async def test_an_unknown_message_cannot_start(self, store: Store) -> None:
        """It is not found, rather than fenced: nobody was first."""
        script = await Script.begin(store)

        with pytest.raises(SessionNotFound):
            await script.start("m1")
        await script.admit("m1")
        with pytest.raises(MessageNotFound):
            await script.start("m2")

    async def test_a_turn_that_ended_cannot_start(self, store: Store) -> None:
        """However it ended."""
        script = await Script.begin(store)
        await script.commit_turn("committed")
        await script.fail("failed", await script.run("failed"))
        await script.admit("cancelled")
        await script.cancel("cancelled")

        for message_id in ("committed", "failed", "cancelled"):
            with pytest.raises(Fenced):
                await script.start(message_id)

    async def test_a_requeued_turn_keeps_its_place(self, store: Store) -> None:
        """A turn whose worker was lost is first again: the next must not overtake it."""
        script = await Script.begin(store)
        started = await script.run("m1")
        await script.admit("m2")

        turn = await script.log.requeue(script.key, MessageId("m1"), started.session.epoch)

        assert (turn.status, turn.place, turn.starts, turn.epoch) == (TurnStatus.QUEUED, 1, 1, None)
        with pytest.raises(Fenced):
            await script.start("m2")
        again = await script.start("m1")
        assert (again.turn.starts, again.turn.starts_before, again.session.epoch) == (2, 0, 2)

    async def test_only_the_running_attempt_is_requeued(self, store: Store) -> None:
        """Word of an older attempt's loss must not stop the one that runs now."""
        script = await Script.begin(store)
        first = await script.run("m1")
        await script.log.requeue(script.key, MessageId("m1"), first.session.epoch)

        with pytest.raises(Fenced):
            await script.log.requeue(script.key, MessageId("m1"), first.session.epoch)
        second = await script.start("m1")
        with pytest.raises(Fenced):
            await script.log.requeue(script.key, MessageId("m1"), first.session.epoch)

        assert await script.turn("m1") == second.turn

    async def test_a_worker_deadline_is_set_once(self, store: Store) -> None:
        """A hub that restarts must not give the turn a longer wait."""
        script = await Script.begin(store)
        await script.admit("m1")

        first = await script.log.wait_for_worker(script.key, MessageId("m1"), 31_000)
        second = await script.log.wait_for_worker(script.key, MessageId("m1"), 99_000)

        assert (first.worker_deadline_ms, second.worker_deadline_ms) == (31_000, 31_000)
        assert second == await script.turn("m1")

    async def test_a_start_ends_the_wait_for_a_worker(self, store: Store) -> None:
        """A turn whose worker is lost later waits anew."""
        script = await Script.begin(store)
        await script.admit("m1")
        await script.log.wait_for_worker(script.key, MessageId("m1"), 31_000)
        started = await script.start("m1")

        await script.log.requeue(script.key, MessageId("m1"), started.session.epoch)

        turn = await script.log.wait_for_worker(script.key, MessageId("m1"), 99_000)
        assert turn.worker_deadline_ms == 99_000

    async def test_only_a_queued_turn_waits_for_a_worker(self, store: Store) -> None:
        """One that runs has one; the call tells how the turn stands."""
        script = await Script.begin(store)
        started = await script.run("m1")

        assert await script.log.wait_for_worker(script.key, MessageId("m1"), 31_000) == started.turn

    async def test_a_queued_turn_fails(self, store: Store) -> None:
        """No worker came in time."""
        script = await Script.begin(store)
        await script.admit("m1")

        turn = await script.fail("m1")

        assert (turn.status, turn.error, turn.finished_at_ms) == (TurnStatus.FAILED, ERROR, 3_000)
        session = await script.session()
        assert (session.waiting, session.epoch, session.updated_at_ms) == (0, 0, 3_000)

    async def test_a_running_turn_that_fails_raises_the_epoch(self, store: Store) -> None:
        """Its attempt may still be on its way with a result."""
        script = await Script.begin(store)
        started = await script.run("m1")

        turn = await script.fail("m1", started)

        assert (turn.status, turn.error, turn.epoch, turn.starts) == (TurnStatus.FAILED, ERROR, None, 1)
        session = await script.session()
        assert (session.running_message_id, session.epoch) == (None, 2)

    async def test_only_what_the_caller_saw_fails(self, store: Store) -> None:
        """A turn that was queued when its end was decided may run by now, and the reverse."""
        script = await Script.begin(store)
        await script.admit("m1")
        with pytest.raises(Fenced):
            await script.log.fail(script.key, MessageId("m1"), ERROR, epoch=Epoch(1), now_ms=3_000)
        started = await script.start("m1")
        with pytest.raises(Fenced):
            await script.fail("m1")
        with pytest.raises(Fenced):
            await script.log.fail(script.key, MessageId("m1"), ERROR, epoch=Epoch(2), now_ms=3_000)

        assert await script.turn("m1") == started.turn

    async def test_a_final_turn_does_not_fail(self, store: Store) -> None:
        """What was answered stays the answer."""
        script = await Script.begin(store)
        committed = await script.commit_turn("m1")

        with pytest.raises(Fenced):
            await script.fail("m1")

        assert await script.turn("m1") == committed

    async def test_a_queued_turn_is_cancelled(self, store: Store) -> None:
        """And the one behind it is first."""
        script = await Script.begin(store)
        await script.admit("m1")
        await script.admit("m2")

        turn = await script.cancel("m1")

        assert (turn.status, turn.error, turn.finished_at_ms) == (TurnStatus.CANCELLED, None, 3_000)
        assert (await script.start("m2")).turn.status is TurnStatus.RUNNING

    async def test_cancelling_a_running_turn_raises_the_epoch(self, store: Store) -> None:
        """So that a commit on its way is fenced."""
        script = await Script.begin(store)
        await script.run("m1")

        turn = await script.cancel("m1")

        assert (turn.status, turn.epoch) == (TurnStatus.CANCELLED, None)
        assert (await script.session()).epoch == 2

    async def test_cancelling_a_final_turn_changes_nothing(self, store: Store) -> None:
        """If the commit was first, the answer is the committed message."""
        script = await Script.begin(store)
        committed = await script.commit_turn("m1")
        before = await script.session()

        assert await script.cancel("m1") == committed

        assert await script.session() == before

    async def test_cancelling_what_does_not_exist_is_not_found(self, store: Store) -> None:
        """It cannot be cancelled in advance."""
        script = await Script.begin(store)
        await script.admit("m1")

        with pytest.raises(MessageNotFound):
            await script.cancel("m2")

    async def test_a_session_or_message_that_is_not_there_is_not_found(self, store: Store) -> None:
        """By name, so that a caller knows which of the two to correct."""
        script = await Script.begin(store)

        with pytest.raises(SessionNotFound):
            await script.turn("m1")
        with pytest.raises(SessionNotFound):
            await script.log.turns(script.key, limit=10, before=None)
        await script.admit("m1")
        with pytest.raises(MessageNotFound):
            await script.turn("m2")

    async def test_turns_are_paged_from_the_newest_oldest_first(self, store: Store) -> None:
        """A transcript is read from its end and shown from the top."""
        script = await Script.begin(store)
        for number in range(1, 6):
            await script.admit(f"m{number}")

        last = await script.log.turns(script.key, limit=2, before=None)
        before = await script.log.turns(script.key, limit=2, before=last[0].place)

        assert [turn.message_id for turn in last] == ["m4", "m5"]
        assert [turn.message_id for turn in before] == ["m2", "m3"]
        assert await script.log.turns(script.key, limit=2, before=1) == []

    async def test_sessions_are_paged_by_id(self, store: Store) -> None:
        """A page goes on where the last ended, whatever was created meanwhile."""
        for session_id in ("b", "a", "B", "c"):
            await (await Script.begin(store, session_key(session_id))).admit("m1")

        first = await store.log.sessions(DEFAULT_TENANT, agent=None, limit=2, after=None)
        rest = await store.log.sessions(DEFAULT_TENANT, agent=None, limit=10, after=SessionId("a"))

        assert [session.key.session_id for session in first] == ["B", "a"]
        assert [session.key.session_id for session in rest] == ["b", "c"]

    async def test_sessions_are_listed_by_agent(self, store: Store) -> None:
        """The filter counts before the limit does."""
        await store.log.register_agent(DEFAULT_TENANT, agent_spec("porter"))
        await (await Script.begin(store, session_key("a"))).admit("m1")
        porter = await Script.begin(store, session_key("b"))
        await porter.admit("m1", agent="porter")

        found = await store.log.sessions(DEFAULT_TENANT, agent="porter", limit=1, after=None)

        assert found == [await porter.session()]

    async def test_unfinished_turns_are_listed_in_order(self, store: Store) -> None:
        """It is what a hub that restarts takes up."""
        for session_id in ("b", "a"):
            script = await Script.begin(store, session_key(session_id))
            await script.commit_turn("committed")
            await script.run("running")
            await script.admit("queued")
            await script.admit("cancelled")
            await script.cancel("cancelled")

        turns = await store.log.unfinished()

        assert [(turn.key.session_id, turn.message_id) for turn in turns] == [
            ("a", "running"),
            ("a", "queued"),
            ("b", "running"),
            ("b", "queued"),
        ]

    async def test_unfinished_turns_are_every_tenants(self, store: Store) -> None:
        """A hub takes up the work of all; nobody else asks on a tenant's behalf."""
        for tenant in ("b", "a"):
            await (await Script.begin(store, session_key("s", Tenant(tenant)))).run("m1")

        assert [turn.key.tenant for turn in await store.log.unfinished()] == ["a", "b"]

    async def test_calls_on_a_session_take_effect_in_the_order_in_which_they_were_made(self, store: Store) -> None:
        """Whatever they are: what a hub asks for second may stand on the first."""
        script = await Script.begin(store)

        outcomes = await in_order_of_calls(
            script.admit("m1"), script.start("m1"), script.cancel("m1"), script.admit("m2"), script.start("m2")
        )

        assert [type(outcome) for outcome in outcomes] == [Admission, Started, Turn, Admission, Started]
        assert (await script.session()).epoch == 3

    async def test_close_finishes_what_was_begun(self, opens: Callable[[], Awaitable[Store]]) -> None:
        """A hub that stops has told nobody that its last writes failed. Closing again does nothing."""
        store = await opens()
        script = await Script.begin(store)
        calls = [asyncio.ensure_future(script.admit(f"m{number}")) for number in range(8)]
        await asyncio.sleep(0)  # the calls are made

        await store.close()
        await store.close()

        admitted = [each.turn.message_id for each in await asyncio.gather(*calls)]
        store = await opens()
        try:
            assert [turn.message_id for turn in await store.log.unfinished()] == admitted
        finally:
            await store.close()
