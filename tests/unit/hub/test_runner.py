"""What becomes of a turn when worker, store, hub or caller fail at the worst moment."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from satchel.errors import HubDraining, InternalError, PeerViolation, StoreUnavailable
from satchel.hub.api import create_app
from satchel.hub.auth import Gate
from satchel.hub.settings import Keys
from satchel.model import SEQ_PER_START, SessionId, TurnStatus
from satchel.protocol.messages import Cancel, Committed, FailureCode, Release, Request
from satchel.store.open import open_store
from tests.unit.hub.stage import PATIENCE_S, Stage


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    store = await open_store(str(tmp_path / "x.db"))
    stage = Stage(store)
    await stage.hub.open()
    yield stage
    await stage.hub.close()
    await store.close()


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def error_of(events: list[dict[str, Any]]) -> str | None:
    error = events[-1]["complete"].get("error")
    return None if error is None else error["code"]


def rising(events: list[dict[str, Any]]) -> bool:
    seqs = [event["seq"] for event in events]
    return seqs == sorted(set(seqs))


# --- workers -------------------------------------------------------------------------------------


async def test_a_worker_that_leaves_while_its_turn_is_started_does_not_hold_the_caller(stage: Stage):
    """Nobody tells the runner afterwards: it would wait for the whole turn timeout."""
    first = await stage.worker("first", slots=0)
    gate = stage.store.log.hold("start")
    reading = await stage.send("m1")
    stage.make_room(first)
    while "start" in stage.store.log.faults:
        await asyncio.sleep(0)
    stage.hub.leave(first.member)
    second = await stage.worker("second")
    gate.set()
    await second.serve()

    assert kinds(await reading) == ["accepted", "restarted", "message", "complete"]
    assert (second.member.reserved, second.member.busy) == (0, set())


async def test_a_link_that_is_replaced_and_then_closed_loses_its_attempt_once(stage: Stage):
    """A second word of the same loss would end the next attempt, or a wait for a worker with a fault."""
    await stage.script().begin(stage.store, stage.key)
    await stage.script().commit_turn("m0")
    first = await stage.worker("same")
    gate = stage.store.log.hold("chain")
    reading = await stage.send("m1")
    while "chain" in stage.store.log.faults:
        await asyncio.sleep(0)
    again = await stage.worker("same")
    stage.hub.leave(first.member)
    gate.set()
    await again.serve()

    events = await reading
    assert kinds(events) == ["accepted", "restarted", "message", "complete"]
    assert error_of(events) is None


async def test_a_worker_whose_process_ends_is_given_nothing_more(stage: Stage):
    """It is the cheapest, since the session is warm there: every attempt that it drops would count, up to the last."""
    closing = await stage.worker("a", slots=4)
    first = await stage.send("m1")
    await closing.serve()
    await first
    reading = await stage.send("m2")
    request = await closing.request()
    other = await stage.worker("b")
    closing.fail(request.attempt, FailureCode.PROCESS_CLOSED)
    await other.serve()

    assert kinds(await reading) == ["accepted", "restarted", "message", "complete"]
    assert not any(isinstance(frame, Request) for frame in closing.seen())


async def test_a_worker_that_registers_anew_is_given_turns_again(stage: Stage):
    """The mark is of a process that ends, and ends with its link."""
    closing = await stage.worker("a")
    reading = await stage.send("m1")
    request = await closing.request()
    closing.fail(request.attempt, FailureCode.PROCESS_CLOSED)
    again = await stage.worker("a")
    await again.serve()

    assert error_of(await reading) is None


async def test_a_slot_is_free_when_a_turn_ends_while_its_worker_lacks_the_state(stage: Stage):
    """The worker has forgotten the attempt and will not answer a cancel."""
    worker = await stage.worker("w")
    reading = await stage.send("m1")
    request = await worker.request()
    cancelled = await stage.store.log.cancel(stage.key, request.attempt.message_id, now_ms=0)
    runner = stage.hub._runners[stage.key]
    runner.ended(cancelled)
    worker.fail(request.attempt, FailureCode.SESSION_STATE_NOT_FOUND)

    assert error_of(await reading) == "CANCELLED"
    assert worker.member.busy == set()


async def test_a_state_not_found_of_an_attempt_that_is_over_frees_its_slot(stage: Stage):
    """It comes after the turn was ended: no runner is left to answer it."""
    worker = await stage.worker("w")
    reading = await stage.send("m1")
    request = await worker.request()
    await stage.hub.cancel(stage.key, request.attempt.message_id)
    await reading
    worker.fail(request.attempt, FailureCode.SESSION_STATE_NOT_FOUND)

    assert worker.member.busy == set()


async def test_an_event_behind_a_failure_does_not_cost_the_link(stage: Stage):
    """A worker that could not send one event sends the failure in its place, and the events behind it have a gap."""
    worker = await stage.worker("w")
    reading = await stage.send("m1")
    request = await worker.request()
    worker.say(request.attempt, 1, "one")
    worker.fail(request.attempt, FailureCode.INTERNAL_ERROR)
    worker.say(request.attempt, 3, "three")

    assert error_of(await reading) == "INTERNAL_ERROR"


async def test_a_result_whose_events_are_missing_is_not_committed(stage: Stage):
    """FINAL-AGREES: the answer is made of the events."""
    worker = await stage.worker("w")
    reading = await stage.send("m1")
    request = await worker.request()

    with pytest.raises(PeerViolation, match="1 events"):
        worker.complete(request.attempt, request.base, events=1)
    reading.cancel()
    assert (await stage.turn("m1")).status is TurnStatus.RUNNING


async def test_a_worker_that_gives_up_unasked_drops_its_copy(stage: Stage):
    """It holds a later epoch, of another store: it would refuse every attempt until ours had passed it."""
    worker = await stage.worker("w")
    reading = await stage.send("m1")
    request = await worker.request()
    worker.fail(request.attempt, FailureCode.CANCELLED)
    await worker.sees(Release)
    await worker.serve()

    assert error_of(await reading) is None


# --- the turn that waits behind ------------------------------------------------------------------


async def test_a_waiting_turn_is_started_by_the_write_that_commits_the_one_before_it(stage: Stage):
    """Each write waits for the disk; its handler begins where the state is, right behind the commit."""
    worker = await stage.worker("w")
    reading = await stage.send("m1")
    request = await worker.request()
    behind = await stage.send("m2")
    gate = stage.store.log.hold("commit")
    worker.complete(request.attempt, request.base, events=0)
    while (await stage.turn("m1")).status is not TurnStatus.COMMITTED:
        await asyncio.sleep(0)

    assert (await stage.turn("m2")).status is TurnStatus.RUNNING
    assert worker.seen() == []
    gate.set()
    await reading
    assert (await worker.sees(Committed)).attempt == request.attempt
    assert (await worker.serve()).chain == ()
    assert kinds(await behind) == ["accepted", "message", "complete"]
    assert (worker.member.reserved, worker.member.busy) == (0, set())


async def test_a_waiting_turn_is_started_by_the_write_that_fails_the_one_before_it(stage: Stage):
    """Its state is where it was."""
    worker = await stage.worker("w")
    await stage.send("m1")
    request = await worker.request()
    behind = await stage.send("m2")
    gate = stage.store.log.hold("fail")
    worker.fail(request.attempt, FailureCode.TEXT_HANDLER_ERROR)
    while (await stage.turn("m1")).status is not TurnStatus.FAILED:
        await asyncio.sleep(0)

    assert (await stage.turn("m2")).status is TurnStatus.RUNNING
    gate.set()
    await worker.serve()
    assert error_of(await behind) is None


async def test_a_turn_behind_one_that_was_cancelled_begins(stage: Stage):
    """The commit comes to nothing, and the start behind it does not."""
    worker = await stage.worker("w")
    await stage.send("m1")
    request = await worker.request()
    behind = await stage.send("m2")
    await stage.script().cancel("m1")
    worker.complete(request.attempt, request.base, events=0)
    again = await worker.serve()

    assert (again.attempt.message_id, again.base.version, again.start_number) == ("m2", 0, 1)
    assert error_of(await behind) is None
    assert (worker.member.reserved, worker.member.busy) == (0, set())


async def test_a_turn_that_is_cancelled_as_it_is_started_gives_the_slot_back(stage: Stage):
    """Nobody else would: the worker would have one slot less for good."""
    worker = await stage.worker("w")
    await stage.send("m1")
    request = await worker.request()
    behind = await stage.send("m2")
    gate = stage.store.log.hold("start")
    worker.complete(request.attempt, request.base, events=0)
    while "start" in stage.store.log.faults:
        await asyncio.sleep(0)
    await stage.hub.cancel(stage.key, stage.message("m2").message_id)
    gate.set()

    assert error_of(await behind) == "CANCELLED"
    third = await stage.send("m3")
    await worker.serve()
    assert error_of(await third) is None
    assert (worker.member.reserved, worker.member.busy) == (0, set())


async def test_a_start_behind_another_turn_whose_outcome_is_unknown_is_read_back(stage: Stage):
    """It may have been made: then nobody runs the turn, and it is put back and started again."""
    worker = await stage.worker("w")
    await stage.send("m1")
    request = await worker.request()
    behind = await stage.send("m2")
    stage.store.log.lose_outcome("start")
    worker.complete(request.attempt, request.base, events=0)
    again = await worker.serve()

    assert (again.attempt.message_id, again.start_number) == ("m2", 2)
    assert kinds(await behind) == ["accepted", "restarted", "message", "complete"]
    assert (worker.member.reserved, worker.member.busy) == (0, set())


async def test_a_turn_behind_another_leaves_the_slot_to_who_waited_longer(stage: Stage):
    """A busy session must not keep a worker from the others."""
    worker = await stage.worker("w")
    await stage.send("m1")
    request = await worker.request()
    await stage.send("m2")
    other = msgspec.structs.replace(stage.key, session_id=SessionId("other"))
    await stage.hub.send(msgspec.structs.replace(stage.message("m0"), key=other))
    while not stage.hub.fleet._waiting:
        await asyncio.sleep(0)
    worker.complete(request.attempt, request.base, events=0)

    assert [(await worker.serve()).attempt.message_id for _ in range(2)] == ["m0", "m2"]


# --- adoption ------------------------------------------------------------------------------------


async def test_what_an_adopted_attempt_says_at_once_is_heard(stage: Stage):
    """Its worker sends everything again as soon as it is registered: nothing waits for the hub's own reading."""
    request = await _left_running(stage)
    gate = stage.store.log.hold("session")
    joining = asyncio.create_task(stage.worker("w", attempts=(request.attempt,)))
    await asyncio.sleep(0)
    gate.set()
    worker = await joining
    worker.say(request.attempt, 1, "kept")
    worker.complete(request.attempt, request.base, events=1)
    reading = stage.read((await stage.hub.deliver(stage.key, request.attempt.message_id)).stream)

    events = await reading
    assert kinds(events) == ["accepted", "message", "complete"]
    assert (await stage.turn("m1")).answer == "kept"
    assert await worker.sees(Committed) == Committed(request.attempt)


