"""One run: a seed, its faults, and what came of it."""

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import apsw
import msgspec

from tests.simulation.checks import Violated
from tests.simulation.clients import Client
from tests.simulation.faults import LATEST_S, Fault, lingers_s, plan
from tests.simulation.harm import suffer
from tests.simulation.loop import SimulatedLoop, Stalled, run
from tests.simulation.observe import observed
from tests.simulation.world import SESSIONS, World

CLIENTS_PER_SESSION = 2
MESSAGES = 6
WORKERS = 3
PATIENCE_S = 3600
"""Simulated: far beyond what all turns take, one after the other."""


class Outcome(msgspec.Struct):
    """What one run came to."""

    seed: int
    faults: list[Fault]
    broken: str
    """The name of the promise that was broken; empty if none was."""
    told: str
    """How it was noticed."""
    counts: Counter[str]
    trace: list[str]
    digest: int
    """Of the whole trace: equal for equal runs."""
    steps: int
    turns: int


def simulate(seed: int, faults: Sequence[Fault] | None = None) -> Outcome:
    """Run *seed*, with its own faults or with *faults* in their place."""
    with _quiet():
        return _simulate(seed, faults)


def run_all(seeds: Sequence[int], *, jobs: int) -> Iterable[Outcome]:
    """Run seeds beside each other; yield in their order."""
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(simulate, seeds)


def _simulate(seed: int, faults: Sequence[Fault] | None) -> Outcome:
    chance = random.Random(seed)  # noqa: S311  # a simulation, no secret
    planned = plan(chance)
    faults = planned if faults is None else list(faults)
    loop = SimulatedLoop(random.Random(seed))  # noqa: S311
    with tempfile.TemporaryDirectory(prefix="satchel-simulation-") as folder:
        world = World(seed, Path(folder), loop, chance)
        with observed(world.history.counts):
            violation = _run(world, faults)
    return Outcome(
        seed=seed,
        faults=faults,
        broken="" if violation is None else violation.name,
        told="" if violation is None else "".join(traceback.format_exception(violation)),
        counts=world.history.counts
        + Counter({"disk fault": world.disk.faults, "crash between commit and answer": world.disk.deaths_after_commit}),
        trace=list(world.trace.lines()) if violation is not None else [],
        digest=world.trace.digest,
        steps=loop.steps,
        turns=sum(map(len, world.history.versions.values())),
    )


def _run(world: World, faults: Sequence[Fault]) -> Violated | None:
    async def main() -> Violated | None:
        try:
            await _live(world, faults)
        except Violated as error:
            return error
        except apsw.Error as error:
            violated = Violated("DURABLE-FIRST", "what is on the disk cannot be read", error)
            violated.__cause__ = error
            return violated
        finally:
            await world.bury()
        return None

    try:
        violation: Violated | None = run(main(), world.loop)
    except Stalled:
        violation = Violated("every wait ends", "nothing is ready, and no timer is set")
    return violation


async def _live(world: World, faults: Sequence[Fault]) -> None:
    """Clients talk while harm is done; then all is healed, and every client comes to its end."""
    if faults:
        world.disk.fault_rate = world.chance.choice([0, 0, 0.02])
    else:
        world.becomes_sound()
    await world.start_hub()
    for _ in range(WORKERS):
        world.start_worker()
    await asyncio.sleep(1)
    clients = [
        Client(world, f"s{session}", f"c{number}").start(MESSAGES)
        for session in range(SESSIONS)
        for number in range(CLIENTS_PER_SESSION)
    ]
    harm = world.spawn(suffer(world, faults))
    await _first_failure(world, [harm])
    await asyncio.sleep(LATEST_S / 5)
    await world.heal(lingers_s=lingers_s(faults))
    try:
        async with asyncio.timeout(PATIENCE_S):
            await _first_failure(world, clients)
    except TimeoutError:
        raise Violated("L1", "clients still wait") from None
    await world.check_leaks()
    rows = world.history.check()
    await world.check_states(rows)
    if world.failed.done():
        world.failed.result()


async def _first_failure(world: World, tasks: "Sequence[asyncio.Task[None]]") -> None:
    """Wait for *tasks*; raise what broke first, there or anywhere."""
    over = asyncio.gather(*tasks)
    await asyncio.wait({over, world.failed}, return_when=asyncio.FIRST_COMPLETED)
    if world.failed.done():
        over.cancel()
        world.failed.result()
    over.result()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Log nothing, and collect no garbage in the middle: a finalizer would be a step of its own.

    What the dead left half done complains when it is collected; nobody is there to hear it.
    """
    logging.disable(logging.CRITICAL)
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
        sys.unraisablehook = hook
        gc.unfreeze()
        gc.enable()
        logging.disable(logging.NOTSET)
