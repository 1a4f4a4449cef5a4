"""What a turn costs in what no machine changes: frames, bytes, statements of the store, and syncs."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from satchel import AsyncClient, Turn, Worker
from satchel.client.client import AsyncSession
from satchel.embedded import AsgiTransport, memory_pair
from satchel.errors import LinkClosed
from satchel.hub.server import HubServer, running
from satchel.model import DEFAULT_TENANT, SessionId, SessionKey
from satchel.protocol.codec import decode_hub, decode_worker
from satchel.protocol.transport import Transport
from satchel.store.sqlite import SqliteLog
from satchel.worker.process import WorkerHost
from tests.acceptance.processes import PATIENCE_S

TEXT = "a room for Ada"
WAIT = "a room, but not yet"

go_on = threading.Event()
"""Lets the handler of ``WAIT`` go on."""


class Cost(msgspec.Struct):
    """What was counted since it was last reset."""

    down: Counter[str] = msgspec.field(default_factory=Counter)
    """Frames to workers."""
    up: Counter[str] = msgspec.field(default_factory=Counter)
    down_bytes: int = 0
    up_bytes: int = 0
    statements: int = 0
    """That the log's writer ran, transactions' own included."""
    syncs: int = 0
    """Of the log's files."""

    def reset(self) -> None:
        for field in msgspec.structs.fields(Cost):
            setattr(self, field.name, getattr(Cost(), field.name))