async def test_an_adopted_attempt_whose_link_is_lost_at_once_runs_again(stage: Stage):
    """As with every other loss; the caller would wait for the whole turn timeout."""
    request = await _left_running(stage)
    worker = await stage.worker("w", attempts=(request.attempt,))
    stage.hub.leave(worker.member)
    reading = stage.read((await stage.hub.deliver(stage.key, request.attempt.message_id)).stream)
    other = await stage.worker("other")
    again = await other.serve()

    assert (again.start_number, kinds(await reading)) == (2, ["accepted", "restarted", "message", "complete"])


async def test_a_message_cancelled_before_its_attempt_is_brought_back_ends_at_once(stage: Stage):
    """Nothing is waited for that nobody wants."""
    stage.settings = stage.settings.__class__(adopt_s=PATIENCE_S)
    request = await _left_running(stage)
    reading = stage.read((await stage.hub.deliver(stage.key, request.attempt.message_id)).stream)
    await asyncio.sleep(0.01)  # the runner waits for its worker
    await stage.hub.cancel(stage.key, request.attempt.message_id)
    async with asyncio.timeout(PATIENCE_S / 2):
        events = await reading

    assert error_of(events) == "CANCELLED"


async def test_a_handler_that_asked_for_one_attempt_has_one_after_a_restart_too(stage: Stage):
    """The hub knows that before any worker is back: the store keeps it."""
    request = await _left_running(stage, max_attempts=1)
    reading = stage.read((await stage.hub.deliver(stage.key, request.attempt.message_id)).stream)

    assert error_of(await reading) == "ATTEMPTS_EXHAUSTED"


