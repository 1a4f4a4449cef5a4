"""Does to a world what its faults say."""

import asyncio
import contextlib
import functools
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import apsw

from satchel.model import DEFAULT_TENANT, SessionId, SessionKey
from satchel.protocol.messages import AttemptName
from tests.simulation.disk import Moment
from tests.simulation.faults import Fault
from tests.simulation.net import Half
from tests.simulation.rot import rot
from tests.simulation.world import SESSIONS, WorkerProcess, World

Found = TypeVar("Found")

FROZEN_S = (0.5, 5, 18, 40)
"""A link gives a silent peer up after 20 s at most."""
LOOK_S = 0.005
DOWN_S = (0.0, 0.1, 1, 5)


async def suffer(world: World, faults: Sequence[Fault]) -> None:
    """Have every fault happen at its time."""
    for fault in faults:
        await asyncio.sleep(max(fault.at_s - world.loop.time(), 0))
        world.trace.add("fault", fault.kind)
        world.history.counts[f"fault: {fault.kind}"] += 1
        _to_hub(world, fault)
        _to_workers(world, fault)
        _to_links(world, fault)
        _to_disk(world, fault)


def _to_hub(world: World, fault: Fault) -> None:
    hub, chance = world.hub, fault.chance()
    if hub is None or hub.process.is_dead:
        return
    delay_s = chance.choice(DOWN_S)
    match fault.kind:
        case "hub dies":
            world.hub_died(delay_s=delay_s)
        case "power":
            world.hub_died(power=True, delay_s=delay_s)
        case "hub dies at a step":
            hub.process.after_steps(chance.randint(0, 400), lambda: world.hub_died(delay_s=delay_s))
        case "hub dies at a write":
            moment, writes, power = chance.choice(list(Moment)), chance.randint(0, 12), chance.random() < 0.5
            world.disk.doom(moment, writes, lambda: world.hub_died(power=power, delay_s=delay_s))
        case "hub stops":
            world.spawn(_restart(world, delay_s))
        case "hub freezes":
            hub.process.freeze(chance.choice(FROZEN_S))
        case "evict" if hub.is_serving:
            for session in range(SESSIONS):
                hub.main.post(hub.coordinator.release, SessionKey(DEFAULT_TENANT, SessionId(f"s{session}")))


def _to_workers(world: World, fault: Fault) -> None:
    chance, workers = fault.chance(), list(world.workers)
    if not workers:
        return
    worker = chance.choice(workers)
    replace = functools.partial(world.replace_worker, worker)
    match fault.kind:
        case "worker dies":
            replace()
        case "worker dies at a step":
            worker.process.after_steps(chance.randint(0, 120), replace)
        case "worker stops":
            world.spawn(world.stop_worker(worker))
            world.start_worker()
        case "worker freezes":
            worker.process.freeze(chance.choice(FROZEN_S))
        case "loop blocks":
            worker.handlers.block(chance.choice(FROZEN_S))
        case "drought":
            for each in workers:
                world.kill_worker(each)
                world.loop.world.post(world.start_worker, delay_s=chance.choice([1, 20]))
        case "damage":
            worker.damages_next = True
        case "late request":
            for each in workers:
                each.handlers.post(each.hear_again, chance)
        case "strange request":
            for each in workers:
                each.handlers.post(each.hear_of_another_state, chance)
        case "rollout":
            world.spawn(_roll_out(world, chance.choice([0.1, 2])))


def _to_links(world: World, fault: Fault) -> None:
    chance = fault.chance()
    wires = [worker.wire for worker in world.workers if worker.wire is not None]
    if not wires:
        return
    wire = chance.choice(wires)
    match fault.kind:
        case "cut":
            wire.cut_after(chance.choice([0, 0, 1, 2, 5]), half=None)
        case "half a frame":
            wire.cut_after(chance.choice([0, 1, 2, 5]), half=chance.choice(list(Half)))
        case "silence":
            wire.fall_silent()
        case "late end":
            wire.cut_at_worker(chance.choice([0.1, 1, 20]))
        case "exile":
            world.spawn(_exile(world, chance))


def _to_disk(world: World, fault: Fault) -> None:
    chance = fault.chance()
    match fault.kind:
        case "disk fails":
            world.disk.fault_rate = chance.choice([0.05, 0.2, 0.5, 1.0])
            world.loop.world.post(world.disk.heal, delay_s=chance.choice([0.5, 3, 10]))
        case "disk is slow":
            world.disk.slowness = chance.choice([5, 50])
            world.loop.world.post(world.disk.heal, delay_s=chance.choice([1, 5]))
        case "rot":
            world.spawn(_rot(world, fault))


async def _rot(world: World, fault: Fault) -> None:
    """Damage what is stored, between two transactions."""
    while not world.disk.vfs.is_lost:
        chance = fault.chance()
        session = chance.choice(sorted(world.history.versions) or [""])
        with contextlib.suppress(apsw.BusyError):
            if rot(world.path, session, chance):
                world.trace.add("disk", f"rots under {session}")
                world.history.rotten.add(session)
            return
        await asyncio.sleep(LOOK_S)


async def _exile(world: World, chance: random.Random) -> None:
    """Have the hub alone give a working worker up and run its turn elsewhere, then die; both workers come back."""
    worker = await _until(lambda: next((each for each in world.workers if _attempts(each)), None), patience_s=5)
    if worker is None or worker.wire is None:
        return
    wire, name = worker.wire, _attempts(worker)[0]
    wire.cut_at_hub()

    if await _until(lambda: world.history.is_started_after(name) or None, patience_s=10):
        await asyncio.sleep(chance.choice([0, 0, 0.05, 1]))
        world.hub_died(delay_s=chance.choice([0, 0.1, 1]))
    await asyncio.sleep(chance.choice([0, 0, 0.5]))
    wire.end_at_worker()


def _attempts(worker: WorkerProcess) -> list[AttemptName]:
    runtime = getattr(worker, "runtime", None)
    return [] if runtime is None else [attempt.name for attempt in runtime._attempts.values()]


async def _until(found: Callable[[], Found | None], *, patience_s: float) -> Found | None:
    """Look for something until it is there, or the time is up."""
    for _ in range(int(patience_s / LOOK_S)):
        if (thing := found()) is not None:
            return thing
        await asyncio.sleep(LOOK_S)
    return None


async def _restart(world: World, delay_s: float) -> None:
    await world.stop_hub()
    await asyncio.sleep(delay_s)
    await world.start_hub()


async def _roll_out(world: World, pause_s: float) -> None:
    """Replace every worker by one of the next build, the new one first."""
    world.schema_number = 2
    for worker in list(world.workers):
        world.start_worker()
        await asyncio.sleep(pause_s)
        await world.stop_worker(worker)