class Counted(apsw.VFS):
    """The default file system, with its syncs counted."""

    def __init__(self, cost: Cost) -> None:
        self.base = apsw.vfs_names()[0]
        self.cost = cost
        super().__init__("counted", self.base, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  # SQLite's name
        return CountedFile(self, name, flags)


class CountedFile(apsw.VFSFile):
    def __init__(self, vfs: Counted, name: Any, flags: list[int]) -> None:
        super().__init__(vfs.base, name, flags)
        self.cost = vfs.cost

    def xSync(self, flags: int) -> None:  # noqa: N802  # SQLite's name
        self.cost.syncs += 1
        super().xSync(flags)


class Tapped:
    """A transport of the hub's whose messages are counted."""

    def __init__(self, inner: Transport, cost: Cost) -> None:
        self._inner = inner
        self._cost = cost

    async def send(self, message: bytes) -> None:
        self._cost.down.update(type(frame).__name__ for frame in decode_hub(message))
        self._cost.down_bytes += len(message)
        await self._inner.send(message)

    async def receive(self) -> bytes:
        message = await self._inner.receive()
        self._cost.up.update(type(frame).__name__ for frame in decode_worker(message))
        self._cost.up_bytes += len(message)
        return message

    async def close(self, reason: str = "") -> None:
        await self._inner.close(reason)


def desk() -> Worker[Any]:
    worker: Worker[Any] = Worker(
        "desk", schema="CREATE TABLE booking (id INTEGER PRIMARY KEY, guest TEXT NOT NULL) STRICT;"
    )

    @worker.on_message
    async def reply(turn: Turn) -> str:
        if turn.text == WAIT:
            await asyncio.to_thread(go_on.wait, PATIENCE_S)
        turn.state.execute("INSERT INTO booking (guest) VALUES (?)", (turn.text,))
        return "Booked."

    return worker


class Station:
    """A worker in this process whose link can be cut and mended."""

    def __init__(self, hub: HubServer, cost: Cost) -> None:
        self._hub = hub
        self._cost = cost
        self._loop = asyncio.get_running_loop()
        self._registered = asyncio.Event()
        self._ours: Transport | None = None
        self._is_cut = False
        self._host = WorkerHost([desk()], dial=self._dial, registered=self._heard)

    async def _dial(self) -> Transport:
        if self._is_cut:
            raise LinkClosed
        self._ours, theirs = memory_pair(self._loop, asyncio.get_running_loop())
        served = self._hub.serve_transport(Tapped(self._ours, self._cost))
        asyncio.run_coroutine_threadsafe(served, self._loop)
        return theirs

    def _heard(self, _frame: object) -> None:
        self._loop.call_soon_threadsafe(self._registered.set)

    async def start(self) -> None:
        await asyncio.to_thread(self._host.start)

    async def cut(self) -> None:
        self._is_cut = True
        self._registered.clear()
        assert self._ours is not None
        await self._ours.close()

    async def mend(self) -> None:
        self._is_cut = False
        await self._registered.wait()

    async def stop(self) -> None:
        await asyncio.to_thread(self._host.stop)


class Bench:
    """A hub, its workers, a session, and what was counted of its last turn."""

    def __init__(self, hub: HubServer, session: AsyncSession, cost: Cost) -> None:
        self.hub = hub
        self.session = session
        self.cost = cost
        self.stations = [Station(hub, cost), Station(hub, cost)]

    async def turn(self) -> str:
        """Run a turn; return how it started."""
        reply = self.session.send(TEXT)
        self.cost.reset()
        events = [event async for event in reply]
        await self.quiet()
        return str(events[-1].complete.turn.start)

    async def quiet(self, *, commits: int = 1) -> None:
        """Wait until the worker has heard of the commits, and the store's writer has nothing to do."""
        async with asyncio.timeout(PATIENCE_S):
            while self.cost.down["Committed"] < commits:
                await asyncio.sleep(0)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    cost = Cost()
    disk = Counted(cost)
    hub = HubServer(str(tmp_path / "x.db"))
    async with running(hub), AsyncClient("http://127.0.0.1", transport=AsgiTransport(hub.app)) as client:
        log = hub.coordinator().store.log
        assert isinstance(log, SqliteLog)

        def count(_cursor: object, _sql: str, _bindings: object) -> bool:
            cost.statements += 1
            return True

        log._writer._connection.exec_trace = count
        bench = Bench(hub, client.session("ada", agent="desk"), cost)
        await bench.stations[0].start()
        for _ in range(3):
            await bench.turn()
        yield bench
        for station in bench.stations:
            await station.stop()
    disk.unregister()


async def test_what_a_warm_turn_costs(bench: Bench):
    """A request without state, an event, a result, a word that it is committed; two writes that each share a sync."""
    assert await bench.turn() == "warm"

    assert bench.cost.down == {"Request": 1, "Committed": 1}
    assert bench.cost.up == {"Event": 1, "Result": 1}
    assert bench.cost.down_bytes <= 210
    assert bench.cost.up_bytes <= 640
    assert (bench.cost.statements, bench.cost.syncs) == (14, 2)


async def test_what_a_cold_start_costs(bench: Bench):
    """The same, and once the snapshot with the deltas behind it."""
    bench.hub.coordinator().release(SessionKey(DEFAULT_TENANT, SessionId("ada")))

    assert await bench.turn() == "cold"

    assert bench.cost.down == {"Release": 1, "Request": 1, "Committed": 1}
    assert bench.cost.up == {"Event": 1, "Result": 1}
    assert bench.cost.down_bytes <= 1_900
    assert bench.cost.up_bytes <= 640
    assert (bench.cost.statements, bench.cost.syncs) == (14, 2)


async def test_what_a_catch_up_costs(bench: Bench):
    """The same with the deltas that the worker lacks, here two, in place of the whole state."""
    first, second = bench.stations
    await first.cut()
    await second.start()
    for _ in range(2):
        await bench.turn()
    await second.stop()
    await first.mend()

    assert await bench.turn() == "catch-up"

    assert bench.cost.down == {"Request": 1, "Committed": 1}
    assert bench.cost.up == {"Event": 1, "Result": 1}
    assert bench.cost.down_bytes <= 1_070
    assert bench.cost.up_bytes <= 650
    assert (bench.cost.statements, bench.cost.syncs) == (14, 2)


async def test_what_a_queued_turn_costs(bench: Bench):
    """Its start shares the write that commits the turn before it; its request leaves right behind that one's commit."""
    first = bench.session.send(WAIT)
    await anext(aiter(first))
    second = bench.session.send(TEXT)
    await anext(aiter(second))
    bench.cost.reset()
    go_on.set()
    await first
    assert (await second).attempts == 1
    await bench.quiet(commits=2)

    assert bench.cost.down == {"Request": 1, "Committed": 2}
    assert (bench.cost.statements, bench.cost.syncs) == (26, 2)
