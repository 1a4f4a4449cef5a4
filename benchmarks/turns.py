"""What a turn costs, in units of the least that a request can be: reading one session's row.

``uv run python -m benchmarks.turns`` prints a table. Times on one machine say
little about another; ratios of one run say more.
"""

import functools
import statistics

import uvloop

from benchmarks.bench import Bench, Cost, bench, say

TURNS = 300
SESSIONS = 32
COLD_STARTS = 3
SHORT_ITEMS, LONG_ITEMS = 100, 10_000


async def cold(running: Bench, session: str) -> Cost:
    """Return the median cost of a turn on a worker that does not hold its session."""
    costs = []
    for number in range(COLD_STARTS):
        await running.replace_worker()
        await running.turn(f"before-{session}-{number}")
        costs.append(await running.cost(lambda: running.turn(session, "cold"), 1))
    return Cost(*(statistics.median(each) for each in zip(*map(_fields, costs), strict=True)))


def _fields(cost: Cost) -> tuple[float, float, float]:
    return cost.cpu_ms, cost.wall_ms, cost.state_bytes


async def main() -> None:
    async with bench() as running:
        for number in range(SESSIONS):
            await running.grow(f"s{number}", 4)
        await running.grow("short", SHORT_ITEMS)
        await running.grow("long", LONG_ITEMS)
        look = await running.cost(lambda: running.look("s0"), TURNS)
        helpers = running.helper_cpu_s()
        alone = await running.cost(lambda: running.turn("s0"), TURNS)
        helpers = 1000 * (running.helper_cpu_s() - helpers) / TURNS
        together = await running.cost_at_once(
            [functools.partial(running.turn, f"s{number}") for number in range(SESSIONS)], TURNS // SESSIONS
        )
        rows = {
            "read one session's row": look,
            "a warm turn, one after the other": alone,
            f"a warm turn, {SESSIONS} sessions at once": together,
            f"a cold turn, {SHORT_ITEMS} items": await cold(running, "short"),
            f"a cold turn, {LONG_ITEMS:,} items": await cold(running, "long"),
        }
        say(f"{'':36}{'processor':>12}{'time':>12}{'state bytes':>14}")
        for name, cost in rows.items():
            cpu, wall = cost.cpu_ms / look.cpu_ms, cost.wall_ms / look.wall_ms
            say(f"{name:36}{cpu:>12.1f}{wall:>12.1f}{cost.state_bytes:>14,.0f}")
        say()
        say(f"compaction, a turn's share: {helpers / alone.cpu_ms:.0%} of the processor time of a turn alone")
        say(f"a state of {LONG_ITEMS:,} items: {await running.state_bytes('long'):,} bytes")
        say(f"the unit: {look.cpu_ms:.2f} ms of processor, {look.wall_ms:.2f} ms")


if __name__ == "__main__":
    uvloop.run(main())
