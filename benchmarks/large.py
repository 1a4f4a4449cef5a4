"""A cold start of a large state on a busy link: what the other sessions feel, and what it takes in memory.

Turns of small sessions are sent at a steady pace, whatever became of those before; one of
a large session that the worker does not hold comes among them. Before and after, the same
pace without it.
"""

import asyncio
import statistics
import time

import uvloop

from benchmarks.client import Connection, connections
from benchmarks.cold import Line
from benchmarks.processes import Rig, rig
from benchmarks.tables import Reach, Table
from satchel.limits import MIB, STATE_BYTES_MAX

SMALL_SESSIONS = 16
GAP_S = 0.02
"""Between two turns on small sessions."""
CALM_S = 4.0
ROW_BYTES = 1400
"""What a row of ``apps/stateful.py`` takes in the database."""


class Pace:
    """Turns on small sessions at a steady pace, and how long each waited from the time it was meant to be sent."""

    def __init__(self, callers: list[Connection]) -> None:
        self._callers = callers
        self.waits: list[float] = []

    async def keep(self, ended: asyncio.Event) -> None:
        """Send until *ended*; then wait for what is under way."""
        began = time.perf_counter()
        sent: set[asyncio.Task[None]] = set()
        number = 0
        while not ended.is_set():
            sent.add(asyncio.create_task(self._send(number, began + GAP_S * number)))
            number += 1
            await asyncio.sleep(max(began + GAP_S * number - time.perf_counter(), 0))
        await asyncio.gather(*sent)

    async def _send(self, number: int, meant_at: float) -> None:
        caller = self._callers.pop()
        answer = await caller.turn(f"small-{number % SMALL_SESSIONS}", "go")
        answer.complete()
        self.waits.append(answer.ended_at - meant_at)
        self._callers.append(caller)


async def paced(callers: list[Connection], seconds: float) -> list[float]:
    """Return the waits of so many seconds without anything else."""
    pace, ended = Pace(callers), asyncio.Event()
    keeping = asyncio.create_task(pace.keep(ended))
    await asyncio.sleep(seconds)
    ended.set()
    await keeping
    return pace.waits


async def paced_beside(callers: list[Connection], caller: Connection) -> tuple[list[float], Line]:
    """Return the waits beside a cold start of the large session, and its turn."""
    pace, ended = Pace(callers), asyncio.Event()
    keeping = asyncio.create_task(pace.keep(ended))
    line = Line(await caller.turn("large", "go"))
    ended.set()
    await keeping
    return pace.waits, line


async def large(running: Rig, *, size: int, rounds: int) -> Table:
    running.add_worker("stateful")
    calm: list[float] = []
    busy: list[float] = []
    walls: list[float] = []
    hub: list[float] = []
    worker: list[float] = []
    async with connections(running.url, 400) as callers:
        caller = callers.pop()
        Line(await caller.turn("large", f"fill {size // ROW_BYTES}"))
        state_bytes = (await caller.get("/v1/sessions/large"))["state_bytes"]
        for _ in range(rounds):
            await asyncio.to_thread(running.remove_worker, running.workers[0])
            await asyncio.to_thread(running.add_worker, "stateful")
            await paced(callers, 1)
            calm += await paced(callers, CALM_S)
            before = [process.reset_peak() for process in (running.hub, running.workers[0])]
            waits, line = await paced_beside(callers, caller)
            assert line.start == "cold", line.start
            busy += waits
            walls.append(line.wall_ms)
            peaks = [process.memory_bytes("VmHWM") for process in (running.hub, running.workers[0])]
            for kept, peak, base in zip((hub, worker), peaks, before, strict=True):
                kept.append((peak - base) / state_bytes)
    p99 = [statistics.quantiles(waits, n=100)[98] for waits in (calm, busy)]
    what = f"cold start of {state_bytes / 1e6:.0f} MB"
    return Table(
        name="large",
        title=f"A {what} among turns of other sessions",
        columns=("other sessions", "turns", "p50 ms", "p99 ms", "p99 / without"),
        rows=[
            {
                "other sessions": name,
                "turns": len(waits),
                "p50 ms": 1000 * statistics.median(waits),
                "p99 ms": 1000 * each,
                "p99 / without": each / p99[0],
            }
            for name, waits, each in (("without it", calm, p99[0]), ("beside it", busy, p99[1]))
        ],
        notes=f"A turn each {1000 * GAP_S:.0f} ms, whatever became of those before; {rounds} cold starts on the same"
        f" link, {statistics.median(walls):.0f} ms to the first handler line. Memory at its peak, beyond what was there"
        f" before: hub {statistics.median(hub):.2f}, worker {statistics.median(worker):.2f} times the state.",
        reach=(
            Reach(f"{what}: p99 of other sessions", "times that without it", p99[1] / p99[0], 2),
            Reach(f"{what}: the hub's memory", "times the state", statistics.median(hub), 2),
            Reach(f"{what}: the worker's memory", "times the state", statistics.median(worker), 2),
        ),
    )


def measure(*, quick: bool) -> list[Table]:
    size = 8 * MIB if quick else min(100_000_000, 3 * STATE_BYTES_MAX // 4)
    with rig() as running:
        return [uvloop.run(large(running, size=size, rounds=1 if quick else 8))]
