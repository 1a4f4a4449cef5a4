"""A hub on a store, worker processes, links and clients, all of them real but for time, threads and sockets."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from satchel.errors import LinkClosed, StoreUnavailable
from satchel.hub.api import create_app
from satchel.hub.auth import Gate
from satchel.hub.coordinator import Coordinator
from satchel.hub.link import serve_worker
from satchel.hub.settings import HubSettings, Keys
from satchel.hub.telemetry import Telemetry
from satchel.model import DEFAULT_TENANT, PayloadKind, SessionKey, WorkerId, next_state_id
from satchel.state.payload import unseal
from satchel.state.session import OpenSession
from satchel.store.chain import load_chain
from satchel.store.files import StoreLock
from satchel.store.sqlite import SqliteStore
from satchel.worker.context import Turn
from satchel.worker.runtime import Runtime
from satchel.worker.worker import Worker
from tests.simulation.asgi import ConnectionLost, Exchange
from tests.simulation.disk import Disk
from tests.simulation.history import History, Run, Violated
from tests.simulation.wire import End, Wire, WorkerLink

NOTES = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;"
SLOTS = 2
TURN_TIMEOUT_S = 20.0
HARMS = (
    "hub killed",
    "hub killed",
    "hub stopped",
    "worker killed",
    "worker stopped",
    "drought",
    "cut",
    "silence",
    "overlap",
    "disk",
    "disk",
    "drop",
)
SETTINGS = HubSettings(worker_wait_s=15.0, queue_length_max=8)


class HubProcess:
    """One life of the hub."""

    def __init__(self, world: "World", store: SqliteStore, coordinator: Coordinator) -> None:
        self.world = world
        self.store = store
        self.coordinator = coordinator
        self.app = create_app(lambda: coordinator, Gate(keys=Keys(), is_mounted=True), serve_link=self._no_socket)
        self.links: dict[asyncio.Task[None], Wire] = {}
        self.exchanges: dict[Exchange, None] = {}

    @classmethod
    async def start(cls, world: "World") -> "HubProcess":
        """Start on the world's store, as often as it takes."""
        while True:
            lock = StoreLock.take(world.path, holder="")
            store = SqliteStore(world.path, lock, now_ms=world.now_ms)
            await store.open()
            coordinator = Coordinator(store, settings=SETTINGS, telemetry=Telemetry(), now_ms=world.now_ms)
            try:
                await coordinator.open()
            except StoreUnavailable:
                await store.close()
            else:
                return cls(world, store, coordinator)

    async def _no_socket(self, *_: Any) -> None:
        raise AssertionError("links of the simulation are wires")

    def serve(self, wire: Wire) -> None:
        task = asyncio.create_task(serve_worker(wire.hub, tenant=DEFAULT_TENANT, coordinator=self.coordinator))
        self.links[task] = wire
        task.add_done_callback(self._link_ended)

    def _link_ended(self, task: asyncio.Task[None]) -> None:
        del self.links[task]
        if not task.cancelled() and task.exception() is not None:
            self.world.faults.append(task.exception())

    def request(self, *args: Any, **options: Any) -> Exchange:
        exchange = Exchange(self.app, *args, **options)
        self.exchanges[exchange] = None
        exchange.task.add_done_callback(lambda _: self.exchanges.pop(exchange))
        return exchange

    async def kill(self) -> None:
        """End as with ``kill -9``."""
        self.world.disk.die()
        self.store._lock.release()
        for wire in self.links.values():
            wire.cut()
        tasks = [exchange.task for exchange in self.exchanges] + list(self.links)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.coordinator.close()

    async def stop(self) -> None:
        """End as on SIGTERM: work first, then responses, links and store."""
        await self.coordinator.close()
        responses = {exchange.task for exchange in self.exchanges}
        if responses:
            _, late = await asyncio.wait(responses, timeout=3)
            for task in late:
                task.cancel()
        links = list(self.links)
        for task in links:
            task.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        await self.store.close()


