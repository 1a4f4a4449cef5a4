"""Turns at a rate that does not wait for the hub: how long callers wait, and what it costs.

Each message has a time at which its caller means to send it, and its wait counts from
there: a hub that stands still is charged for all who would have come meanwhile. Sessions
are chosen by Zipf's law; every few seconds a burst comes at one instant.
"""

import asyncio
import collections
import dataclasses
import statistics
import time

import uvloop

from benchmarks.client import Connection, connections
from benchmarks.load.arrivals import Arrival, arrivals
from benchmarks.processes import Process, Rig, rig
from benchmarks.prose import prose
from benchmarks.tables import Cell, Table
from benchmarks.warm import SESSIONS, block, turn

KNOWN_SESSIONS = 2000
BURST_EVERY_S, BURST = 2, 40
BUSY_SESSIONS = 20
"""The first by rank, whose own messages wait for each other; the others are rare."""
REFUSED = 429
"""What a hub answers when too many wait in one session."""
SHARES = (0.25, 0.5)
"""Of the turns a second that the same hub makes when callers wait for it."""


@dataclasses.dataclass(frozen=True)
class Done:
    """One turn, as its caller saw it."""

    wait_s: float
    start: str
    """``refused`` if it was not taken."""


class Callers:
    """As many connections as messages are under way; none waits for another."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[Connection] = []
        self.made = 0

    async def send(self, arrival: Arrival, meant_at: float) -> Done:
        if not self._idle:
            self.made += 1
        caller = self._idle.pop() if self._idle else Connection(self._url)
        answer = await caller.turn(f"session-{arrival.session}", prose(f"{arrival.at_s} {arrival.session}"))
        self._idle.append(caller)
        start = "refused" if answer.status == REFUSED else answer.complete()["turn"]["start"]
        return Done(wait_s=answer.ended_at - meant_at, start=start)

    async def close(self) -> None:
        await asyncio.gather(*(caller.close() for caller in self._idle))


async def offered(running: Rig, plan: list[Arrival]) -> list[Done]:
    """Send each message of *plan* when it is meant to be sent; return what came of them, in that order."""
    callers = Callers(running.url)
    began = time.perf_counter()
    sent = []
    try:
        for arrival in plan:
            delay_s = began + arrival.at_s - time.perf_counter()
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            sent.append(asyncio.create_task(callers.send(arrival, began + arrival.at_s)))
        return list(await asyncio.gather(*sent))
    finally:
        await callers.close()


async def capacity(running: Rig, *, count: int) -> float:
    """Return the turns a second of 64 callers that each wait for their answers."""
    async with connections(running.url, SESSIONS) as callers:
        turns = [turn(caller, f"capacity-{number}") for number, caller in enumerate(callers)]
        await block(turns, 1, running.hub, running.workers[0])
        cost, _ = await block(turns, count, running.hub, running.workers[0])
    return 1e6 / cost.wall_us


async def level(running: Rig, *, rate: float, seconds: float, seed: int) -> dict[str, Cell]:
    """Return the row of one rate."""
    plan = arrivals(seed, rate=rate, seconds=seconds, sessions=KNOWN_SESSIONS, burst_every_s=BURST_EVERY_S, burst=BURST)
    processes = [running.hub, *running.workers]
    before = [*_cpu(processes), running.hub.children_cpu_s()]
    done = await offered(running, plan)
    after = [*_cpu(processes), running.hub.children_cpu_s()]
    hub_us, *worker_us, helper_us = (1e6 * (end - start) / len(plan) for start, end in zip(before, after, strict=True))
    starts = collections.Counter(each.start for each in done)
    taken = [
        (arrival.session, each.wait_s) for arrival, each in zip(plan, done, strict=True) if each.start != "refused"
    ]
    waits = statistics.quantiles([wait_s for _, wait_s in taken], n=1000)
    rare = statistics.quantiles([wait_s for session, wait_s in taken if session >= BUSY_SESSIONS], n=1000)
    return {
        "turns a second": len(plan) / seconds,
        "p50 ms": 1000 * waits[499],
        "p99 ms": 1000 * waits[989],
        "p99.9 ms": 1000 * waits[998],
        "p99 ms, rare sessions": 1000 * rare[989],
        "warm share": starts["warm"] / (len(done) - starts["new"] - starts["refused"]),
        "refused": starts["refused"],
        "hub CPU us": hub_us,
        "worker CPU us": sum(worker_us),
        "compaction CPU us": helper_us,
        "hub MB": running.hub.memory_bytes() / 2**20,
        "worker MB": max(worker.memory_bytes() for worker in running.workers) / 2**20,
    }


def _cpu(processes: list[Process]) -> list[float]:
    return [process.cpu_s() for process in processes]


async def levels(running: Rig, *, seconds: float) -> Table:
    closed = await capacity(running, count=4 if seconds < 10 else 20)
    await level(running, rate=0.2 * closed, seconds=seconds / 2, seed=0)  # most sessions are not new after it
    rows = [
        await level(running, rate=share * closed, seconds=seconds, seed=number)
        | {"offered": f"{share:.0%} of what waiting callers get"}
        for number, share in enumerate(SHARES, 1)
    ]
    return Table(
        name="load",
        title="Arrivals that do not wait",
        columns=("offered", *rows[0])[:-1],
        rows=rows,
        notes=f"Waits count from the time at which a message was meant to be sent. {KNOWN_SESSIONS:,} sessions by"
        f" Zipf's law, two workers, a burst of {BURST} every {BURST_EVERY_S} s; {SESSIONS} callers that wait for"
        f" their answers get {closed:.0f} turns a second. CPU is a turn's; rare sessions are all"
        f" but the {BUSY_SESSIONS} busiest, whose messages queue behind each other; the warm share is of turns on"
        " sessions that are not new; memory is resident at the end, of the larger worker.",
    )


def measure(*, quick: bool) -> list[Table]:
    with rig("notes", "notes") as running:
        return [uvloop.run(levels(running, seconds=4 if quick else 30))]
