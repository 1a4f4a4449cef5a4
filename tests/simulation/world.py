"""A hub on a disk, worker processes, links: all of them what ships, but for time, threads and sockets."""

import asyncio
import contextlib
import functools
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from satchel.clock import Clock
from satchel.errors import CorruptState, LinkClosed, PeerViolation, SatchelError, StoreUnavailable, TurnRefused
from satchel.hub.api import create_app
from satchel.hub.auth import Gate
from satchel.hub.coordinator import Coordinator
from satchel.hub.link import serve_worker
from satchel.hub.settings import HubSettings, Keys
from satchel.hub.telemetry import Telemetry
from satchel.model import (
    DEFAULT_TENANT,
    Epoch,
    Link,
    MessageId,
    PayloadKind,
    SessionKey,
    StateId,
    StateName,
    Version,
    WorkerId,
    next_state_id,
)
from satchel.protocol.messages import Failure, Register, Registered, Result
from satchel.state.digest import digest
from satchel.state.image import opened_image
from satchel.state.payload import unseal
from satchel.state.rebuild import RebuildJob, Rebuilt, rebuilt_here
from satchel.state.session import OpenSession
from satchel.store.chain import load_chain
from satchel.store.files import StoreLock
from satchel.store.sqlite import SqliteStore
from satchel.worker.context import Turn
from satchel.worker.link import LinkUser, WorkerLink
from satchel.worker.runtime import Runtime
from satchel.worker.worker import Worker
from tests.simulation.agent import AGENT, MIGRATION, PLAIN_AGENT, SCHEMA, Rows, change, stay
from tests.simulation.checks import History, Run, Violated
from tests.simulation.disk import Disk
from tests.simulation.frames import FrameWatch
from tests.simulation.loop import Killed, Process, SimulatedLoop, Strand, StrandExecutor
from tests.simulation.net import ConnectionLost, Exchange, Wire
from tests.simulation.rival import Rival
from tests.simulation.trace import Trace

SESSIONS = 4
SLOTS = 2
TURN_TIMEOUT_S = 20.0
ENDS_S = 1200
"""Simulated: a full queue of messages of which every attempt runs into its bound."""


class Helper:
    """Rebuilds states as the helper process does, and dies of it at times."""

    def __init__(self, world: "World") -> None:
        self._world = world

    async def rebuild(self, job: RebuildJob) -> Rebuilt:
        await asyncio.sleep(self._world.chance.choice([0.01, 0.1, 3]))
        self._world.history.counts["compaction"] += 1
        if self._world.chance.random() < 0.1:
            raise CorruptState("The helper process that rebuilt a state ended with -9.")
        rebuilt = rebuilt_here(job)
        if isinstance(rebuilt, Rebuilt) and self._world.chance.random() < 0.05:
            self._world.history.counts["a snapshot of other rows"] += 1
            return _of_other_rows(rebuilt)
        if not isinstance(rebuilt, Rebuilt):
            if job.session_id in self._world.history.rotten:
                raise CorruptState(rebuilt.message)
            self._world.fault(Violated("FAIL-STOP", "a sound chain was refused", job.session_id, job.base, rebuilt))
            raise CorruptState(rebuilt.message)
        return rebuilt

    async def close(self) -> None:
        pass


def _of_other_rows(rebuilt: Rebuilt) -> Rebuilt:
    """Return what a process makes whose memory is bad: sound in itself, and not the version."""
    database = opened_image(rebuilt.image)
    with contextlib.closing(database):
        database.run("UPDATE _satchel_values SET value = 99 WHERE key = 'visits'")
        return Rebuilt(database.image(), digest(database))


