"""The worker's end of the link: another thread, real threads and loops, a transport in memory."""

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from satchel.errors import LinkClosed, LinkRefused
from satchel.limits import LOOP_BLOCKED_S
from satchel.model import Epoch, MessageId, SchemaName, SessionId, WorkerId
from satchel.protocol import codec
from satchel.protocol.messages import (
    AttemptName,
    Pieces,
    Ping,
    Pong,
    Refused,
    Register,
    Registered,
    Release,
    Released,
    WorkerFrame,
)
from satchel.worker import link as link_module
from satchel.worker.dial import link_url
from satchel.worker.link import WorkerLink
from satchel.worker.linkthread import Bell, LinkThread
from satchel.worker.process import WorkerHost
from satchel.worker.watch import LoopWatch
from satchel.worker.worker import Worker

ATTEMPT = AttemptName(SessionId("s"), MessageId("m"), Epoch(1))


class Wire:
    """A transport whose far end the test holds, from its own loop."""

    def __init__(self, test: asyncio.AbstractEventLoop) -> None:
        self._test = test
        self.to_worker: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.from_worker: asyncio.Queue[WorkerFrame] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.send_whole: Callable[[bytes], None] = lambda _: None

    async def send(self, message: bytes) -> None:
        self.send_whole(message)
        for frame in codec.decode_worker(message):
            self._test.call_soon_threadsafe(self.from_worker.put_nowait, frame)

    async def receive(self) -> bytes:
        message = await self.to_worker.get()
        if message is None:
            raise LinkClosed("cut")
        return message

    async def close(self, reason: str = "") -> None:  # noqa: ARG002  # a socket would carry it
        self._test.call_soon_threadsafe(self.closed.set)


class Hub:
    """What the test says and hears as the hub. ``dial`` is called on the link's loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wires: asyncio.Queue[tuple[Wire, asyncio.AbstractEventLoop]] = asyncio.Queue()
        self._wire: tuple[Wire, asyncio.AbstractEventLoop] | None = None
        self.failures: list[Exception] = []
        self.dials = 0

    async def dial(self):
        self.dials += 1
        if self.failures:
            raise self.failures.pop(0)
        wire = Wire(self._loop)
        self._loop.call_soon_threadsafe(self._wires.put_nowait, (wire, asyncio.get_running_loop()))
        return wire

    async def accept(self) -> Register:
        self._wire = await self._wires.get()
        return await self.hear()

    async def hear(self):
        wire, _ = self._wire
        return await wire.from_worker.get()

    def say(self, frame) -> None:
        self.put(codec.encode_hub(frame))

    def put(self, data) -> None:
        wire, loop = self._wire
        loop.call_soon_threadsafe(wire.to_worker.put_nowait, data)

    async def closed(self) -> None:
        await self._wire[0].closed.wait()


class User:
    """The runtime's side: remembers what it was told."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[object] = asyncio.Queue()
        self.thread = threading.get_ident()

    def registration(self) -> Register:
        assert threading.get_ident() == self.thread
        spec = Worker("a").spec
        assert isinstance(spec.schema, SchemaName)
        return Register(WorkerId("w"), 1, "test", 1, (spec,))

    def receive(self, frame) -> None:
        assert threading.get_ident() == self.thread
        self.frames.put_nowait(frame)

    def link_lost(self) -> None:
        self.frames.put_nowait("lost")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(link_module, "RECONNECT_DELAY_S", 0)


@pytest.fixture
async def linked():
    hub, user = Hub(), User()
    link = LinkThread(hub.dial)
    link.start(user)
    yield hub, user, link
    await link.stop()


async def registered(hub, user):
    await hub.accept()
    hub.say(Registered("default", 5.0))
    assert isinstance(await user.frames.get(), Registered)


async def test_a_link_stopped_while_it_asks_what_to_register_is_not_answered():
    """The handlers' loop was busy; when it comes round, nobody waits for its answer any more."""
    asked: asyncio.Queue = asyncio.Queue()
    link = WorkerLink(Hub().dial, to_user=asked.put_nowait)
    linking = asyncio.create_task(link.run())
    ask = await asked.get()

    link.stop()
    await asyncio.wait([linking])

    ask(User())


async def test_it_registers_first_and_carries_frames_both_ways(linked):
    hub, user, link = linked
    await registered(hub, user)

    hub.say(Release(SessionId("s")))
    link.send(Released(SessionId("s")))

    assert await user.frames.get() == Release(SessionId("s"))
    assert await hub.hear() == Released(SessionId("s"))


