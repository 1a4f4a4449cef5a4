"""From a message's arrival to its worker: how many writes that takes, and what becomes of the seat."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from satchel.hub.coordinator import Coordinator
from satchel.hub.fleet import Held, Member
from satchel.hub.runner import Begun
from satchel.hub.settings import HubSettings
from satchel.hub.telemetry import Telemetry
from satchel.model import MessageId, WorkerId
from satchel.protocol.messages import HubFrame, Register, Request
from satchel.store.base import Admission, NewTurn, Started
from satchel.store.open import open_store
from satchel.testing.conformance.script import Script, agent_spec


class House:
    """A hub whose workers only write down what they are sent, and a session that has a version."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.hub = Coordinator(script.store, settings=HubSettings(adopt_s=0), telemetry=Telemetry())
        self.requests: asyncio.Queue[tuple[str, Request]] = asyncio.Queue()

    async def worker(self, name: str, *, slots: int = 4, holds: bool = False) -> Member:
        register = Register(
            worker_id=WorkerId(name), protocol_version=1, build="", slots=slots, agents=(agent_spec(),), held=()
        )

        def send(frame: HubFrame) -> None:
            if isinstance(frame, Request):
                self.requests.put_nowait((name, frame))

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

    async def losing_admit(new: NewTurn, *, queue_length_max: int, start: bool = False) -> Admission:
        admission = await admit(new, queue_length_max=queue_length_max, start=start)
        house.hub.leave(lost)
        return admission

    monkeypatch.setattr(house.script.log, "admit", losing_admit)

    await house.hub.send(house.message("m2"))
    name, request = await house.requests.get()

    assert (name, request.start_number) == ("cold", 2)
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
