"""A hub and a worker as processes, and what turns on them cost. Linux: it reads other processes' clocks."""

import asyncio
import contextlib
import pathlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import msgspec

from benchmarks.agent import prose
from tests.acceptance.processes import PATIENCE_S, Fleet, Process, turn_of

APP = pathlib.Path(__file__).parent / "agent.py"


class Cost(msgspec.Struct, frozen=True):
    """What requests cost, each."""

    cpu_ms: float
    """Of the hub's process and the worker's together."""
    wall_ms: float
    """From the message's first byte to the last event, as its caller sees it."""
    state_bytes: float
    """Encoded state on the wire, both ways."""


class Bench:
    """One hub, one worker, and a caller."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._sent = 0

    async def turn(self, session: str, *starts: str) -> int:
        """Send one message of about 500 bytes; return the encoded state that travelled.

        The turn must have started in one of *starts*; if none is named, new or warm.
        """
        self._sent += 1
        events = await self._fleet.send(session, prose(f"question {self._sent}"), agent="bench")
        report = turn_of(events)
        assert report["start"] in (starts or {"new", "warm"}), events[-1]
        return int(report["sent_bytes"]) + int(report["received_bytes"])

    async def look(self, session: str) -> int:
        """Ask the hub for one session's row: the least that a request can be."""
        await self._fleet.get(f"/sessions/{session}")
        return 0

    async def state_bytes(self, session: str) -> int:
        return int((await self._fleet.get(f"/sessions/{session}"))["state_bytes"])

    async def grow(self, session: str, items: int) -> None:
        """Give a session *items* items of history, by as many turns as that takes."""
        for _ in range(items // 2):
            await self.turn(session)

    async def replace_worker(self) -> None:
        """Put a worker that holds nothing in the place of the one that holds all."""
        await self._fleet.workers.pop().stop()
        await self._fleet.start_worker(str(APP))

    async def cost(self, request: Callable[[], Awaitable[int]], count: int) -> Cost:
        """Return what a request costs, as the mean of *count* of them, one after the other."""
        return await self.cost_at_once([request], count)

    async def cost_at_once(self, requests: list[Callable[[], Awaitable[int]]], count: int) -> Cost:
        """Return the same where each of *requests* is made over and over beside the others."""

        async def repeated(request: Callable[[], Awaitable[int]]) -> int:
            return sum([await request() for _ in range(count)])

        cpu, wall = self._cpu_s(), time.perf_counter()
        state_bytes = sum(await asyncio.gather(*(repeated(request) for request in requests)))
        total = count * len(requests)
        return Cost(
            cpu_ms=1000 * (self._cpu_s() - cpu) / total,
            wall_ms=1000 * (time.perf_counter() - wall) / total,
            state_bytes=state_bytes / total,
        )

    def _cpu_s(self) -> float:
        assert self._fleet.hub is not None
        return _cpu_s(self._fleet.hub) + _cpu_s(self._fleet.workers[0])

    def helper_cpu_s(self) -> float:
        """Return the processor time, to 10 ms, of the processes that the hub started: compaction."""
        assert self._fleet.hub is not None
        assert self._fleet.hub.child is not None
        tasks = pathlib.Path(f"/proc/{self._fleet.hub.child.pid}/task")
        children = [pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
        fields = [pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in children]
        return sum(int(ticks) for each in fields for ticks in each[11:15]) / 100


def _cpu_s(process: Process) -> float:
    """Return the processor time of a process, all its threads, without its children."""
    assert process.child is not None
    return time.clock_gettime(~process.child.pid << 3 | 2)  # as clock_getcpuclockid makes it


@contextlib.asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """Run a hub on a new store and a worker while the body runs."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(pathlib.Path(folder))
        await fleet.http.aclose()
        fleet.http = httpx.AsyncClient(timeout=PATIENCE_S, limits=httpx.Limits(max_keepalive_connections=None))
        try:
            await fleet.start_hub()
            await fleet.start_worker(str(APP))
            yield Bench(fleet)
        finally:
            await fleet.stop()


def say(line: str = "") -> None:
    """Write a line of a report."""
    sys.stdout.write(f"{line}\n")