class HubProcess:
    """One life of the hub."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.process = world.loop.process(f"hub{number}")
        self.main = self.process.strand("")
        self.wires: dict[Wire, None] = {}
        self.exchanges: dict[Exchange, None] = {}
        self._links: dict[asyncio.Task[None], None] = {}
        self.lock: StoreLock | None = None
        self.store: SqliteStore
        self.coordinator: Coordinator
        self.app: Any = None
        self.is_stopping = False

    @property
    def is_serving(self) -> bool:
        return self.app is not None and not self.process.is_dead and not self.is_stopping

    async def start(self) -> None:
        """Start on the world's store, as often as it takes."""
        world = self.world
        while self.app is None:
            self.lock = StoreLock.take(world.path, holder="")
            self.store = SqliteStore(world.path, self.lock, now_ms=world.clock.now_ms, database=world.disk.database)
            self.coordinator = Coordinator(
                self.store,
                settings=world.settings,
                telemetry=Telemetry(),
                clock=world.clock,
                rebuilder=Helper(world),
            )
            try:
                await self.store.open()
                await self.coordinator.open()
            except StoreUnavailable:
                await self.store.close()
                await asyncio.sleep(0.1)
            else:
                gate = Gate(keys=Keys(), is_mounted=True)
                self._watch()
                self.app = create_app(lambda: self.coordinator, gate, serve_link=self._no_socket)

    def _watch(self) -> None:
        """L3, and what workers bring back and say: FENCED, ONE-STREAM."""
        world, coordinator = self.world, self.coordinator
        Rival(self.store.log, world.history, world.chance, world.fault)
        taken = {str(key.session_id) for key in coordinator._runners}
        if left := world.history.sessions_with_work() - taken:
            world.fault(Violated("L3", "a hub that starts does not take up what is unfinished", left))
        join, receive = coordinator.join, coordinator.receive

        async def watched_join(member: Any, register: Any) -> Any:
            adopted = await join(member, register)
            try:
                for name in adopted:
                    world.history.check_adopted(name)
            except Violated as violated:  # the link would take it for its own end
                world.fault(violated)
            return adopted

        def watched_receive(member: Any, frame: Any) -> None:
            try:
                receive(member, frame)
            except PeerViolation as error:
                world.fault(Violated("ONE-STREAM", "a worker broke the rules of its link", member.worker_id, error))
                raise

        coordinator.join = watched_join  # type: ignore[method-assign]
        coordinator.receive = watched_receive  # type: ignore[method-assign]

    async def _no_socket(self, *_: Any) -> None:
        raise AssertionError("links of the simulation are wires")

    def accept(self, wire: Wire) -> None:
        self.wires[wire] = None
        task = self.main.spawn(serve_worker(wire.hub, tenant=DEFAULT_TENANT, coordinator=self.coordinator))
        self._links[task] = None
        task.add_done_callback(functools.partial(self._link_ended, wire))

    def _link_ended(self, wire: Wire, task: "asyncio.Task[None]") -> None:
        self._links.pop(task, None)
        self.wires.pop(wire, None)
        if not task.cancelled() and task.exception() is not None:
            self.world.fault(task.exception())

    def client(self, name: str) -> Strand:
        """Return a strand for a caller."""
        process = self.loop.process(name)
        self._clients.append(process)
        return process.strand("")

    def request(self, client: Strand, *args: Any, **options: Any) -> Exchange:
        exchange = Exchange(self.app, client, self.main, *args, chance=self.world.chance, **options)
        self.exchanges[exchange] = None
        exchange.ended = self._exchange_ended
        return exchange

    def _exchange_ended(self, exchange: Exchange) -> None:
        self.exchanges.pop(exchange, None)
        task = exchange.task
        if task is not None and not task.cancelled() and task.exception() is not None:
            self.world.fault(task.exception())

    def die(self, *, power: bool = False) -> None:
        """End as with ``kill -9``, or as the power goes: then only what was synced is kept."""
        self.world.disk.lose(everything=not power)
        self.process.kill()
        self.cut_off()

    def cut_off(self) -> None:
        for wire in self.wires:
            wire.lose(wire.hub)
        for exchange in self.exchanges:
            exchange.lost()

    def let_go(self) -> None:
        if self.lock is not None:
            self.lock.release()
            self.coordinator._is_open = False  # else what is cancelled is done again

    async def stop(self) -> None:
        """End as on SIGTERM: work first, then responses, links and store."""
        await self.coordinator.close()
        responses = {exchange.task: None for exchange in self.exchanges if exchange.task is not None}
        if responses:
            _, late = await asyncio.wait(list(responses), timeout=3)
            for task in responses:
                if task in late:
                    task.cancel()
        links = list(self._links)
        for task in links:
            task.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        await self.store.close()