async def _left_running(stage: Stage, *, max_attempts: int = 3) -> Request:
    """Leave a turn running on a worker that outlives its hub; open the next hub."""
    worker = await stage.worker("w", max_attempts=max_attempts)
    await stage.hub.send(stage.message("m1"))
    request = await worker.request()
    await stage.restart()
    await asyncio.sleep(0.01)  # the runner knows what it may adopt
    return request


async def test_a_worker_that_is_told_of_its_commit_is_warm(stage: Stage):
    """The hub died between the commit and saying so: the state that the worker made need not be sent to it."""
    script = await stage.script().begin(stage.store, stage.key)
    started = await script.run("m1")
    await script.commit(script.commit_of(started))
    worker = await stage.worker("w", attempts=(stage.name("m1", started.session.epoch),))
    reading = await stage.send("m2")
    request = await worker.serve()
    events = await reading

    assert request.chain == ()
    assert events[-1]["complete"]["turn"]["start"] == "warm"


# --- the store -----------------------------------------------------------------------------------


async def test_a_message_whose_admission_was_made_unheard_runs_in_its_place(stage: Stage):
    """It is first in the store's order: the session would stand still behind it, and its next message fail."""
    worker = await stage.worker("w")
    stage.store.log.lose_outcome("admit")
    with pytest.raises(StoreUnavailable):
        await stage.hub.send(stage.message("m1"))
    reading = await stage.send("m2")
    order = [(await worker.serve()).attempt.message_id for _ in range(2)]

    assert order == ["m1", "m2"]
    assert error_of(await reading) is None


