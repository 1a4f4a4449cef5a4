"""The bad things that a seed has happen: a list that can be shortened, each with chances of its own."""

import random
from collections.abc import Callable, Sequence

import msgspec

KINDS = (
    *("hub dies", "hub dies", "hub dies at a step", "hub dies at a write", "hub dies at a write", "power"),
    *("hub stops", "hub freezes"),
    *("worker dies", "worker dies at a step", "worker stops", "worker freezes", "worker freezes", "loop blocks"),
    *("drought", "cut", "cut", "half a frame", "silence", "late end", "exile", "exile"),
    *("disk fails", "disk fails", "disk is slow", "damage", "rot"),
    *("evict", "rollout", "late request", "strange request"),
)
LINGERS_S = dict.fromkeys(("hub freezes", "worker freezes", "loop blocks"), 40.0) | dict.fromkeys(
    ("drought", "silence", "late end", "exile"), 20.0
)
"""How long after its moment a fault's effect may begin to end."""
LATEST_S = 25.0
MOST = 14


class Fault(msgspec.Struct, frozen=True):
    """One bad thing. *seed* decides its details."""

    at_s: float
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.at_s:7.3f} s  {self.kind}"

    def chance(self) -> random.Random:
        return random.Random(self.seed)  # noqa: S311  # a simulation, no secret


def plan(chance: random.Random) -> list[Fault]:
    """Return the faults of a run, in order of time."""
    count = chance.randint(0, MOST)
    faults = [
        Fault(round(chance.uniform(0.2, LATEST_S) * chance.random(), 3), chance.choice(KINDS), chance.getrandbits(32))
        for _ in range(count)
    ]
    return sorted(faults, key=lambda fault: fault.at_s)


def again_and_again(kind: str, seed: int) -> list[Fault]:
    """Return one kind of fault many times, for what takes it at the right moment."""
    return [Fault(1.0 + 1.5 * number, kind, MOST * seed + number) for number in range(MOST)]


def lingers_s(faults: Sequence[Fault]) -> float:
    """Return when the last effect is over, after the last fault."""
    return max((LINGERS_S.get(fault.kind, 0.0) for fault in faults), default=0.0) + 5


def shrunk(faults: Sequence[Fault], fails: Callable[[Sequence[Fault]], bool]) -> list[Fault]:
    """Return a shorter list that still fails: whole halves, quarters, ... are left out while it does (ddmin)."""
    kept = list(faults)
    size = max(len(kept) // 2, 1)
    while kept:
        for start in range(0, len(kept), size):
            fewer = kept[:start] + kept[start + size :]
            if fails(fewer):
                kept = fewer
                break
        else:
            if size == 1:
                return kept
            size = max(size // 2, 1)
    return kept
