"""What a seed decides: which faults come when, and what every user says (pure).

The same seed, length and number of sessions give the same plan. How turns and faults
meet is the machine's.
"""

import enum
import random
from collections.abc import Iterator
from typing import Final

import msgspec


class FaultKind(enum.StrEnum):
    """Each value is what the report calls one of its kind."""

    KILL = "worker killed with -9"
    FREEZE = "worker frozen past its heartbeats"
    RESTART = "hub killed with -9 and restarted"
    ROLLOUT = "schema change rolled through the fleet"


class Fault(msgspec.Struct, frozen=True):
    """One fault: *at_s* after the load began, on the worker that *pick* (0 to 1) falls on."""

    kind: FaultKind
    at_s: float
    pick: float


class Step(msgspec.Struct, frozen=True):
    """What a user says next, and how.

    The second of two *texts* is sent while the first one's turn still runs. Each message
    is sent twice: at once if *is_concurrent*, else again after its answer.
    """

    texts: tuple[str, ...]
    is_concurrent: bool
    think_s: float


_ROUND: Final = (
    (0.04, FaultKind.KILL),
    (0.10, FaultKind.FREEZE),
    (0.22, FaultKind.KILL),
    (0.50, FaultKind.RESTART),
    (0.60, FaultKind.ROLLOUT),
    (0.75, FaultKind.KILL),
    (0.85, FaultKind.RESTART),
)
"""One round of faults, as parts of its length. A freeze takes most of half a minute: a kill falls into it."""

_SHORT: Final = (
    (0.05, FaultKind.FREEZE),
    (0.25, FaultKind.KILL),
    (0.50, FaultKind.RESTART),
    (0.70, FaultKind.ROLLOUT),
)
"""Each kind once: what a short run has time for."""

ROUND_S: Final = 60.0
SHORT_BELOW_S: Final = 45.0
_JITTER: Final = 0.02

ITEMS: Final = (
    "apples",
    "pears",
    "figs",
    "lemons",
    "eggs",
    "loaves",
    "jars of honey",
    "bags of rice",
    "bottles of oil",
)
DOUBLE_TEXT_SHARE: Final = 0.15
THINK_MIN_S: Final = 0.5
THINK_MAX_S: Final = 3.5


def faults(*, seed: int, seconds: float) -> tuple[Fault, ...]:
    """Return the faults of a run of *seconds*, in order; every kind is among them.

    The schema change is rolled out once: there are two builds. Other faults come again in
    every round of about a minute.
    """
    chance = random.Random(f"faults {seed}")  # noqa: S311  # a plan, no secret
    pattern = _SHORT if seconds < SHORT_BELOW_S else _ROUND
    rounds = max(round(seconds / ROUND_S), 1)
    length_s = seconds / rounds
    return tuple(
        Fault(kind, at_s=length_s * (number + part + chance.uniform(-_JITTER, _JITTER)), pick=chance.random())
        for number in range(rounds)
        for part, kind in pattern
        if number == 0 or kind is not FaultKind.ROLLOUT
    )


def steps(*, seed: int, session_id: str) -> Iterator[Step]:
    """Yield without end what the user of a session does."""
    chance = random.Random(f"{session_id} {seed}")  # noqa: S311  # a plan, no secret
    while True:
        count = 2 if chance.random() < DOUBLE_TEXT_SHARE else 1
        yield Step(
            texts=tuple(f"{chance.randint(1, 12)} {chance.choice(ITEMS)}" for _ in range(count)),
            is_concurrent=chance.random() < 1 / 2,
            think_s=chance.uniform(THINK_MIN_S, THINK_MAX_S),
        )


def session_ids(count: int) -> list[str]:
    return [f"s-{number:03}" for number in range(1, count + 1)]
