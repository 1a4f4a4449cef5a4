"""From a message's arrival to its worker: how many writes that takes, and what becomes of the seat."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from satchel.errors import StoreUnavailable
from satchel.hub.coordinator import Coordinator
from satchel.hub.fleet import Held, Member
from satchel.hub.runner import Begun
from satchel.hub.settings import HubSettings
from satchel.hub.telemetry import Telemetry
from satchel.model import Content, Message, MessageId, SessionId, WorkerId
from satchel.protocol.messages import (
    AttemptName,
    Cancel,
    Event,
    Failure,
    FailureCode,
    HubFrame,
    Register,
    Request,
)
from satchel.store.base import Admission, NewTurn, Started
from satchel.store.open import open_store
from satchel.testing.conformance.script import Script, agent_spec


class House:
    """A hub whose workers only write down what they are sent, and a session that has a version."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.hub = Coordinator(script.store, settings=HubSettings(adopt_s=0), telemetry=Telemetry())
        self.requests: asyncio.Queue[tuple[str, Request]] = asyncio.Queue()
        self.cancelled: list[AttemptName] = []

    async def worker(self, name: str, *, slots: int = 4, holds: bool = False) -> Member:
        register = Register(
            worker_id=WorkerId(name), protocol_version=1, build="", slots=slots, agents=(agent_spec(),), held=()
        )

        def send(frame: HubFrame) -> None:
            if isinstance(frame, Request):
                self.requests.put_nowait((name, frame))
            if isinstance(frame, Cancel):
                self.cancelled.append(frame.attempt)

        member = Member(self.script.key.tenant, register, send=send, connected_at_ms=0)
        await self.hub.join(member, register)
        if holds:
            member.held[self.script.key.session_id] = Held((await self.script.session()).head, 8_192, is_head=True)
        return member

    def message(self, name: str) -> NewTurn:
        return NewTurn(
            key=self.script.key,
            message_id=MessageId(name),
            agent=None,
            text="hello",
            metadata=None,
            on_busy=None,
            accepted_at_ms=1_000,
        )

    def no_second_write(self, patch: pytest.MonkeyPatch) -> None:
        async def start(*_turn: object) -> Started:
            pytest.fail("the turn was started by a write of its own")

        patch.setattr(self.script.log, "start", start)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    store = await open_store(str(tmp_path / "x.db"))
    script = await Script.begin(store)
    await script.commit_turn("m1")
    house = House(script)
    await house.hub.open()
    yield house
    await house.hub.close()
    await store.close()


