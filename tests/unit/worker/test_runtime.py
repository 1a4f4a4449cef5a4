"""The runtime, driven by frames as a hub sends them, on real states and without a socket."""

import asyncio
import threading

import msgspec
import pytest

from satchel.errors import StateTooLarge, TurnRefused
from satchel.model import DEFAULT_TENANT, PayloadKind, StateId, StateName
from satchel.protocol.messages import Committed, FailureCode, Registered, Released, Result
from satchel.worker import runtime
from satchel.worker.context import current_turn
from satchel.worker.worker import Worker
from tests.unit.worker.desk import SESSION, Desk, Notes, texts


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
async def desk(notes):
    async with Desk(notes.worker) as desk:
        yield desk


# --- the state is exactly the one that the request names --------------------------------------


async def test_the_first_version_is_a_snapshot_and_the_next_ones_are_deltas(desk):
    """A warm session sends only what changed."""
    kinds = [(await desk.turn(text)).payload.kind for text in ("a", "b", "c")]

    assert kinds == [PayloadKind.SNAPSHOT, PayloadKind.DELTA, PayloadKind.DELTA]


async def test_a_request_that_names_the_pending_version_commits_it(desk):
    """``committed`` may be lost with its link: the next request says which one is real."""
    await desk.turn("a")
    desk.record(await desk.result("b"))

    await desk.turn("c")

    assert desk.answers == ["1 notes", "2 notes", "3 notes"]


async def test_a_request_that_names_the_version_before_rolls_the_pending_one_back(desk):
    """A result that was never committed must leave no trace."""
    await desk.turn("a")
    await desk.result("lost")

    await desk.turn("b")

    assert desk.answers == ["1 notes", "2 notes", "2 notes"]


async def test_another_attempts_state_of_the_same_version_is_not_served(desk, notes):
    """Two attempts both made "version 2"; only the state ID tells them apart."""
    held = await desk.turn("a")
    other = StateName(held.name.version, StateId(bytes(16)))

    failure = await desk.outcome(desk.send("b", base=other))

    assert failure.code is FailureCode.SESSION_STATE_NOT_FOUND
    assert failure.held == held.name
    assert notes.runs == ["a"]


async def test_after_not_found_the_same_attempt_runs_on_the_chain(desk, notes):
    """The hub sends what is missing under the same epoch, once."""
    await desk.turn("a")
    await desk.turn("b")
    desk.release()
    request = desk.send("c")
    assert (await desk.outcome(request)).code is FailureCode.SESSION_STATE_NOT_FOUND

    desk.runtime.receive(msgspec.structs.replace(request, chain=tuple(desk.chain)))
    result = await desk.outcome(request)

    assert isinstance(result, Result)
    assert desk.answers[-1] == "3 notes"
    assert notes.runs == ["a", "b", "c"]


async def test_an_attempt_keeps_no_bytes_of_a_state_that_is_open(desk, notes):
    """A handler runs for minutes and a result waits for its commit; a state may be as large as the worker's memory."""
    await desk.turn("a")
    desk.release()
    gate = notes.hold("b")

    request = desk.send("b", chain=tuple(desk.chain), wants_snapshot=True)
    await notes.started("b")
    (attempt,) = desk.runtime._attempts.values()
    kept_by_the_handler = attempt.request.chain
    gate.set()
    result = await desk.outcome(request)

    assert kept_by_the_handler == ()
    assert result.payload.kind is PayloadKind.SNAPSHOT
    assert attempt.recorded.raw == b""


async def test_a_stale_copy_catches_up_by_the_deltas_it_lacks(desk, notes):
    """What it holds need not travel again, even if it is still pending here."""
    await desk.turn("a")
    async with Desk(notes.worker) as other:
        other.head, other.schema, other.chain = desk.head, desk.schema, list(desk.chain)
        pending = await other.result("b", chain=tuple(other.chain))
        other.record(pending)
        desk.head, desk.chain = other.head, other.chain
        after = await desk.turn("c", chain=tuple(desk.chain[-1:]))

        other.record(after)
        await other.turn("d", chain=(other.chain[-1],), epoch=9)

    assert desk.answers == ["1 notes", "3 notes"]
    assert other.answers[-1] == "4 notes"