async def test_a_handler_that_blocks_its_loop_delays_no_pong(linked):
    """Otherwise a slow handler would get its worker declared dead, with every turn on it."""
    hub, user, _ = linked
    await registered(hub, user)
    wire, link_loop = hub._wire
    answered = threading.Event()
    send = wire.send

    async def seen(message):
        await send(message)
        answered.set()

    wire.send = seen
    link_loop.call_soon_threadsafe(wire.to_worker.put_nowait, codec.encode_hub(Ping(1)))

    assert answered.wait(10), "this loop is blocked here, as by a handler"
    assert await hub.hear() == Pong(1)


async def test_a_lost_link_is_dialled_again_and_registered_anew(linked):
    hub, user, link = linked
    await registered(hub, user)

    hub.put(None)
    assert await user.frames.get() == "lost"
    link.send(Released(SessionId("dropped")))
    await registered(hub, user)
    link.send(Released(SessionId("sent")))

    assert await hub.hear() == Released(SessionId("sent"))


async def test_a_hub_that_cannot_be_reached_is_dialled_again():
    hub, user = Hub(), User()
    hub.failures = [LinkClosed("no hub"), LinkClosed("no hub")]
    link = LinkThread(hub.dial)
    link.start(user)
    await registered(hub, user)
    await link.stop()

    assert hub.dials == 3


@pytest.mark.parametrize("data", [b"\xff\xff", codec.encode_hub(Release(SessionId("s")))])
async def test_a_hub_that_breaks_the_rules_loses_the_link(linked, data):
    """Bytes that are no frame, and a frame before its time, are not guessed at."""
    hub, user, _ = linked
    await hub.accept()

    hub.put(data)

    assert await user.frames.get() == "lost"
    await hub.closed()


async def test_a_refusal_ends_the_link_with_the_hubs_words(linked):
    """To dial again would be refused again: an operator has to act."""
    hub, _, link = linked
    await hub.accept()

    hub.say(Refused("SCHEMA", "The schema was changed.", hint="Add a migration."))

    with pytest.raises(LinkRefused, match=r"The schema was changed\. Add a migration\."):
        await link.ended()
    assert hub.dials == 1


async def test_what_is_under_way_is_sent_before_the_link_stops(linked):
    """A worker that stops says which attempts it gives up; that must arrive."""
    hub, user, link = linked
    await registered(hub, user)
    for number in range(20):
        link.send(Released(SessionId(f"s{number}")))

    await link.stop()

    assert [(await hub.hear()).session_id for _ in range(20)] == [f"s{number}" for number in range(20)]


async def test_what_waits_travels_in_one_message(linked):
    """Each message costs a system call on both sides, and wakes the hub."""
    hub, user, link = linked
    await registered(hub, user)
    wire, link_loop = hub._wire
    sent = []
    wire.send_whole = sent.append

    held = threading.Event()
    link_loop.call_soon_threadsafe(held.wait)
    for index in range(1, 4):
        link.send(Pieces(ATTEMPT, index, "i", (str(index),)))
    link.send(Released(SessionId("s")))
    held.set()

    assert await hub.hear() == Pieces(ATTEMPT, 1, "i", ("1", "2", "3"))
    assert await hub.hear() == Released(SessionId("s"))
    assert len(sent) == 1


async def test_pieces_wait_for_their_turn_and_go_with_whatever_is_sent_before_it(linked, monkeypatch):
    """A result must not wait for the pace of streams, nor pass what was said before; a link that stops leaves none."""
    monkeypatch.setattr(link_module, "PIECES_EVERY_S", 1000)
    hub, user, link = linked
    await registered(hub, user)

    link.send(Pieces(ATTEMPT, 1, "i", ("1",)))
    link.send(Pieces(ATTEMPT, 2, "i", ("2",)))
    link.send(Released(SessionId("s")))
    assert await hub.hear() == Pieces(ATTEMPT, 1, "i", ("1", "2"))
    assert await hub.hear() == Released(SessionId("s"))

    link.send(Pieces(ATTEMPT, 3, "i", ("3",)))
    await link.stop()
    assert await hub.hear() == Pieces(ATTEMPT, 3, "i", ("3",))