async def test_a_warm_sessions_message_is_started_by_the_write_that_admits_it(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    """Each write waits for the disk, and the handler for each of them."""
    member = await house.worker("warm", holds=True)
    await house.worker("cold")
    house.no_second_write(monkeypatch)

    delivery = await house.hub.send(house.message("m2"))
    name, request = await house.requests.get()

    assert (name, request.chain, request.attempt.epoch) == ("warm", (), delivery.turn.epoch)
    assert (member.reserved, len(member.busy)) == (0, 1)


async def test_a_cold_start_is_one_write_that_skips_an_epoch_and_the_chain_is_read_meanwhile(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    """A disk takes as long to write as the chain to be read; an epoch that was never written may be on a worker."""
    member = await house.worker("cold")
    house.no_second_write(monkeypatch)
    before = (await house.script.session()).epoch
    admit, chain, asked = house.script.log.admit, house.script.log.chain, asyncio.Event()

    async def told_chain(*wanted: Any) -> Any:
        asked.set()
        return await chain(*wanted)

    async def slow_admit(new: NewTurn, **options: Any) -> Admission:
        admission = await admit(new, **options)
        await asked.wait()
        assert house.requests.empty()
        return admission

    monkeypatch.setattr(house.script.log, "chain", told_chain)
    monkeypatch.setattr(house.script.log, "admit", slow_admit)
    await house.hub.send(house.message("m2"))
    _name, request = await house.requests.get()

    assert (len(request.chain), request.attempt.epoch) == (1, before + 2)
    assert (member.reserved, len(member.busy)) == (0, 1)


async def test_a_new_sessions_message_is_started_by_the_write_that_admits_it(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    """There is nothing to read, and nobody to wait for: its worker has it before its caller is answered."""
    await house.worker("w")
    house.no_second_write(monkeypatch)
    key = msgspec.structs.replace(house.script.key, session_id=SessionId("new"))

    await house.hub.send(msgspec.structs.replace(house.message("m1"), key=key, agent="clerk"))
    _name, request = house.requests.get_nowait()

    assert (request.chain, request.base.version) == ((), 0)


async def test_a_seat_that_was_found_for_an_idle_session_is_given_back_when_it_is_busy(house: House):
    """Several messages of one session look for a worker at once; one of them runs."""
    member = await house.worker("cold")

    await asyncio.gather(*(house.hub.send(house.message(name)) for name in ("m2", "m3", "m2")))
    _name, request = await house.requests.get()

    assert request.attempt.message_id == "m2"
    assert (member.reserved, len(member.busy)) == (0, 1)


async def test_a_cold_start_whose_write_failed_gives_the_seat_back(house: House, monkeypatch: pytest.MonkeyPatch):
    """Nothing was sent, so nothing needs to be stopped."""
    member = await house.worker("cold")
    log: Any = house.script.log

    async def lost_admit(new: NewTurn, *, decided: Any, **_options: Any) -> Admission:
        def work(db: Any) -> None:
            decided(log._admit(db, new, 8, start=True))
            raise StoreUnavailable

        return await log._writer.call(work)

    monkeypatch.setattr(house.script.log, "admit", lost_admit)
    with pytest.raises(StoreUnavailable):
        await house.hub.send(house.message("m2"))

    assert (member.reserved, len(member.busy), house.requests.empty()) == (0, 0, True)


@pytest.mark.parametrize("schema_min", [1, 2])
async def test_a_worker_that_no_longer_serves_the_session_is_passed_over(
    house: House, monkeypatch: pytest.MonkeyPatch, schema_min: int
):
    """The session may migrate between the look at it and the start; the worker would fail the turn for good."""
    cold = await house.worker("cold")
    admit = house.script.log.admit

    async def late_admit(new: NewTurn, **options: Any) -> Admission:
        admission = await admit(new, **options)
        spec = cold.agents["clerk"]
        newer = msgspec.structs.replace(spec.schema, number=2)
        cold.agents["clerk"] = msgspec.structs.replace(spec, schema=newer, schema_min=schema_min)
        if schema_min > 1:
            await house.worker("other")
        return admission

    monkeypatch.setattr(house.script.log, "admit", late_admit)
    await house.hub.send(house.message("m2"))
    name, request = await house.requests.get()

    assert (name, request.start_number) == (("cold", 1) if schema_min == 1 else ("other", 2))
    assert cold.reserved == 0


async def test_what_a_worker_says_before_the_start_is_durable_is_seen_after_it(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    """The handler need not wait for the disk; everything that leaves the hub does."""
    member = await house.worker("warm", holds=True)
    admit, is_durable = house.script.log.admit, asyncio.Event()

    async def slow_admit(new: NewTurn, **options: Any) -> Admission:
        admission = await admit(new, **options)
        await is_durable.wait()
        return admission

    monkeypatch.setattr(house.script.log, "admit", slow_admit)
    sending = asyncio.create_task(house.hub.send(house.message("m2")))
    _name, request = await house.requests.get()
    said = Message(id="i", content=(Content("hello"),), created_at="2026-01-31T09:30:00.000Z")
    house.hub.receive(member, Event(request.attempt, 1, said))

    assert not sending.done()
    assert house.script.key not in house.hub._runners
    is_durable.set()
    stream = (await sending).stream
    assert stream is not None
    assert stream.answer == "hello"


async def test_a_start_that_was_not_written_stops_its_attempt_and_its_epoch_is_skipped(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    """Another attempt of the same name could be taken for it, here or by the worker."""
    member = await house.worker("warm", holds=True)
    log: Any = house.script.log

    async def lost_admit(new: NewTurn, *, decided: Any, **_options: Any) -> Admission:
        def work(db: Any) -> None:
            decided(log._admit(db, new, 8, start=True))
            raise StoreUnavailable

        return await log._writer.call(work)

    monkeypatch.setattr(house.script.log, "admit", lost_admit)
    with pytest.raises(StoreUnavailable):
        await house.hub.send(house.message("m2"))
    _name, request = await house.requests.get()
    monkeypatch.undo()

    assert house.cancelled == [request.attempt]
    house.hub.receive(member, Failure(request.attempt, FailureCode.CANCELLED))
    assert (member.reserved, len(member.busy)) == (0, 0)
    await house.hub.send(house.message("m2"))
    _name, again = await house.requests.get()
    assert again.attempt.epoch == request.attempt.epoch + 1


async def test_a_message_that_must_wait_gives_the_seat_back(house: House):
    """What is reserved for nobody is lost for everybody."""
    member = await house.worker("warm", holds=True)

    await asyncio.gather(*(house.hub.send(house.message(name)) for name in ("m2", "m3", "m2")))
    _name, request = await house.requests.get()

    assert request.attempt.message_id == "m2"
    assert (member.reserved, len(member.busy)) == (0, 1)


async def test_a_refused_message_gives_the_seat_back(house: House):
    """A caller's mistake must not cost a slot."""
    member = await house.worker("warm", holds=True)

    with pytest.raises(Exception, match="belongs to agent"):
        await house.hub.send(msgspec.structs.replace(house.message("m2"), agent="porter"))

    assert member.reserved == 0


async def test_a_full_worker_is_not_asked_for_more(house: House):
    """The turn then goes where it can: another worker, or the queue."""
    await house.worker("warm", slots=0, holds=True)
    await house.worker("cold")

    await house.hub.send(house.message("m2"))
    name, request = await house.requests.get()

    assert name == "cold"
    assert len(request.chain) == 1


async def test_a_worker_that_is_lost_while_the_turn_starts_is_replaced(house: House, monkeypatch: pytest.MonkeyPatch):
    """Nobody else would notice: the turn would wait for a result until its timeout."""
    lost = await house.worker("warm", holds=True)
    await house.worker("cold")
    admit = house.script.log.admit

    async def losing_admit(new: NewTurn, **options: Any) -> Admission:
        admission = await admit(new, **options)
        house.hub.leave(lost)
        return admission

    monkeypatch.setattr(house.script.log, "admit", losing_admit)

    await house.hub.send(house.message("m2"))
    ahead, again = await house.requests.get(), await house.requests.get()

    assert [(name, request.start_number) for name, request in (ahead, again)] == [("warm", 1), ("cold", 2)]
    assert ahead[1].attempt.epoch < again[1].attempt.epoch
    assert lost.reserved == 0


async def test_a_message_cancelled_before_its_worker_has_it_gives_the_seat_back(house: House):
    """It may be cancelled behind one that still ends in the hub."""
    member = await house.worker("warm", holds=True)
    first = await house.hub.send(house.message("m2"))
    await house.requests.get()
    await house.script.log.cancel(house.script.key, MessageId("m2"), now_ms=2_000)

    admission = await house.script.admit("m3", start=True)
    member.reserved += 1
    house.hub._take(admission.turn, Begun(Started(admission.turn, admission.session), member))
    await house.hub.cancel(house.script.key, MessageId("m3"))

    assert first.stream is not None
    assert member.reserved == 0