async def test_a_corrupt_chain_is_refused_by_name_and_the_copy_dropped(desk, caplog):
    """Damage must not be served, and the session goes on from what the hub has."""
    for text in ("a", "b", "c"):
        await desk.turn(text)
    good = list(desk.chain)
    bad_payload = msgspec.structs.replace(good[1].payload, checksum=bytes(16))
    bad = (good[0], msgspec.structs.replace(good[1], payload=bad_payload), good[2])
    desk.release()

    failure = await desk.outcome(desk.send("d", chain=bad))

    assert (failure.code, failure.held) == (FailureCode.SESSION_STATE_NOT_FOUND, None)
    assert "CorruptPayload" in caplog.records[-1].error
    await desk.turn("d", chain=tuple(good))
    assert desk.answers[-1] == "4 notes"


async def test_a_schema_that_the_worker_does_not_serve_is_refused(desk, notes):
    """A session written by a newer build never runs on an older one."""
    await desk.turn("a")
    newer = msgspec.structs.replace(desk.schema, number=7)

    failure = await desk.outcome(desk.send("b", schema=newer))

    assert failure.code is FailureCode.INTERNAL_ERROR
    assert "schema number 7" in failure.message
    assert notes.runs == ["a"]


async def test_an_agent_that_the_worker_does_not_have_is_refused(desk):
    failure = await desk.outcome(desk.send("a", agent="other"))

    assert failure.code is FailureCode.INTERNAL_ERROR


async def test_a_corrupt_delta_costs_the_copy_that_it_was_applied_to(desk):
    """What is left of it has no name: the next warm request must not find it."""
    await desk.turn("a")
    await desk.turn("b")
    behind = desk.chain[-1]
    bad_payload = msgspec.structs.replace(behind.payload, checksum=bytes(16))
    later = StateName(desk.head.version + 1, StateId(bytes(16)))
    bad = msgspec.structs.replace(behind, name=later, payload=bad_payload)

    failure = await desk.outcome(desk.send("c", base=later, chain=(bad,)))

    assert (failure.code, failure.held) == (FailureCode.SESSION_STATE_NOT_FOUND, None)
    assert (await desk.outcome(desk.send("d"))).code is FailureCode.SESSION_STATE_NOT_FOUND


# --- one attempt, the one of the highest epoch ------------------------------------------------


async def test_a_repeated_request_runs_once(desk, notes):
    """Whether the attempt runs, is pending or has failed."""
    gate = notes.hold("a")
    request = desk.send("a")
    await notes.started("a")
    desk.runtime.receive(request)
    gate.set()
    desk.commit(await desk.outcome(request))
    desk.runtime.receive(request)
    await desk.turn("b")

    assert notes.runs == ["a", "b"]


async def test_a_stale_epoch_is_refused_while_a_newer_attempt_runs(desk, notes):
    """A request that was overtaken must not touch what the newer one works on."""
    gate = notes.hold("new")
    newer = desk.send("new", epoch=5)
    await notes.started("new")

    failure = await desk.outcome(desk.send("old", epoch=4))
    gate.set()

    assert failure.code is FailureCode.CANCELLED
    assert isinstance(await desk.outcome(newer), Result)
    assert notes.runs == ["new"]


async def test_a_higher_epoch_stops_the_older_attempt_and_sees_none_of_its_writes(desk, notes):
    """The older one was given up by the hub; the newer starts from the committed state."""
    await desk.turn("a")
    notes.hold("old")
    older = desk.send("old")
    await notes.started("old")

    newer = desk.send("new")

    assert (await desk.outcome(older)).code is FailureCode.CANCELLED
    desk.commit(await desk.outcome(newer))
    assert desk.answers[-1] == "2 notes"


async def test_a_chain_of_newer_requests_ends_in_the_newest(desk, notes):
    """Those between never begin: each waits for the one before it to let go."""
    notes.hold("1")
    first = desk.send("1")
    await notes.started("1")
    between = [desk.send(text) for text in ("2", "3")]
    newest = desk.send("4")

    outcomes = {frame.attempt: frame for frame in [await desk.outcome() for _ in range(4)]}

    assert [outcomes[each.attempt].code for each in (first, *between)] == [FailureCode.CANCELLED] * 3
    assert isinstance(outcomes[newest.attempt], Result)
    assert notes.runs == ["1", "4"]


