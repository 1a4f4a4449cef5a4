"""How many seeds it takes until a mutant is noticed."""

import multiprocessing
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from tests.simulation.faults import Fault, again_and_again
from tests.simulation.mutants import MUTANTS
from tests.simulation.mutation import Mutant, applied
from tests.simulation.run import Outcome, simulate

FIRST_SEED = 100_000
RANGE_SEEDS = 100_000
"""The ranges of seeds lie that far apart."""


class Kill(msgspec.Struct, frozen=True):
    """One range of seeds run on one mutant, until it was noticed."""

    mutant: str
    seeds: int
    """How many it took, or all there were."""
    seed: int
    """The one that noticed it."""
    broken: str
    """What it broke; empty if it was not noticed."""


def simulate_mutant(mutant: Mutant, seed: int, faults: Sequence[Fault] | None = None) -> Outcome:
    """Run *seed* on the product with one rule left out."""
    with applied(mutant):
        return simulate(seed, faults)


def first_kill(mutant: Mutant, seeds: Sequence[int], *, harms: bool = False) -> Kill:
    """Run *seeds* one after the other until one breaks a promise; with *harms*, under the fault that it takes."""
    for number, seed in enumerate(seeds, start=1):
        faults = again_and_again(mutant.harm, seed) if harms and mutant.harm else None
        broken = simulate_mutant(mutant, seed, faults).broken
        if broken:
            return Kill(mutant.name, number, seed, broken)
    return Kill(mutant.name, len(seeds), seeds[-1], "")


def kills(names: Sequence[str], *, ranges: int, most: int, jobs: int) -> Iterator[Kill]:
    """Measure mutants over disjoint ranges of at most *most* seeds, beside each other; yield as they end."""
    work = [(name, FIRST_SEED + RANGE_SEEDS * number, most) for number in range(ranges) for name in names]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(_measured, work)


def _measured(work: tuple[str, int, int]) -> Kill:
    name, first, most = work
    return first_kill(MUTANTS[name], range(first, first + most))


def table(measured: Sequence[Kill], *, most: int) -> Iterator[str]:
    """Yield the lines of the docs' table, in the order of ``MUTANTS`` (pure)."""
    by_name: dict[str, list[Kill]] = defaultdict(list)
    for kill in measured:
        by_name[kill.mutant].append(kill)
    yield "| Mutant | First promise broken | Seeds, median |"
    yield "|---|---|---|"
    for name in MUTANTS:
        if not by_name[name]:
            continue
        broken = statistics.multimode(kill.broken for kill in by_name[name] if kill.broken)
        seeds = statistics.median(kill.seeds if kill.broken else most + 1 for kill in by_name[name])
        shown = f"{seeds:g}" if seeds <= most else f"over {most}"
        yield f"| {name} | {broken[0] if broken else '-'} | {shown} |"