async def test_pieces_alone_go_when_it_is_their_turn(linked, monkeypatch):
    monkeypatch.setattr(link_module, "PIECES_EVERY_S", 0.01)
    hub, user, link = linked
    await registered(hub, user)

    for index in range(1, 4):
        link.send(Pieces(ATTEMPT, index, "i", (str(index),)))
        assert (await hub.hear()).index == index


async def test_a_bell_is_rung_once_for_calls_that_wait_and_one_that_fails_stops_no_other():
    """To ring is to wake another thread; a frame that fails must not take those behind it with it."""
    loop = asyncio.get_running_loop()
    failures, made, rings = [], asyncio.Queue(), []
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    bell = Bell(loop)
    ring = loop.call_soon_threadsafe

    def fail():
        raise ValueError

    loop.call_soon_threadsafe = lambda *call: (rings.append(call), ring(*call))
    bell.call(fail)
    for number in range(5):
        bell.call(partial(made.put_nowait, number))
    loop.call_soon_threadsafe = ring

    assert len(rings) == 1
    assert [await made.get() for _ in range(5)] == list(range(5))
    assert [type(error) for error in failures] == [ValueError]


async def test_a_bell_of_a_loop_that_is_closed_is_not_heard():
    loop = asyncio.new_event_loop()
    loop.close()

    Bell(loop).call(lambda: None)


async def test_a_link_that_never_connected_stops():
    never = asyncio.Event()

    async def dial():
        await never.wait()

    link = LinkThread(dial)
    link.start(User())

    await link.stop()


# --- a worker in its own threads ----------------------------------------------------------------


async def test_a_host_starts_and_stops_its_worker_in_threads_of_its_own():
    """An app that embeds a hub must not share its loop with handlers."""
    hub = Hub()
    worker = Worker("a")
    worker.on_message(lambda turn: turn.text)
    host = WorkerHost([worker], dial=hub.dial)
    starting = asyncio.create_task(asyncio.to_thread(host.start))

    register = await hub.accept()
    hub.say(Registered("default", 5.0))
    await starting
    await asyncio.to_thread(host.stop)

    assert [spec.name for spec in register.agents] == ["a"]
    assert host.failure is None


async def test_a_host_whose_lifespan_fails_says_so_at_its_start():
    def broken():
        raise OSError("no database")

    worker = Worker("a", lifespan=broken)
    worker.on_message(lambda turn: turn.text)
    host = WorkerHost([worker], dial=Hub().dial)

    with pytest.raises(OSError, match="no database"):
        await asyncio.to_thread(host.start)


async def test_a_host_that_is_refused_says_so_at_its_start():
    hub = Hub()
    hub.failures = [LinkRefused("not this one")]
    worker = Worker("a")
    worker.on_message(lambda turn: turn.text)
    host = WorkerHost([worker], dial=hub.dial)
    with pytest.raises(LinkRefused, match="not this one"):
        await asyncio.to_thread(host.start)
    await asyncio.to_thread(host.stop)


# --- what holds the loop, and where a hub is -----------------------------------------------------


async def test_what_blocks_the_loop_is_logged_by_name_once(caplog):
    """The operator must find the handler without a debugger."""
    watch = LoopWatch()
    now = time.monotonic()

    async def hog():
        def look_from_outside():
            for late_s in (0, LOOP_BLOCKED_S / 2, LOOP_BLOCKED_S, LOOP_BLOCKED_S * 2):
                watch.look(now + late_s)

        outside = threading.Thread(target=look_from_outside)
        outside.start()
        outside.join()

    await asyncio.create_task(hog(), name="desk.reply")

    (record,) = caplog.records
    assert record.handler == "desk.reply"
    assert "test_link.py" in record.at


async def test_a_loop_that_comes_round_is_not_reported(caplog):
    watch = LoopWatch()
    for number in range(5):
        watch.look(number * 10 * LOOP_BLOCKED_S)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert caplog.records == []


@pytest.mark.parametrize(
    ("given", "dialled"),
    [
        ("http://127.0.0.1:8700", "ws://127.0.0.1:8700/v1/worker"),
        ("https://hub.example/", "wss://hub.example/v1/worker"),
        ("ws://hub.example/base", "ws://hub.example/base/v1/worker"),
        ("wss://[::1]:1", "wss://[::1]:1/v1/worker"),
    ],
)
def test_a_base_url_of_either_kind_names_the_link(given, dialled):
    assert link_url(given) == dialled