class WorkerProcess:
    """One worker process: its link has a thread of its own."""

    def __init__(self, world: "World", number: int, *, schema_number: int, warm_bytes_max: int) -> None:
        self.world = world
        self.schema_number = schema_number
        self.process = world.loop.process(f"w{number}")
        self.handlers = self.process.strand("")
        self.link_strand = self.process.strand("link")
        migrations = [MIGRATION] if schema_number > 1 else []
        agents: list[Worker[Any]] = []
        for name, handler in ((AGENT, self.note), (PLAIN_AGENT, self.note_plainly)):
            agent: Worker[Any] = Worker(name, schema=SCHEMA, migrations=migrations, turn_timeout_s=TURN_TIMEOUT_S)
            agent.on_message(handler)
            agents.append(agent)
        self.link = WorkerLink(self._dial, to_user=self._to_handlers, registered=self._registered, chance=world.chance)
        self.runtime: Runtime
        self.wire: Wire | None = None
        self.frames = FrameWatch(world.history, world.fault)
        self.damages_next = False
        """The bytes of its next state are to be altered after they were hashed."""
        self.handlers.post(self._begin, agents, f"w{number}", warm_bytes_max)

    def _begin(self, agents: list[Worker[Any]], worker_id: str, warm_bytes_max: int) -> None:
        self.runtime = Runtime(
            agents,
            send=self._send,
            slots=SLOTS,
            warm_bytes_max=warm_bytes_max,
            clock=self.world.clock,
            threads=lambda _count, name: StrandExecutor(self.process.strand(name), self.world.chance),
        )
        self.runtime.worker_id = WorkerId(worker_id)
        self.link_strand.spawn(self.link.run())

    def _send(self, frame: Any) -> None:
        if isinstance(frame, Result) and self.damages_next:
            self.damages_next = False
            data = bytearray(frame.payload.data)
            data[self.world.chance.randrange(len(data))] ^= 1
            frame = msgspec.structs.replace(frame, payload=msgspec.structs.replace(frame.payload, data=bytes(data)))
        self.frames.says(frame)
        if isinstance(frame, Failure):
            self.world.history.counts[f"failure: {frame.code.name}"] += 1
        self.link_strand.post(self.link.send, frame)

    def _registered(self, frame: Registered) -> None:
        self.world.history.counts["adopted"] += len(frame.adopted)

    def _to_handlers(self, call: Any) -> None:
        user: LinkUser = self
        self.handlers.post(call, user)

    # As the runtime's ``LinkUser``, so that what it is told is seen.

    def registration(self) -> Register:
        return self.runtime.registration()

    def receive(self, frame: Any) -> None:
        self.frames.hears(frame)
        self.runtime.receive(frame)

    def link_lost(self) -> None:
        self.runtime.link_lost()

    def hear_again(self, chance: random.Random) -> None:
        """Be sent a request once more that a later one has overtaken: it changes nothing."""
        runtime = self.runtime
        overtaken = [
            request
            for name, request in self.frames.requests.items()
            if (copy := runtime._copies.get(name.session_id)) is not None and copy.epoch > name.epoch
        ]
        if overtaken:
            self.world.history.counts["late request"] += 1
            self.receive(chance.choice(overtaken))

    def hear_of_another_state(self, chance: random.Random) -> None:
        """Be asked for the version that it holds, as another attempt made it: it holds no such state."""
        idle = [
            request
            for name, request in self.frames.requests.items()
            if (copy := self.runtime._copies.get(name.session_id)) is not None
            and name.session_id not in self.runtime._attempts
            and copy.session.name.version > 0
        ]
        if not idle:
            return
        request = chance.choice(idle)
        copy: Any = self.runtime._copies.get(request.attempt.session_id)
        name = msgspec.structs.replace(
            request.attempt, message_id=MessageId(f"strange-{self.world._now_ms()}"), epoch=Epoch(copy.epoch + 1)
        )
        base = StateName(copy.session.name.version, StateId(chance.randbytes(16)))
        self.world.history.counts["strange request"] += 1
        self.receive(msgspec.structs.replace(request, attempt=name, base=base, chain=()))

    async def _dial(self) -> Any:
        world = self.world
        await asyncio.sleep(world.chance.choice([0.001, 0.01]))
        hub = world.hub
        if hub is None or not hub.is_serving:
            raise LinkClosed
        self.wire = Wire(self.link_strand, hub.main, chance=world.chance, trace=world.trace)
        hub.main.post(hub.accept, self.wire)
        hub.wires[self.wire] = None
        return self.wire.worker

    async def note(self, turn: Turn[Any]) -> str:
        """Note the message, in the way that its first word says."""
        found = self._change(turn)
        await turn.say(f"{turn.text} begun by attempt {turn.attempt}")
        await self._behave(turn)
        return f"{found.visits + 1} visits"

    def note_plainly(self, turn: Turn[Any]) -> list[str]:
        """Note the message in a thread."""
        found = self._change(turn)
        match turn.text.split()[0]:
            case "refuse":
                raise TurnRefused(turn.text)
            case "raise":
                raise ValueError(turn.text)
            case "block":
                self.world.loop.strand().block(self.world.chance.choice([0.5, 3, 12]))
        return [f"{turn.text} noted, ", f"{found.visits + 1} visits"]

    def _change(self, turn: Turn[Any]) -> Rows:
        world = self.world
        found = change(turn, self.schema_number, lambda: world.chance.randbytes(world.ballast_bytes).hex())
        world.trace.add(
            self.process.name, f"handler of {turn.message_id}, attempt {turn.attempt}, makes v{turn.version}"
        )
        copy = self.runtime._copies.get(turn.session_id)
        if copy is not None:
            self.frames.runs(turn._voice._name, copy.session.name)
        world.history.runs.append(
            Run(
                turn.session_id,
                turn.message_id,
                turn.text,
                turn.version,
                turn.attempt,
                self.schema_number,
                (turn.idempotency_key("charge"), turn.idempotency_key("mail")),
                found,
                self.process.name,
                world._now_ms(),
            )
        )
        return found

    async def _behave(self, turn: Turn[Any]) -> None:
        chance = self.world.chance
        match turn.text.split()[0]:
            case "refuse":
                raise TurnRefused(turn.text)
            case "raise":
                raise ValueError(turn.text)
            case "flaky" if chance.random() < 0.6:
                raise ValueError(turn.text)
            case "slow":
                for _ in range(chance.randint(1, 6)):
                    await asyncio.sleep(chance.choice([0.01, 0.5, 2]))
                    await turn.say("still at it")
            case "hang":
                await asyncio.sleep(3600)
            case "stubborn":
                await stay(chance, lambda: self.world.is_over)
            case "block":
                self.world.history.blocked_at_ms = self.world._now_ms()
                self.handlers.block(chance.choice([0.5, 3, 12]))
            case "deadly" if chance.random() < 0.7:
                self.world.loop.world.post(self.world.replace_worker, self)
                await asyncio.sleep(3600)

    def die(self) -> None:
        """End as with ``kill -9``: nothing is said."""
        self.process.kill()
        if self.wire is not None:
            self.wire.lose(self.wire.worker)

    def let_go(self) -> None:
        runtime = getattr(self, "runtime", None)  # killed before its first step: it has none
        for session_id, _copy in runtime._copies if runtime is not None else ():
            runtime._copies.drop(session_id)

    async def stop(self) -> None:
        """End as on SIGTERM."""
        await self.runtime.stop(grace_s=2)
        await self.link_strand.run(self._stop_link())

    async def _stop_link(self) -> None:
        self.link.stop()
        await asyncio.sleep(2)


