"""Clauses of ``register_agent``, ``agents`` and ``admit``."""

# ruff: noqa: PLR2004  # a clause is made of assertions about small numbers

import pytest

from satchel.errors import (
    AgentMismatch,
    AgentNotFound,
    InvalidRequest,
    MessageIdReused,
    MessageNotFound,
    QueueFull,
    SchemaRefused,
    SessionBusy,
    SessionNotFound,
)
from satchel.model import DEFAULT_TENANT, OnBusy, SchemaName, Tenant, TurnStatus, first_state_id
from satchel.store.base import Admission, Store
from satchel.testing.conformance.script import Script, agent_spec, in_order_of_calls, session_key


class AdmissionClauses:
    """What becomes of a message on arrival."""

    async def test_agents_are_listed_by_name_as_last_registered(self, store: Store) -> None:
        """The newest registration is what a message is admitted by."""
        for spec in (agent_spec("porter"), agent_spec("clerk"), agent_spec("porter", on_busy=OnBusy.REJECT)):
            await store.log.register_agent(DEFAULT_TENANT, spec)

        agents = await store.log.agents(DEFAULT_TENANT)

        assert list(agents) == [agent_spec("clerk"), agent_spec("porter", on_busy=OnBusy.REJECT)]

    async def test_a_repeated_registration_changes_nothing(self, store: Store) -> None:
        """Every worker that connects registers, all day long."""
        for _ in range(2):
            await store.log.register_agent(DEFAULT_TENANT, agent_spec())

        assert list(await store.log.agents(DEFAULT_TENANT)) == [agent_spec()]

    async def test_another_fingerprint_under_a_known_number_is_refused(self, store: Store) -> None:
        """Tables that changed without a migration would make deltas of two shapes."""
        await store.log.register_agent(DEFAULT_TENANT, agent_spec())

        with pytest.raises(SchemaRefused):
            await store.log.register_agent(DEFAULT_TENANT, agent_spec(schema=SchemaName(1, b"g" * 32)))

        assert list(await store.log.agents(DEFAULT_TENANT)) == [agent_spec()]

    async def test_an_earlier_number_keeps_its_fingerprint(self, store: Store) -> None:
        """A worker of the build before may come back, and only with the tables it had."""
        await store.log.register_agent(DEFAULT_TENANT, agent_spec())
        await store.log.register_agent(DEFAULT_TENANT, agent_spec(schema=SchemaName(2, b"g" * 32)))

        await store.log.register_agent(DEFAULT_TENANT, agent_spec())
        with pytest.raises(SchemaRefused):
            await store.log.register_agent(DEFAULT_TENANT, agent_spec(schema=SchemaName(1, b"g" * 32)))

    async def test_a_session_begins_with_its_first_message(self, store: Store) -> None:
        """Nobody creates sessions: the first message does, and its state ID starts the chain."""
        script = await Script.begin(store)

        admission = await script.admit("m1", metadata={"room": 7})

        session = admission.session
        assert session == await script.session()
        assert (session.agent, session.metadata, session.epoch, session.waiting) == ("clerk", {"room": 7}, 0, 1)
        assert (session.head.version, session.head.state_id) == (0, first_state_id(script.key))
        assert (session.schema, session.digest, session.running_message_id) == (None, None, None)
        assert (session.created_at_ms, session.updated_at_ms) == (1_000, 1_000)

    async def test_a_new_message_is_queued(self, store: Store) -> None:
        """It can be read back the moment it is admitted."""
        script = await Script.begin(store)

        admission = await script.admit("m1")

        turn = admission.turn
        assert turn == await script.turn("m1")
        assert not admission.is_repeat
        assert (turn.status, turn.place, turn.starts, turn.starts_before) == (TurnStatus.QUEUED, 1, 0, 0)
        assert (turn.epoch, turn.version, turn.answer, turn.error) == (None, None, None, None)
        assert (turn.worker_deadline_ms, turn.accepted_at_ms, turn.finished_at_ms) == (None, 1_000, None)

    async def test_what_was_sent_is_kept_exactly(self, store: Store) -> None:
        """Text is any Unicode, metadata any JSON, also what a database might take for an end or a number."""
        script = await Script.begin(store)
        text = "a\0b\n\u00e9\U0001f600'\"; DROP TABLE turn"
        metadata = {"big": 2**70, "float": 0.1, "none": None, "list": [True, {"\0": ""}]}

        await script.admit("m1", text=text, metadata=metadata)

        turn = await script.turn("m1")
        assert (turn.text, turn.metadata) == (text, metadata)

    async def test_a_session_keeps_its_first_messages_metadata(self, store: Store) -> None:
        """Also when that message is sent again and stands later in the order."""
        script = await Script.begin(store)
        await script.admit("m1", metadata={"first": 1})
        await script.admit("m2", metadata={"second": 2})
        await script.fail("m1")
        await script.admit("m1", metadata={"first": 1})

        assert (await script.session()).metadata == {"first": 1}

    async def test_an_unknown_agent_leaves_nothing(self, store: Store) -> None:
        """A refused first message must not leave an empty session behind."""
        script = await Script.begin(store)

        with pytest.raises(AgentNotFound):
            await script.admit("m1", agent="nobody")

        with pytest.raises(SessionNotFound):
            await script.session()
        assert not await store.log.sessions(DEFAULT_TENANT, agent=None, limit=10, after=None)

    async def test_the_only_agent_need_not_be_named(self, store: Store) -> None:
        """The first example is one agent; naming it would be noise."""
        script = await Script.begin(store)

        admission = await script.admit("m1", agent=None)

        assert admission.turn.agent == "clerk"

    async def test_one_of_several_agents_must_be_named(self, store: Store) -> None:
        """A guess would fix the session's agent for ever."""
        script = await Script.begin(store)
        await store.log.register_agent(DEFAULT_TENANT, agent_spec("porter"))

        with pytest.raises(InvalidRequest):
            await script.admit("m1", agent=None)

        with pytest.raises(SessionNotFound):
            await script.session()

    async def test_no_agent_known_and_none_named_is_refused(self, store: Store) -> None:
        """There is nothing to choose from."""
        with pytest.raises(InvalidRequest):
            await Script(store).admit("m1", agent=None)

    async def test_the_first_message_fixes_the_agent(self, store: Store) -> None:
        """Later ones may leave it out, or say the same, and nothing else."""
        script = await Script.begin(store)
        await store.log.register_agent(DEFAULT_TENANT, agent_spec("porter"))
        await script.admit("m1")

        assert (await script.admit("m2", agent=None)).turn.agent == "clerk"
        with pytest.raises(AgentMismatch):
            await script.admit("m3", agent="porter")
        with pytest.raises(MessageNotFound):
            await script.turn("m3")

    async def test_a_repeat_of_a_queued_message_changes_nothing(self, store: Store) -> None:
        """It joins: the turn keeps its place."""
        script = await Script.begin(store)
        first = await script.admit("m1")
        before = (await script.admit("m2")).session

        again = await script.admit("m1", at_ms=9_000)

        assert again.is_repeat
        assert (again.turn, again.session) == (first.turn, before)

    async def test_a_repeat_of_a_running_message_changes_nothing(self, store: Store) -> None:
        """It joins: nothing is started twice."""
        script = await Script.begin(store)
        started = await script.run("m1")

        again = await script.admit("m1")

        assert again.is_repeat
        assert (again.turn, again.session) == (started.turn, started.session)

    async def test_a_repeat_of_a_committed_message_gives_its_answer(self, store: Store) -> None:
        """One message ID is one commit, whenever it is asked for again."""
        script = await Script.begin(store)
        committed = await script.commit_turn("m1")
        await script.commit_turn("m2")
        before = await script.session()

        again = await script.admit("m1", at_ms=9_000)

        assert again.is_repeat
        assert (again.turn, again.session) == (committed, before)

    async def test_a_repeat_of_a_cancelled_message_stays_cancelled(self, store: Store) -> None:
        """Stop means stop."""
        script = await Script.begin(store)
        await script.admit("m1")
        cancelled = await script.cancel("m1")
        before = await script.session()

        again = await script.admit("m1", at_ms=9_000)

        assert again.is_repeat
        assert (again.turn, again.session) == (cancelled, before)

    async def test_a_failed_message_sent_again_is_last_and_counts_anew(self, store: Store) -> None:
        """The caller decided to try again: behind what others asked for meanwhile, with fresh attempts."""
        script = await Script.begin(store)
        started = await script.run("m1")
        await script.admit("m2")
        await script.fail("m1", started)

        again = await script.admit("m1", at_ms=5_000)

        turn = again.turn
        assert not again.is_repeat
        assert (turn.status, turn.place, turn.starts, turn.starts_before) == (TurnStatus.QUEUED, 3, 1, 1)
        assert (turn.error, turn.finished_at_ms, turn.worker_deadline_ms) == (None, None, None)
        assert (turn.accepted_at_ms, again.session.updated_at_ms) == (1_000, 5_000)

    async def test_a_message_that_ended_before_any_start_uses_its_number_up(self, store: Store) -> None:
        """Its end was told under the numbers of the start it waited for: the next start needs greater ones."""
        script = await Script.begin(store)
        await script.admit("m1")
        await script.fail("m1")

        again = await script.admit("m1")

        assert (again.turn.starts, again.turn.starts_before) == (1, 1)
        assert (await script.start("m1")).turn.starts == 2

    async def test_a_reused_message_id_is_refused(self, store: Store) -> None:
        """Whatever became of the first: a new request under an old name would never run, or run in its place."""
        script = await Script.begin(store)
        await script.admit("queued")
        await script.admit("failed")
        await script.fail("failed")

        for message_id in ("queued", "failed"):
            with pytest.raises(MessageIdReused):
                await script.admit(message_id, text="another text")
            with pytest.raises(MessageIdReused):
                await script.admit(message_id, metadata={"other": True})

        assert (await script.turn("failed")).status is TurnStatus.FAILED

    async def test_reject_refuses_while_a_turn_runs(self, store: Store) -> None:
        """And names it, and leaves nothing."""
        script = await Script.begin(store)
        await script.run("m1")

        with pytest.raises(SessionBusy) as refused:
            await script.admit("m2", on_busy=OnBusy.REJECT)

        assert refused.value.details == {"running_message_id": "m1", "waiting": 0}
        with pytest.raises(MessageNotFound):
            await script.turn("m2")

    async def test_reject_refuses_while_a_turn_waits(self, store: Store) -> None:
        """A session with a queue is busy, whether or not a worker has come."""
        script = await Script.begin(store)
        await script.admit("m1")

        with pytest.raises(SessionBusy):
            await script.admit("m2", on_busy=OnBusy.REJECT)

    async def test_reject_accepts_in_an_idle_session(self, store: Store) -> None:
        """It is about what runs now, not about what ran."""
        script = await Script.begin(store)
        await script.commit_turn("m1")

        assert not (await script.admit("m2", on_busy=OnBusy.REJECT)).is_repeat

    async def test_the_agents_rule_holds_unless_the_message_says_otherwise(self, store: Store) -> None:
        """on_busy is per agent, overridable per message."""
        script = await Script.begin(store, on_busy=OnBusy.REJECT)
        await script.admit("m1")

        with pytest.raises(SessionBusy):
            await script.admit("m2")
        assert not (await script.admit("m2", on_busy=OnBusy.QUEUE)).is_repeat

    async def test_the_queue_holds_its_bound_and_no_more(self, store: Store) -> None:
        """At the bound a message waits; one past it is refused and leaves nothing."""
        script = await Script.begin(store)
        await script.run("running")
        for number in range(3):
            await script.admit(f"m{number}", queue_length_max=3)

        with pytest.raises(QueueFull) as refused:
            await script.admit("m3", queue_length_max=3)

        assert refused.value.details == {"waiting": 3}
        with pytest.raises(MessageNotFound):
            await script.turn("m3")

    async def test_a_repeat_needs_no_room_in_the_queue(self, store: Store) -> None:
        """It does not wait there a second time."""
        script = await Script.begin(store)
        await script.admit("m1", queue_length_max=1)

        assert (await script.admit("m1", queue_length_max=1)).is_repeat

    async def test_a_failed_message_needs_room_in_the_queue(self, store: Store) -> None:
        """It waits there again."""
        script = await Script.begin(store)
        await script.admit("m1")
        await script.fail("m1")
        await script.admit("m2", queue_length_max=1)

        with pytest.raises(QueueFull):
            await script.admit("m1", queue_length_max=1)

        assert (await script.turn("m1")).status is TurnStatus.FAILED

    async def test_messages_that_arrive_at_once_take_places_in_order(self, store: Store) -> None:
        """The store gives the order, and it is the one in which the calls were made."""
        script = await Script.begin(store)

        admissions = await in_order_of_calls(*(script.admit(f"m{number}") for number in range(20)))

        places = [each.turn.place for each in admissions if isinstance(each, Admission)]
        assert places == list(range(1, 21))

    async def test_the_same_message_twice_at_once_is_admitted_once(self, store: Store) -> None:
        """A caller's retry may overtake its first try."""
        script = await Script.begin(store)

        first, second = await in_order_of_calls(script.admit("m1"), script.admit("m1"))

        assert isinstance(first, Admission)
        assert isinstance(second, Admission)
        assert (first.is_repeat, second.is_repeat) == (False, True)
        assert first.turn == second.turn

    async def test_a_refused_message_undoes_only_itself(self, store: Store) -> None:
        """Writes may share a transaction; their fates they do not share."""
        script = await Script.begin(store)

        outcomes = await in_order_of_calls(
            script.admit("m1"), script.admit("m1", text="reused"), script.admit("m2"), script.admit("m3", agent="x")
        )

        assert [type(outcome) for outcome in outcomes] == [Admission, MessageIdReused, Admission, AgentMismatch]
        assert [turn.message_id for turn in await store.log.unfinished()] == ["m1", "m2"]

    async def test_tenants_share_nothing(self, store: Store) -> None:
        """The same names under another tenant are another agent, another session, another message."""
        ours = await Script.begin(store)
        theirs = Script(store, session_key("s", Tenant("another")))
        await ours.commit_turn("m1")

        assert not await store.log.agents(Tenant("another"))
        assert not await store.log.sessions(Tenant("another"), agent=None, limit=10, after=None)
        with pytest.raises(AgentNotFound):
            await theirs.admit("m1")
        with pytest.raises(SessionNotFound):
            await theirs.session()
        await store.log.register_agent(Tenant("another"), agent_spec())
        assert not (await theirs.admit("m1", text="another text")).is_repeat
        assert (await ours.session()).waiting == 0
