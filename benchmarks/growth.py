"""Does a turn cost the same on a long session as on a short one?

Both live on one hub and one worker, as processes. Blocks of turns alternate between
them, so that whatever else the machine does falls on both. Compared are medians of blocks.
"""

import statistics
import time

import uvloop

from benchmarks.client import Connection, connection
from benchmarks.processes import Rig, rig
from benchmarks.prose import prose
from benchmarks.tables import Reach, Table

SHORT_ITEMS = 100
BLOCKS, TURNS = 4, 3
LIMIT = 1.1

Block = dict[str, float]


class Caller:
    """Sends questions of about 500 bytes, each another one."""

    def __init__(self, caller: Connection, running: Rig) -> None:
        self._caller = caller
        self._running = running
        self._sent = 0

    async def turn(self, session: str) -> int:
        """Send one; return the encoded state that travelled."""
        self._sent += 1
        report = (await self._caller.turn(session, prose(f"question {self._sent}"))).complete()["turn"]
        assert report["start"] in {"new", "warm"}, report
        return int(report["sent_bytes"]) + int(report["received_bytes"])

    async def grow(self, session: str, items: int) -> None:
        """Give a session *items* items of history, by as many turns as that takes."""
        for _ in range(items // 2):
            await self.turn(session)

    async def block(self, session: str) -> Block:
        """Return what a turn costs, as the mean of a few."""
        hub, worker = self._running.hub, self._running.workers[0]
        began = hub.cpu_s() + worker.cpu_s(), time.perf_counter()
        state_bytes = sum([await self.turn(session) for _ in range(TURNS)])
        ended = hub.cpu_s() + worker.cpu_s(), time.perf_counter()
        return {
            "CPU us, hub and worker": 1e6 * (ended[0] - began[0]) / TURNS,
            "wall us": 1e6 * (ended[1] - began[1]) / TURNS,
            "state bytes": state_bytes / TURNS,
        }


async def grown(running: Rig, *, rounds: int, long_items: int) -> Table:
    short: list[Block] = []
    long: list[Block] = []
    async with connection(running.url) as opened:
        caller = Caller(opened, running)
        await caller.grow("long", long_items)
        for number in range(rounds):  # each has a short session of its own, lest it becomes a long one
            await caller.grow(f"short-{number}", SHORT_ITEMS)
            for _ in range(BLOCKS):
                short.append(await caller.block(f"short-{number}"))
                long.append(await caller.block("long"))
    rows = [_row(what, short, long) for what in short[0]]
    return Table(
        name="growth",
        title="A turn on a long session beside one on a short session",
        columns=("what", "short", "long", "ratio"),
        rows=[dict(row) for row in rows],
        notes=f"Short is {SHORT_ITEMS} items, long {long_items:,}, made by turns. Medians of {len(short)} blocks of"
        f" {TURNS} turns each.",
        reach=tuple(
            Reach(f"{long_items:,} items beside {SHORT_ITEMS}: {row['what']}", "times", float(row["ratio"]), LIMIT)
            for row in rows
        ),
    )


def _row(what: str, short: list[Block], long: list[Block]) -> dict[str, float | str]:
    of_short, of_long = (statistics.median(block[what] for block in blocks) for blocks in (short, long))
    return {"what": what, "short": of_short, "long": of_long, "ratio": of_long / of_short}


def measure(*, quick: bool) -> list[Table]:
    with rig("notes") as running:
        return [uvloop.run(grown(running, rounds=1 if quick else 12, long_items=1000 if quick else 10_000))]