async def test_a_message_whose_admission_was_made_unheard_runs_without_another_one(stage: Stage):
    """An enqueued turn is never forgotten."""
    worker = await stage.worker("w")
    stage.store.log.lose_outcome("admit")
    with pytest.raises(StoreUnavailable):
        await stage.hub.send(stage.message("m1"))

    assert (await worker.serve()).attempt.message_id == "m1"


async def test_a_fault_after_a_start_leaves_no_turn_running(stage: Stage):
    """Nobody would ever end it, and the session would stand still."""
    worker = await stage.worker("w", slots=0)
    stage.store.log.refuse("session", InternalError("a bug"))
    first = await stage.send("m1")
    assert error_of(await first) == "INTERNAL_ERROR"
    stage.store.log.lose_outcome("start")
    second = await stage.send("m2")
    stage.store.log.faults["turn"] = _raises(InternalError("a bug"))
    stage.make_room(worker)
    assert error_of(await second) == "INTERNAL_ERROR"
    third = await stage.send("m3")
    await worker.serve()

    assert error_of(await third) is None
    assert [(await stage.turn(name)).status for name in ("m1", "m2")] == [TurnStatus.FAILED] * 2


async def test_a_turn_that_cannot_be_ended_lets_its_readers_and_its_session_go(stage: Stage):
    """The last resort: an error while an error is told."""
    worker = await stage.worker("w")
    reading = await stage.send("m1")
    request = await worker.request()
    await stage.hub.send(stage.message("m2"))
    stage.store.log.refuse("fail", InternalError("a bug"))
    stage.store.log.faults["turn"] = _raises(InternalError("a bug"))
    worker.fail(request.attempt, FailureCode.TEXT_HANDLER_ERROR)

    assert error_of(await reading) == "INTERNAL_ERROR"


