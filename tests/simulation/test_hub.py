"""Hubs, workers and clients under one seed each, harmed at random: the invariants hold, and everything ends.

Time, threads and sockets are simulated, the rest is real. With ``PYTHONHASHSEED=0`` one
seed alone runs the same way every time: ``pytest tests/simulation -k "seed[17]"``.
"""

import asyncio
import os
import random
from collections import Counter

import pytest

from tests.simulation.clients import Client
from tests.simulation.clock import SimulatedLoop, clock, run
from tests.simulation.disk import Disk
from tests.simulation.world import World

SEEDS = int(os.environ.get("SATCHEL_SIMULATION_SEEDS", "50"))
SESSIONS = 4
CLIENTS_PER_SESSION = 2
MESSAGES = 4
HARMS = 8
PATIENCE_S = 3600
"""Simulated: far beyond what all turns take, one after the other."""

SOMETIMES = {
    *("hub killed", "hub stopped", "worker killed", "worker stopped", "disk fault", "reader left", "connection lost"),
    *("start: new", "start: warm", "start: catch-up", "start: cold", "failure: SESSION_STATE_NOT_FOUND"),
    *("adopted", "restarted: the worker was lost", "restarted: no worker brought the attempt back"),
    *("sent again", "restarted: the message was sent again", "resumed"),
    *("committed", "cancel: cancelled", "cancel: committed"),
    *("TEXT_HANDLER_ERROR", "TURN_TIMEOUT", "ATTEMPTS_EXHAUSTED", "NO_WORKER"),
}
"""What some seed must reach: an invariant that nothing tries is not shown."""

TOTALS: Counter[str] = Counter()
FINISHED: set[int] = set()


async def live(world: World) -> None:
    """Clients talk while harm is done; then all is healed, and every client comes to its end."""
    await world.start_hub()
    for _ in range(3):
        world.start_worker()
    await asyncio.sleep(1)
    clients = [
        world.spawn(Client(world, f"s{session}", f"c{number}").talk(MESSAGES))
        for session in range(SESSIONS)
        for number in range(CLIENTS_PER_SESSION)
    ]
    for _ in range(world.chance.randint(0, HARMS)):
        await asyncio.sleep(world.chance.choice([0.01, 0.1, 1, 4]))
        await world.harm()
    await world.heal()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*clients)


async def simulate(world: World) -> None:
    try:
        await live(world)
        await world.check_leaks()
        await world.check_states(world.history.check())
        TOTALS.update(world.history.counts)
        TOTALS["disk fault"] += world.disk.faults
        FINISHED.add(world.seed)
    finally:
        await world.stop()
    assert world.faults == []


@pytest.mark.parametrize("seed", range(SEEDS))
def test_invariants_hold_under_seed(seed, tmp_path, monkeypatch):
    loop = SimulatedLoop()

    async def main() -> None:
        world = World(seed, tmp_path, Disk(random.Random(seed)))  # noqa: S311  # a simulation, no secret
        for module in ("satchel.store.sqlite", "satchel.store.sqlite_objects"):
            monkeypatch.setattr(f"{module}.DatabaseThread", world.disk.thread)
        for module in ("satchel.hub.link", "satchel.hub.runner"):
            monkeypatch.setattr(f"{module}.time", clock(loop))
        await simulate(world)

    run(main(), loop)


def test_every_branch_was_reached():
    """Over all seeds together; says nothing of a single one."""
    if len(FINISHED) < SEEDS:
        pytest.skip("not all seeds ran")

    assert SOMETIMES - set(+TOTALS) == set()