class WorkerProcess:
    """One worker process."""

    def __init__(self, world: "World", number: int, *, warm_bytes_max: int) -> None:
        self.world = world
        agent: Worker[Any] = Worker("notes", schema=NOTES, turn_timeout_s=TURN_TIMEOUT_S)
        agent.on_message(self.note)
        self.link = WorkerLink(self._dial, world.chance, world.history.counts)
        self.runtime = Runtime([agent], send=self.link.send, slots=SLOTS, warm_bytes_max=warm_bytes_max)
        self.runtime.worker_id = WorkerId(f"w{number}")
        self.wire: Wire | None = None
        self.is_alive = True
        self._task = asyncio.create_task(self.link.run(self.runtime))

    def _dial(self) -> End:
        if self.world.hub is None:
            raise LinkClosed
        self.wire = Wire(self.world.chance)
        self.world.hub.serve(self.wire)
        return self.wire.worker

    async def note(self, turn: Turn[Any]) -> str:
        """Note the message, in the way that its first word says."""
        if not self.is_alive:
            await asyncio.Event().wait()
        seen = [text for (text,) in turn.state.execute("SELECT text FROM note ORDER BY id")]
        self.world.history.runs.append(
            Run(str(turn.session_id), str(turn.message_id), turn.text, int(turn.version), seen)
        )
        if not seen:  # so that a snapshot weighs more than a few deltas, and catching up is worth it
            turn.state["ballast"] = self.world.chance.randbytes(4_000).hex()
        turn.state.execute("INSERT INTO note (text) VALUES (?)", (turn.text,))
        await turn.say(f"{turn.text} begun by attempt {turn.attempt}")
        match turn.text.split()[0]:
            case "raise":
                raise ValueError(turn.text)
            case "flaky" if self.world.chance.random() < 0.6:
                raise ValueError(turn.text)
            case "slow":
                for _ in range(self.world.chance.randint(1, 6)):
                    await asyncio.sleep(self.world.chance.choice([0.01, 0.5, 2]))
                    await turn.say("still at it")
            case "hang":
                await asyncio.sleep(3600)
            case "stubborn":
                await self._stay()
            case "deadly" if self.world.chance.random() < 0.7:
                self.world.spawn(self.world.replace_worker(self))
                await asyncio.sleep(3600)
        return f"{len(seen) + 1} notes"

    async def _stay(self) -> None:
        """Go on for a while, whatever cancels."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.world.chance.choice([0.5, 8, 30])
        while loop.time() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(until - loop.time())

    async def kill(self) -> None:
        """End as with ``kill -9``: nothing is said."""
        self.is_alive = False
        if self.wire is not None:
            self.wire.cut()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.runtime.link_lost()
        for attempt in self.runtime.running:
            attempt.events.close()
        await self.runtime.stop(grace_s=0)

    async def stop(self) -> None:
        """End as on SIGTERM."""
        self.is_alive = False
        await self.runtime.stop(grace_s=2)
        await asyncio.sleep(0.1)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class World:
    """Everything, under one seed."""

    def __init__(self, seed: int, folder: Path, disk: Disk) -> None:
        self.seed = seed
        self.chance = random.Random(seed)  # noqa: S311  # a simulation, no secret
        self.path = folder / "hub.db"
        self.disk = disk
        self.history = History(str(self.path))
        self.hub: HubProcess | None = None
        self.workers: list[WorkerProcess] = []
        self.faults: list[Any] = []
        self._started = 0
        self._tasks: dict[asyncio.Task[Any], None] = {}
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: self.faults.append(context))

    def now_ms(self) -> int:
        return 1_700_000_000_000 + int(1000 * asyncio.get_running_loop().time())

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    # --- processes -----------------------------------------------------------------------------

    async def start_hub(self) -> None:
        if self.hub is None:
            self.hub = await HubProcess.start(self)

    async def kill_hub(self) -> None:
        hub, self.hub = self.hub, None
        if hub is not None:
            self.history.counts["hub killed"] += 1
            await hub.kill()

    async def stop_hub(self) -> None:
        hub, self.hub = self.hub, None
        if hub is not None:
            self.history.counts["hub stopped"] += 1
            await hub.stop()

    def start_worker(self) -> None:
        self._started += 1
        warm_bytes_max = self.chance.choice([1, 40_000, 10_000_000])
        self.workers.append(WorkerProcess(self, self._started, warm_bytes_max=warm_bytes_max))

    async def kill_worker(self, worker: WorkerProcess) -> None:
        if worker in self.workers:
            self.workers.remove(worker)
            self.history.counts["worker killed"] += 1
            await worker.kill()

    async def replace_worker(self, worker: WorkerProcess) -> None:
        """Kill a worker, and start another one as whoever watches over processes does."""
        await self.kill_worker(worker)
        self.start_worker()

    async def stop_worker(self, worker: WorkerProcess) -> None:
        if worker in self.workers:
            self.workers.remove(worker)
            self.history.counts["worker stopped"] += 1
            await worker.stop()

    def request(self, *args: Any, **options: Any) -> Exchange:
        """Raises ``ConnectionLost``."""
        if self.hub is None:
            raise ConnectionLost
        return self.hub.request(*args, **options)

    # --- chaos ---------------------------------------------------------------------------------

    async def harm(self) -> None:
        """Do one bad thing."""
        chance = self.chance
        wires = [worker.wire for worker in self.workers if worker.wire is not None]
        match chance.choice(HARMS):
            case "hub killed":
                await self.kill_hub()
                await asyncio.sleep(chance.choice([0, 1, 5]))
                await self.start_hub()
            case "hub stopped":
                await self.stop_hub()
                await asyncio.sleep(chance.choice([0, 1, 5]))
                await self.start_hub()
            case "worker killed" if self.workers:
                await self.replace_worker(chance.choice(self.workers))
            case "worker stopped" if self.workers:
                self.spawn(self.stop_worker(chance.choice(self.workers)))
                self.start_worker()
            case "drought":
                for worker in list(self.workers):
                    await self.kill_worker(worker)
                await asyncio.sleep(chance.choice([1, 20]))
                self.start_worker()
                self.start_worker()
            case "cut" if wires:
                chance.choice(wires).cut()
            case "silence" if wires:
                chance.choice(wires).fall_silent()
            case "overlap" if wires:
                chance.choice(wires).cut_at_worker()
            case "disk":
                self.disk.fault_rate = chance.choice([0.02, 0.2, 1.0])
                await asyncio.sleep(chance.choice([0.1, 2]))
                self.disk.fault_rate = 0.0
            case "drop" if self.hub is not None:
                for session in range(4):
                    self.hub.coordinator.release(SessionKey(DEFAULT_TENANT, f"s{session}"))  # type: ignore[arg-type]

    # --- the end -------------------------------------------------------------------------------

    async def heal(self) -> None:
        """End all faults: one hub, workers with room."""
        self.disk.fault_rate = 0.0
        await self.start_hub()
        self.start_worker()
        self.start_worker()

    async def check_leaks(self) -> None:
        """Nothing is held by what is over: no slot, no wait, no runner, no attempt."""
        await asyncio.sleep(120)
        assert self.hub is not None
        coordinator = self.hub.coordinator
        for member in coordinator.fleet:
            if member.busy or member.reserved:
                raise Violated("a slot leaked", member.worker_id, member.busy, member.reserved)
        if coordinator._runners or coordinator.fleet._waiting:
            raise Violated("a runner leaked", coordinator._runners, coordinator.fleet._waiting)
        for worker in self.workers:
            if worker.runtime._attempts:
                raise Violated("an attempt leaked", worker.runtime.worker_id, list(worker.runtime._attempts))

    async def check_states(self, texts: dict[str, list[str]]) -> None:
        """CHAIN and EVICT-SAFE: every version is the one before it and its payload, and holds exactly its notes."""
        assert self.hub is not None
        for session_id, notes in ((name, each) for name, each in texts.items() if each):
            key = SessionKey(DEFAULT_TENANT, session_id)  # type: ignore[arg-type]
            session = await self.hub.store.log.session(key)
            links = await load_chain(self.hub.store, key, session.head.version)
            for before, link in itertools.pairwise(links):
                assert link.payload.kind is PayloadKind.DELTA
                raw = unseal(link.payload, raw_size_max=2**24)
                name = next_state_id(before.name.state_id, link.name.version, link.payload.kind, raw)
                if name != link.name.state_id:
                    raise Violated("CHAIN", session_id, link.name)
            assert session.schema is not None
            copy = OpenSession.from_chain(
                key.session_id, links, base=session.head, schema=session.schema, digest=session.digest
            )
            found = [text for (text,) in copy._database.run("SELECT text FROM note ORDER BY id")]
            copy.close()
            if found != notes:
                raise Violated("EVICT-SAFE and NO-TRACE", session_id, found, notes)

    async def stop(self) -> None:
        """Stop everything, also after a violation."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self.workers))
        await self.stop_hub()
        self.history.close()