class World:
    """Everything, under one seed."""

    def __init__(self, seed: int, folder: Path, loop: SimulatedLoop, chance: random.Random) -> None:
        self.seed = seed
        self.loop = loop
        self.chance = chance
        self.path = folder / "hub.db"
        self.disk = Disk(folder, chance)
        self.clock = Clock(now_ms=self._now_ms, stopwatch_s=loop.time)
        self.trace = Trace(loop.time)
        self.settings = HubSettings(
            worker_wait_s=15.0,
            queue_length_max=chance.choice([2, 8]),
            compact_deltas_min=chance.choice([2, 5]),
            trim_every_versions=chance.choice([1, 4]),
            retain_versions=chance.choice([2, 3, 100]),
        )
        self.ballast_bytes = chance.choice([200, 4_000, 4_000, 150_000])
        self.history = History(self.path, self.trace, self.settings, now_ms=self._now_ms)
        self.disk.wrote = self._wrote
        self.hub: HubProcess | None = None
        self.workers: dict[WorkerProcess, None] = {}
        self.schema_number = 1
        self.is_over = False
        self.is_sound = asyncio.Event()
        """Nothing but what messages ask for goes wrong any more."""
        self.failed: asyncio.Future[None] = loop.create_future()
        self._hubs = 0
        self._started = 0
        self._wreck: HubProcess | None = None
        """A dead hub whose disk was not yet looked after."""
        self._dead: list[HubProcess | WorkerProcess] = []
        self._clients: list[Process] = []
        self._background: dict[asyncio.Task[Any], None] = {}
        loop.set_exception_handler(lambda _loop, context: self.fault(context))

    def _now_ms(self) -> int:
        return 1_700_000_000_000 + int(1000 * self.loop.time())

    def fault(self, what: Any) -> None:
        """Hear of an error that nobody expected, or of a promise that was broken."""
        error = what.get("exception") if isinstance(what, dict) else what
        if self.is_over or self.failed.done():
            return
        if not isinstance(error, Violated):
            violated = Violated("no fault of ours", what)
            violated.__cause__ = error if isinstance(error, BaseException) else None
            error = violated
        self.failed.set_exception(error)

    def _wrote(self) -> bool:
        try:
            return self.history.wrote(calls=self.disk.calls)
        except Violated as violated:
            self.fault(violated)
            return False

    def spawn(self, work: Any) -> "asyncio.Task[Any]":
        """Do something in the world's own strand, beside everything else."""
        task = self.loop.world.spawn(work)
        self._background[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        del self._background[task]
        if not task.cancelled() and task.exception() is not None:
            self.fault(task.exception())

    # --- processes -----------------------------------------------------------------------------

    async def start_hub(self) -> None:
        while self._wreck is not None or self.hub is None or self.hub.process.is_dead:
            if self._wreck is not None:
                await asyncio.sleep(0.05)
                continue
            self._hubs += 1
            self.hub = HubProcess(self, self._hubs)
            with contextlib.suppress(Killed):
                await self.hub.main.run(self.hub.start())

    def hub_died(self, *, power: bool = False, delay_s: float) -> None:
        """Kill the hub now; somebody starts it again after a while."""
        hub = self.hub
        if hub is None or hub.process.is_dead:
            return
        self.trace.add("world", f"{hub.process.name} dies{' with the power' if power else ''}")
        self.history.counts["hub killed"] += 1
        hub.die(power=power)
        self._dead.append(hub)
        self._wreck = hub
        self.loop.world.post(self._hub_again, hub, delay_s)

    def _hub_again(self, hub: HubProcess, delay_s: float) -> None:
        self.disk.restore()
        self.history.forget_connection()
        assert hub.lock is not None
        hub.lock.release()
        self._wreck = None
        try:
            self.history.survived()
        except Violated as violated:
            self.fault(violated)
        self.loop.world.post(lambda: self.spawn(self.start_hub()), delay_s=delay_s)

    async def stop_hub(self) -> None:
        hub = self.hub
        if hub is None or not hub.is_serving:
            return
        self.trace.add("world", f"{hub.process.name} stops")
        self.history.counts["hub stopped"] += 1
        hub.is_stopping = True
        with contextlib.suppress(Killed):
            await hub.main.run(hub.stop())
            hub.process.kill()
            hub.cut_off()
            self._dead.append(hub)

    def start_worker(self) -> WorkerProcess:
        self._started += 1
        warm_bytes_max = self.chance.choice([1, 40_000, 10_000_000, 10_000_000])
        worker = WorkerProcess(self, self._started, schema_number=self.schema_number, warm_bytes_max=warm_bytes_max)
        self.workers[worker] = None
        return worker

    def kill_worker(self, worker: WorkerProcess) -> None:
        if worker in self.workers:
            self.trace.add("world", f"{worker.process.name} dies")
            del self.workers[worker]
            self.history.counts["worker killed"] += 1
            worker.die()
            self.history.died_at_ms[worker.process.name] = self._now_ms()
            self._dead.append(worker)

    def replace_worker(self, worker: WorkerProcess) -> None:
        """Kill a worker, and start another one as whoever watches over processes does."""
        if worker in self.workers:
            self.kill_worker(worker)
            self.start_worker()

    async def stop_worker(self, worker: WorkerProcess) -> None:
        if worker in self.workers:
            self.trace.add("world", f"{worker.process.name} stops")
            del self.workers[worker]
            self.history.counts["worker stopped"] += 1
            with contextlib.suppress(Killed):
                await worker.handlers.run(worker.stop())
            worker.die()
            self._dead.append(worker)

    def client(self, name: str) -> Strand:
        """Return a strand for a caller."""
        process = self.loop.process(name)
        self._clients.append(process)
        return process.strand("")

    def request(self, client: Strand, *args: Any, **options: Any) -> Exchange:
        """Raises ``ConnectionLost``."""
        hub = self.hub
        if hub is None or not hub.is_serving:
            raise ConnectionLost
        return hub.request(client, *args, **options)

    # --- the end -------------------------------------------------------------------------------

    async def heal(self, *, lingers_s: float) -> None:
        """End all faults: one hub, workers with room. After *lingers_s* nothing of them is left."""
        self.disk.heal()
        self.schema_number = max(self.schema_number, *(worker.schema_number for worker in self.workers), 1)
        await self.start_hub()
        self.start_worker()
        self.start_worker()
        self.loop.world.post(self.becomes_sound, delay_s=lingers_s)

    def becomes_sound(self) -> None:
        if self.history.sound_since_ms is None:
            self.history.sound_since_ms = self._now_ms()
            self.is_sound.set()

    async def check_leaks(self) -> None:
        """L1: what nobody waits for ends, too. L6: nothing is held by what is over: no slot, wait, runner, attempt."""
        until = self.loop.time() + ENDS_S
        while self.history.sessions_with_work() and self.loop.time() < until:
            await asyncio.sleep(10)
        if left := self.history.sessions_with_work():
            raise Violated("L1", "an accepted message does not end", left)
        await asyncio.sleep(120)
        assert self.hub is not None
        coordinator = self.hub.coordinator
        for member in coordinator.fleet:
            if member.busy or member.reserved:
                raise Violated("L6", "a slot leaked", member.worker_id, member.busy, member.reserved)
        if coordinator._runners or coordinator.fleet._waiting:
            raise Violated("L6", "a wait leaked", coordinator._runners, coordinator.fleet._waiting)
        for worker in self.workers:
            if worker.runtime._attempts:
                raise Violated("L6", "an attempt leaked", worker.process.name, list(worker.runtime._attempts.values()))

    async def check_states(self, rows: dict[str, list[Rows]]) -> None:
        """CHAIN, N-1, EQUAL: what is stored gives the rows that were committed, and so do the workers' copies."""
        assert self.hub is not None
        hub = self.hub
        for name, seen in self.history.versions.items():
            for version in range(len(seen), max(len(seen) - 2, 0), -1):
                await hub.main.run(self._check_version(hub, name, Version(version), rows[name][version]))
        for worker in self.workers:
            self._check_copies(worker, rows)

    async def _check_version(self, hub: HubProcess, name: str, version: Version, rows: Rows) -> None:
        key = SessionKey(DEFAULT_TENANT, name)  # type: ignore[arg-type]
        try:
            stored = await hub.store.log.chain(key, version)
            links = await load_chain(hub.store, key, version)
            copy = OpenSession.from_chain(
                key.session_id, links, base=links[-1].name, schema=stored[-1].schema, digest=stored[-1].digest
            )
        except SatchelError as error:
            if name in self.history.rotten:  # FAIL-STOP
                self.history.counts["rot was noticed"] += 1
                return
            raise Violated("N-1", name, version, error) from error
        _check_names(name, links)
        if links[-1].name.state_id != self.history.versions[name][version - 1].state_id:
            raise Violated("CHAIN", name, version, links[-1].name)
        _check_owner(name, links[-1].name, copy._database)
        found = Rows.read(copy._database.run)
        content = digest(copy._database)
        copy.close()
        if found != rows:
            raise Violated("CHAIN: rows", name, version, found, rows)
        for worker in self.workers:
            held = worker.runtime._copies.get(key.session_id)
            if held is not None and held.session.name == links[-1].name:  # type: ignore[attr-defined]
                self.history.counts["copy compared"] += 1
                if digest(held.session._database) != content:  # type: ignore[attr-defined]
                    raise Violated("EQUAL", name, version, worker.process.name)

    def _check_copies(self, worker: WorkerProcess, rows: dict[str, list[Rows]]) -> None:
        for session_id, copy in worker.runtime._copies:
            name = copy.session.name
            made = self.history.versions[session_id]
            if name.version == 0:
                continue
            if name.version > len(made) or made[name.version - 1].state_id != name.state_id:
                raise Violated("EXACT-BASE", "a copy of what was never committed is kept", session_id, name)
            _check_owner(session_id, name, copy.session._database)
            if Rows.read(copy.session._database.run) != rows[session_id][name.version]:
                raise Violated("EQUAL", session_id, name, worker.process.name)

    async def bury(self) -> None:
        """Stop everything, also after a violation."""
        self.is_over = True
        living: list[HubProcess | WorkerProcess] = [*self.workers, *([self.hub] if self.hub is not None else [])]
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for process in [*self._clients, *(each.process for each in living)]:
            process.kill()
        for process in self._clients:
            await process.bury()
        for each in [*self._dead, *living]:
            each.let_go()
            await each.process.bury()
        if self.disk.vfs.is_lost:
            self.history.forget_connection()
        self.history.close()
        self.disk.close()


def _check_owner(session: str, name: StateName, database: Any) -> None:
    """OWN-SESSION: a state says whose it is, and which version."""
    [row] = database.run("SELECT session_id, version FROM _satchel_turn")
    if row != (session, name.version):
        raise Violated("OWN-SESSION", session, name, row)


def _check_names(name: str, links: Sequence[Link]) -> None:
    for before, link in itertools.pairwise(links):
        if link.payload.kind is not PayloadKind.DELTA:
            raise Violated("CHAIN", "a snapshot inside a chain", name, link.name)
        raw = unseal(link.payload, raw_size_max=2**24)
        if next_state_id(before.name.state_id, link.name.version, link.payload.kind, raw) != link.name.state_id:
            raise Violated("CHAIN", name, link.name)
