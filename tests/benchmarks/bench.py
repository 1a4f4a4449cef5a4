"""A hub and a worker as processes, and what turns on them cost. Linux: it reads other processes' clocks."""

import contextlib
import pathlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator

import msgspec

from tests.acceptance.processes import Fleet, Process, turn_of
from tests.benchmarks.agent import prose

APP = pathlib.Path(__file__).parent / "agent.py"


class Cost(msgspec.Struct, frozen=True):
    """What turns cost, each."""

    cpu_ms: float
    """Of the hub's process and the worker's together."""
    hub_ms: float
    wall_ms: float
    """From the message's first byte to the last event, as its caller sees it."""
    state_bytes: float
    """Encoded state on the wire, both ways."""


class Bench:
    """One hub, one worker, and one caller that sends message after message."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._sent = 0

    async def turn(self, session: str) -> int:
        """Send one message of about 500 bytes; return the encoded state that travelled. It must be warm."""
        self._sent += 1
        events = await self._fleet.send(session, prose(f"question {self._sent}"), agent="bench")
        report = turn_of(events)
        assert report["start"] in {"new", "warm"}, events[-1]
        return int(report["sent_bytes"]) + int(report["received_bytes"])

    async def grow(self, session: str, items: int) -> None:
        """Give a session *items* items of history, by as many turns as that takes."""
        for _ in range(items // 2):
            await self.turn(session)

    async def cost(self, session: str, turns: int) -> Cost:
        """Return what a turn costs, as the mean of *turns* of them, one after the other."""
        hub, worker, wall = self._clocks()
        state_bytes = sum([await self.turn(session) for _ in range(turns)])
        hub_after, worker_after, wall_after = self._clocks()
        return Cost(
            cpu_ms=1000 * (hub_after - hub + worker_after - worker) / turns,
            hub_ms=1000 * (hub_after - hub) / turns,
            wall_ms=1000 * (wall_after - wall) / turns,
            state_bytes=state_bytes / turns,
        )

    def _clocks(self) -> tuple[float, float, float]:
        assert self._fleet.hub is not None
        return cpu_s(self._fleet.hub), cpu_s(self._fleet.workers[0]), time.perf_counter()


def cpu_s(process: Process) -> float:
    """Return the processor time of a process, all its threads, without its children."""
    assert process.child is not None
    return time.clock_gettime(~process.child.pid << 3 | 2)  # as clock_getcpuclockid makes it


@contextlib.asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """Run a hub on a new store and a worker while the body runs."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(pathlib.Path(folder))
        try:
            await fleet.start_hub()
            await fleet.start_worker(str(APP))
            yield Bench(fleet)
        finally:
            await fleet.stop()


def say(line: str) -> None:
    """Write a line of a report."""
    sys.stdout.write(f"{line}\n")