def _raises(error: Exception) -> Any:
    async def refused(*_args: Any, **_options: Any) -> None:
        raise error

    return refused


async def test_a_reader_that_comes_with_an_old_row_gets_the_stored_events(stage: Stage):
    """ONE-STREAM: the row was read while the turn ran, and looked at when it had ended."""
    worker = await stage.worker("w")
    gate = stage.store.log.hold("admit")
    sending = asyncio.create_task(stage.hub.send(stage.message("m1")))
    while (await _found(stage, "m1")) is None:
        await asyncio.sleep(0)
    old = stage.store.log.hold("turn")
    looking = asyncio.create_task(stage.hub.deliver(stage.key, stage.message("m1").message_id))
    while "turn" in stage.store.log.faults:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)  # the row is read
    gate.set()
    first = stage.read((await sending).stream)
    await worker.serve("kept")
    await first
    old.set()

    assert kinds(await stage.read((await looking).stream)) == ["accepted", "message", "complete"]


async def test_a_cancel_that_came_too_late_hides_no_event_from_a_reader_with_an_old_row(stage: Stage):
    """ONE-STREAM: the message is committed, and waits here once more because its row was read before that."""
    worker = await stage.worker("w")
    gate = stage.store.log.hold("admit")
    sending = asyncio.create_task(stage.hub.send(stage.message("m1")))
    while (await _found(stage, "m1")) is None:
        await asyncio.sleep(0)
    old = stage.store.log.hold("turn")
    looking = asyncio.create_task(stage.hub.deliver(stage.key, stage.message("m1").message_id))
    while "turn" in stage.store.log.faults:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)  # the row is read
    gate.set()
    first = stage.read((await sending).stream)
    await worker.serve("kept")
    await first
    next_one = stage.read((await stage.hub.send(stage.message("m2"))).stream)
    old.set()
    reading = stage.read((await looking).stream)

    cancelled = await stage.hub.cancel(stage.key, stage.message("m1").message_id)

    await worker.serve("after it")
    await next_one
    assert cancelled.status is TurnStatus.COMMITTED
    assert kinds(await reading) == ["accepted", "message", "complete"]


async def _found(stage: Stage, name: str) -> Any:
    try:
        return await stage.turn(name)
    except Exception:  # noqa: BLE001  # not yet
        return None


# --- the caller, and the hub's end ---------------------------------------------------------------


async def test_a_message_whose_caller_is_cancelled_while_it_is_admitted_runs(stage: Stage):
    """The store's call goes on without its caller; a turn it enqueued is never forgotten."""
    worker = await stage.worker("w")
    stage.store.log.hold("admit")
    sending = asyncio.create_task(stage.hub.send(stage.message("m1")))
    while (await _found(stage, "m1")) is None:
        await asyncio.sleep(0)
    sending.cancel()
    await asyncio.wait({sending})

    assert (await worker.serve()).attempt.message_id == "m1"


