"""When messages are sent, and to which session: fixed before the first is sent."""

import dataclasses
import itertools
import random

ZIPF = 1.0
"""A session's share falls with its rank to this power: a few are busy, most are rare."""


@dataclasses.dataclass(frozen=True)
class Arrival:
    """One message, as its caller means to send it."""

    at_s: float
    session: int


def arrivals(
    seed: int, *, rate: float, seconds: float, sessions: int, burst_every_s: float, burst: int
) -> list[Arrival]:
    """Return independent arrivals at *rate* a second, and *burst* more at one instant every *burst_every_s*, in order.

    The same arguments give the same arrivals.
    """
    chance = random.Random(seed)
    steady = itertools.takewhile(
        lambda at_s: at_s < seconds, itertools.accumulate(chance.expovariate(rate) for _ in itertools.count())
    )
    bursts = (burst_every_s * number for number in range(1, int(seconds / burst_every_s) + 1) for _ in range(burst))
    times = sorted([*steady, *(at_s for at_s in bursts if at_s < seconds)])
    weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, sessions + 1)))
    chosen = chance.choices(range(sessions), cum_weights=weights, k=len(times))
    return [Arrival(at_s, session) for at_s, session in zip(times, chosen, strict=True)]
