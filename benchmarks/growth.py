"""Does a turn cost the same on a long session as on a short one? ``just bench`` runs it.

Both live on one hub and one worker, as processes. Blocks of turns alternate between
them, so that whatever else the machine does falls on both. Compared are medians of
blocks; the exit code is 1 if one of them is more than ``RATIO_MAX`` times the other.
"""

import functools
import statistics
import sys

import uvloop

from benchmarks.bench import Cost, bench, say

SHORT_ITEMS, LONG_ITEMS = 100, 10_000
ROUNDS, BLOCKS, TURNS = 10, 4, 3
"""Each round has a short session of its own, lest it becomes a long one."""
RATIO_MAX = 1.2


async def measured() -> tuple[list[Cost], list[Cost]]:
    """Return the costs of turns on short sessions and on the long one, in blocks."""
    short: list[Cost] = []
    long: list[Cost] = []
    async with bench() as running:
        await running.grow("long", LONG_ITEMS)
        for number in range(ROUNDS):
            await running.grow(f"short-{number}", SHORT_ITEMS)
            for _ in range(BLOCKS):
                short.append(await running.cost(functools.partial(running.turn, f"short-{number}"), TURNS))
                long.append(await running.cost(functools.partial(running.turn, "long"), TURNS))
    return short, long


def report(short: list[Cost], long: list[Cost]) -> bool:
    """Write the comparison; tell whether every cost is within its bound."""
    say(f"A turn, median of {len(short)} blocks of {TURNS}")
    say(f"{'':14}{SHORT_ITEMS:>12,} items{LONG_ITEMS:>12,} items{'ratio':>10}")
    is_within = True
    for name in ("cpu_ms", "wall_ms", "state_bytes"):
        of_short, of_long = (statistics.median(getattr(cost, name) for cost in costs) for costs in (short, long))
        ratio = of_long / of_short
        is_within = is_within and ratio <= RATIO_MAX
        say(f"{name:14}{of_short:>18,.2f}{of_long:>18,.2f}{ratio:>10.2f}{'' if ratio <= RATIO_MAX else '  too much'}")
    return is_within


if __name__ == "__main__":
    sys.exit(0 if report(*uvloop.run(measured())) else 1)