async def test_a_handler_that_does_not_stop_loses_its_copy():
    """Nobody waits for it longer than the grace, and nothing it does later can be seen."""
    stubborn = Worker("stubborn", schema="CREATE TABLE t (id INTEGER PRIMARY KEY) STRICT;")
    release, running = asyncio.Event(), asyncio.Event()

    @stubborn.on_message
    async def never_stops(turn):
        turn.state.execute("INSERT INTO t DEFAULT VALUES")
        while turn.text == "stuck" and not release.is_set():
            running.set()
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return str(turn.state.execute("SELECT count(*) FROM t").scalar())

    async with Desk(stubborn, cancel_grace_s=0) as desk:
        await desk.turn("a")
        stuck = desk.send("stuck")
        await running.wait()

        newer = desk.send("b")
        assert (await desk.outcome()).attempt == newer.attempt
        desk.runtime.receive(msgspec.structs.replace(newer, chain=tuple(desk.chain)))
        desk.commit(await desk.outcome(newer))
        release.set()

        assert (await desk.outcome(stuck)).code is FailureCode.CANCELLED
        await desk.turn("c")
        assert desk.answers == ["1", "2", "3"]


# --- cancel, at each point --------------------------------------------------------------------


async def test_cancel_before_the_handler_begins(desk, notes):
    """The frames may arrive in one go."""
    request = desk.send("a")
    desk.cancel(request)

    assert (await desk.outcome(request)).code is FailureCode.CANCELLED
    assert notes.runs == []


async def test_cancel_while_the_handler_runs_leaves_no_trace_and_a_warm_copy(desk, notes):
    await desk.turn("a")
    notes.hold("b")
    request = desk.send("b")
    await notes.started("b")

    desk.cancel(request)

    assert (await desk.outcome(request)).code is FailureCode.CANCELLED
    await desk.turn("c")
    assert desk.answers[-1] == "2 notes"


async def test_cancel_of_a_pending_result_rolls_it_back(desk):
    await desk.turn("a")
    request = desk.send("b")
    await desk.outcome(request)

    desk.cancel(request)

    assert desk.runtime._copies.get(SESSION).session.pending is None
    await desk.turn("c")
    assert desk.answers[-1] == "2 notes"


async def test_cancel_while_a_large_result_is_compressed(monkeypatch):
    """Sealing is in a thread then: its end must find the attempt cancelled."""
    large = Worker("large")
    sealing, go_on = asyncio.Event(), threading.Event()
    loop, seal = asyncio.get_running_loop(), runtime.seal

    def seal_slowly(kind, raw):
        loop.call_soon_threadsafe(sealing.set)
        go_on.wait()
        return seal(kind, raw)

    @large.on_message
    async def grow(turn):
        turn.state["blob"] = [turn.text] * 200_000

    monkeypatch.setattr(runtime, "seal", seal_slowly)
    async with Desk(large) as desk:
        request = desk.send("a")
        await sealing.wait()
        desk.cancel(request)
        go_on.set()

        assert (await desk.outcome(request)).code is FailureCode.CANCELLED
        await desk.turn("b")
        assert desk.head.version == 1


async def test_committed_for_an_older_attempt_changes_nothing(desk, notes):
    """A newer request has said already what became of the older result."""
    await desk.turn("a")
    lost = await desk.result("lost")
    gate = notes.hold("b")
    newer = desk.send("b")
    await notes.started("b")

    desk.runtime.receive(Committed(lost.attempt))
    gate.set()

    desk.commit(await desk.outcome(newer))
    assert desk.answers[-1] == "2 notes"


# --- results ------------------------------------------------------------------------------------


async def test_a_pending_result_is_sent_again_as_a_snapshot(desk):
    """The hub asks for it when it refused the delta; the version is then that snapshot."""
    await desk.turn("a")
    delta = await desk.result("b")

    desk.need_snapshot(delta)
    snapshot = await desk.outcome()

    assert (delta.payload.kind, snapshot.payload.kind) == (PayloadKind.DELTA, PayloadKind.SNAPSHOT)
    assert snapshot.name.state_id != delta.name.state_id
    desk.commit(snapshot)
    await desk.turn("c")
    assert desk.answers[-1] == "3 notes"


async def test_a_delta_over_the_requests_bound_is_sent_as_a_snapshot(desk):
    """The chain must stay loadable in one frame."""
    await desk.turn("a")

    result = await desk.turn("b", delta_bytes_max=0)

    assert result.payload.kind is PayloadKind.SNAPSHOT
    await desk.turn("c")
    assert desk.answers[-1] == "3 notes"