async def test_a_cancel_whose_caller_is_cancelled_stops_the_handler(stage: Stage):
    """The store has it: the handler would run on for nothing, and its readers wait."""
    worker = await stage.worker("w")
    reading = await stage.send("m1")
    request = await worker.request()
    stage.store.log.hold("cancel")
    stopping = asyncio.create_task(stage.hub.cancel(stage.key, request.attempt.message_id))
    while (await stage.turn("m1")).status is not TurnStatus.CANCELLED:
        await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait({stopping})

    assert error_of(await reading) == "CANCELLED"
    assert (await worker.sees(Cancel)).attempt == request.attempt


async def test_a_closed_hub_starts_nothing(stage: Stage):
    """What it admits or finds unfinished is the next hub's; nobody would ever end its runner."""
    gate = stage.store.log.hold("admit")
    sending = asyncio.create_task(stage.hub.send(stage.message("m1")))
    await stage.script().begin(stage.store, stage.key)
    while "admit" in stage.store.log.faults:
        await asyncio.sleep(0)
    await stage.script().admit("m0")
    await stage.hub.close()
    gate.set()

    with pytest.raises(Exception):  # noqa: B017  # the agent is unknown, or the hub drains
        await sending
    with pytest.raises(HubDraining):
        await stage.hub.deliver(stage.key, stage.message("m0").message_id)
    with pytest.raises(HubDraining):
        await stage.hub.send(stage.message("m2"))
    assert stage.hub._runners == {}


async def test_a_waiting_caller_of_a_hub_that_stops_is_told_to_ask_again(stage: Stage):
    """The turn goes on at the next hub: it is no fault, and no end."""
    worker = await stage.worker("w")
    gate = Gate(keys=Keys(), is_mounted=True)
    app = create_app(lambda: stage.hub, gate, serve_link=_no_link)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hub") as client:
        body = {"text": "hello", "message_id": "m1", "agent": "clerk"}
        posting = asyncio.create_task(
            client.post("/v1/sessions/s/messages", json=body, headers={"Accept": "application/json"})
        )
        await worker.request()
        await stage.hub.close()
        answer, ready = await posting, await client.get("/readyz")

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "HUB_DRAINING")
    assert ready.status_code == 503


async def _no_link(*_: Any) -> None:
    raise NotImplementedError


# --- the cursor ----------------------------------------------------------------------------------


async def test_the_cursor_rises_when_a_message_that_never_started_is_sent_again(stage: Stage):
    """A reader that saw it fail goes on by its cursor and misses nothing."""
    stage.settings = stage.settings.__class__(worker_wait_s=0)
    stage.hub = stage.new_hub()
    await stage.hub.open()
    await stage.script().begin(stage.store, stage.key)
    first = await (await stage.send("m1"))
    second = await (await stage.send("m1"))
    worker = await stage.worker("w")
    delivery = await stage.hub.send(stage.message("m1"))
    await worker.serve()
    third = await stage.read(delivery.stream, after=second[-1]["seq"])

    assert [kinds(each) for each in (first, second)] == [["accepted", "complete"]] * 2
    assert rising([first[-1], second[-1], *third])
    assert kinds(third) == ["restarted", "message", "complete"]
    assert [event["seq"] // SEQ_PER_START for event in (first[-1], second[-1], third[0])] == [1, 2, 3]
    await stage.hub.close()


async def test_the_end_of_a_lost_turn_is_beyond_what_a_hub_before_had_sent(stage: Stage):
    """The events are gone with that hub, their numbers are not."""
    worker = await stage.worker("w", max_attempts=1)
    reading = await stage.send("m1")
    request = await worker.request()
    for index in (1, 2, 3):
        worker.say(request.attempt, index, "provisional")
    await stage.restart()
    seen = await reading
    delivery = await stage.hub.deliver(stage.key, request.attempt.message_id)
    rest = await stage.read(delivery.stream, after=seen[-1]["seq"])

    assert rising([*seen, *rest])
    assert (kinds(rest), error_of(rest)) == (["complete"], "ATTEMPTS_EXHAUSTED")