async def test_a_result_brings_the_digest_that_was_asked_for(desk):
    await desk.turn("a")

    result = await desk.turn("b", wants_digest=True)

    desk.release()
    assert result.digest is not None
    await desk.turn("c", chain=tuple(desk.chain), digest=result.digest)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("secret"), FailureCode.TEXT_HANDLER_ERROR, "ValueError"),
        (TurnRefused("We are full."), FailureCode.TURN_REFUSED, "We are full."),
        (StateTooLarge("Too much."), FailureCode.STATE_TOO_LARGE, "Too much."),
        (asyncio.CancelledError(), FailureCode.TEXT_HANDLER_ERROR, "CancelledError"),
        (SystemExit(3), FailureCode.TEXT_HANDLER_ERROR, "TurnMisused"),
    ],
)
async def test_a_handler_that_raises_changes_nothing_and_stays_warm(error, code, message):
    """The caller learns the class; only a refusal's text is for the caller."""
    worker = Worker("raising")

    @worker.on_message
    async def reply(turn):
        turn.state["n"] = turn.state.get("n", 0) + 1
        if turn.text == "raise":
            raise error
        return str(turn.state["n"])

    async with Desk(worker) as desk:
        await desk.turn("a")
        failure = await desk.outcome(desk.send("raise"))
        await desk.turn("b")

    assert (failure.code, failure.message) == (code, message)
    assert desk.answers == ["1", "2"]


async def test_a_value_that_is_not_json_at_the_end_fails_the_turn_only():
    """What the handler left behind is the handler's failure, not the worker's."""
    worker = Worker("untidy")

    @worker.on_message
    async def reply(turn):
        turn.state.setdefault("list", []).append(object() if turn.text == "bad" else 1)
        return "ok"

    async with Desk(worker) as desk:
        await desk.turn("a")
        failure = await desk.outcome(desk.send("bad"))
        await desk.turn("b")

    assert (failure.code, failure.message) == (FailureCode.TEXT_HANDLER_ERROR, "StateMisused")


async def test_a_say_that_was_never_awaited_fails_the_turn_by_name(caplog):
    """A forgotten await would drop an answer in silence."""
    worker = Worker("forgetful")

    @worker.on_message
    async def reply(turn):
        turn.say("lost")

    async with Desk(worker) as desk:
        failure = await desk.outcome(desk.send("a"))

    assert failure.message == "NotAwaited"
    assert "test_runtime.py:" in caplog.text
    assert "forgetful." in caplog.text


# --- plain handlers -----------------------------------------------------------------------------


async def test_a_plain_handler_runs_in_a_thread_with_its_turn_at_hand():
    """Blocking code is welcome there; it must not hold the loop."""
    worker = Worker("plain")
    seen = []

    @worker.on_message
    def reply(turn):
        seen.append(threading.current_thread() is threading.main_thread())
        seen.append(current_turn() is turn)
        turn.state["n"] = 1
        yield "one "
        yield "two"

    async with Desk(worker) as desk:
        await desk.turn("a")

    assert seen == [False, True]
    assert desk.answers == ["one two"]


async def test_a_plain_handler_that_is_cancelled_is_waited_for():
    """A thread cannot be stopped: it uses the copy until it ends, and learns that it should."""
    worker = Worker("plain")
    begun, told = threading.Event(), []

    @worker.on_message
    def reply(turn):
        if turn.text == "slow":
            begun.set()
            while not turn.is_cancelled:
                pass
            told.append(turn.is_cancelled)
        return "ok"

    async with Desk(worker) as desk:
        request = desk.send("slow")
        await asyncio.to_thread(begun.wait)
        desk.cancel(request)

        assert (await desk.outcome(request)).code is FailureCode.CANCELLED
        await desk.turn("b")

    assert told == [True]


# --- the link goes and comes ----------------------------------------------------------------------


def adopt(desk, names):
    desk.runtime.receive(Registered(DEFAULT_TENANT, 5.0, adopted=tuple(names)))


async def test_a_lost_link_ends_no_attempt_and_its_events_are_sent_again():
    """The attempt belongs to the process: the handler runs once, the reader sees one stream."""
    worker = Worker("talker")
    gate = asyncio.Event()
    runs = []

    @worker.on_message
    async def reply(turn):
        runs.append(turn.text)
        await turn.say("before")
        await gate.wait()
        await turn.say("after")

    async with Desk(worker) as desk:
        request = desk.send("a")
        while not desk.answers:
            await desk.see()
        desk.runtime.link_lost()
        gate.set()
        await desk.settle()
        assert desk.sent() == []

        register = desk.runtime.registration()
        adopt(desk, [request.attempt])
        frames = [await desk.see() for _ in range(3)]

    assert register.attempts == (request.attempt,)
    assert [frame.index for frame in frames[:2]] == [1, 2]
    assert texts(frames) == ["before", "after"]
    assert isinstance(frames[2], Result)
    assert runs == ["a"]


async def test_a_failure_while_the_link_is_down_is_kept_for_the_hub():
    """A handler's own exception is not repeated, so its verdict must not be lost."""
    worker = Worker("raising")
    gate = asyncio.Event()

    @worker.on_message
    async def reply(_turn):
        await gate.wait()
        raise TurnRefused("no")

    async with Desk(worker) as desk:
        request = desk.send("a")
        await desk.settle()
        desk.runtime.link_lost()
        gate.set()
        await desk.settle()

        assert desk.runtime.registration().attempts == (request.attempt,)
        adopt(desk, [request.attempt])

        assert (await desk.outcome(request)).code is FailureCode.TURN_REFUSED
        assert desk.runtime.registration().attempts == ()


async def test_an_attempt_that_ends_between_its_registration_and_the_hubs_answer_is_heard_of(desk):
    """The hub goes on with it by then: nobody else would tell it that there is nothing to wait for."""
    await desk.turn("a")
    desk.release()
    desk.runtime.link_lost()
    request = desk.send("b")  # warm, and the copy is gone
    register = desk.runtime.registration()
    await desk.settle()

    adopt(desk, register.attempts)

    assert register.attempts == (request.attempt,)
    assert (await desk.outcome(request)).code is FailureCode.SESSION_STATE_NOT_FOUND


async def test_an_attempt_that_the_hub_does_not_adopt_is_cancelled_and_rolled_back(desk):
    """Another attempt or answer took its place."""
    await desk.turn("a")
    request = desk.send("b")
    await desk.outcome(request)
    desk.runtime.link_lost()

    register = desk.runtime.registration()
    adopt(desk, [])
    desk.cancel(request)

    assert [held.name for held in register.held] == [desk.head]
    await desk.turn("c")
    assert desk.answers[-1] == "2 notes"


# --- warm sessions --------------------------------------------------------------------------------


async def test_an_idle_copy_is_released_when_room_is_needed_and_a_busy_one_is_not(notes):
    """Eviction under a running turn would fail it."""
    async with Desk(notes.worker, warm_bytes_max=0) as desk:
        result = await desk.result("a")
        assert not any(isinstance(frame, Released) for frame in desk.sent())

        desk.commit(result)
        await desk.settle()

        assert desk.sent() == [Released(SESSION)]
        assert desk.runtime.registration().held == ()


async def test_release_drops_an_idle_copy_and_leaves_a_busy_one(desk):
    result = await desk.result("a")

    desk.release()
    desk.commit(result)
    assert len(desk.runtime.registration().held) == 1
    desk.release()

    assert desk.runtime.registration().held == ()


# --- the end --------------------------------------------------------------------------------------


async def test_stopping_gives_running_attempts_up(desk, notes):
    """They run again elsewhere: as if the worker was lost, but at once."""
    notes.hold("a")
    request = desk.send("a")
    await notes.started("a")

    stuck = await desk.runtime.stop(grace_s=0)

    assert stuck == []
    assert (await desk.outcome(request)).code is FailureCode.PROCESS_CLOSED


async def test_stopping_names_the_handler_that_does_not_stop():
    """Only the end of the process ends it: the operator is told which."""
    worker = Worker("stubborn")
    begun, release = threading.Event(), threading.Event()

    @worker.on_message
    def blocks(turn):
        begun.set()
        release.wait()
        return turn.text

    desk = Desk(worker, cancel_grace_s=0)
    request = desk.send("a")
    await asyncio.to_thread(begun.wait)

    stuck = await desk.runtime.stop(grace_s=0)
    release.set()

    assert len(stuck) == 1
    assert stuck[0].startswith("stubborn.")
    assert (await desk.outcome(request)).code is FailureCode.PROCESS_CLOSED


async def test_the_idempotency_key_is_the_same_in_every_attempt_and_differs_by_label():
    """An outside service must see a repeated charge as the same one."""
    worker = Worker("payer")
    keys = []

    @worker.on_message
    async def pay(turn):
        keys.append((turn.attempt, turn.idempotency_key("charge"), turn.idempotency_key("mail")))
        return "paid"

    async with Desk(worker) as desk:
        await desk.result("a")
        await desk.result("a", attempt_number=2)
        await desk.result("b")

    (_, charge, mail), (attempt, charge_again, mail_again), (_, other, _) = keys
    assert attempt == 2
    assert (charge, mail) == (charge_again, mail_again)
    assert len({charge, mail, other}) == 3
