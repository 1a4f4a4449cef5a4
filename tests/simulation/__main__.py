"""Run the simulation by hand: one seed again, or many until one breaks a promise.

just sim 17                 seed 17, as it always runs
just sim 17 --faults 2,5    with the third and sixth of its faults alone
just sim --seeds 2000       seeds 0 to 1999, on every core
just sim --mutants          how many seeds it takes until each mutant is noticed
just sim --mutant "drop the dedupe" 17    seed 17 of one mutant
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.simulation.faults import Fault, again_and_again, shrunk
from tests.simulation.measure import Kill, kills, simulate_mutant, table
from tests.simulation.mutants import MUTANTS
from tests.simulation.run import Outcome, run_all, simulate

TRACE_SHOWN = 60


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="just sim",
        description="Run hubs, workers and clients in simulated time under faults, and check every promise.",
    )
    parser.add_argument("seed", type=int, nargs="?", help="run this seed alone, and print what happened")
    parser.add_argument("--faults", help="of its faults, only these, by their numbers: 0,3,4 (none: -)")
    parser.add_argument("--trace", type=int, default=TRACE_SHOWN, help="last steps to print (default: %(default)s)")
    parser.add_argument("--seeds", type=int, help="run this many seeds, and shrink what breaks")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them (default: 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: every core)")
    parser.add_argument("--mutants", action="store_true", help="measure how soon every mutant is noticed")
    parser.add_argument("--mutant", metavar="NAME", help="leave this rule out (with a seed), or measure it alone")
    parser.add_argument("--harms", action="store_true", help="run a mutant under the fault that it takes, as CI does")
    parser.add_argument("--ranges", type=int, default=5, help="disjoint ranges of seeds to measure (default: 5)")
    parser.add_argument("--most", type=int, default=300, help="seeds of each range (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    if chosen.mutant is not None and chosen.mutant not in MUTANTS:
        parser.error("there is no such mutant; there are: " + "; ".join(MUTANTS))
    if chosen.mutants or (chosen.mutant is not None and chosen.seed is None):
        names = list(MUTANTS) if chosen.mutant is None else [chosen.mutant]
        return measure(names, ranges=chosen.ranges, most=chosen.most, jobs=chosen.jobs)
    if (chosen.seed is None) == (chosen.seeds is None):
        parser.error("name one seed, or say how many: --seeds N")
    if chosen.mutant is not None:
        mutant = MUTANTS[chosen.mutant]
        faults = again_and_again(mutant.harm, chosen.seed) if chosen.harms and mutant.harm else None
        outcome = simulate_mutant(mutant, chosen.seed, faults)
        show(outcome, trace=chosen.trace)
        return 0 if outcome.broken else 1
    if chosen.seeds is not None:
        return explore(range(chosen.first, chosen.first + chosen.seeds), jobs=chosen.jobs, trace=chosen.trace)
    return replay(chosen.seed, chosen.faults, trace=chosen.trace)


def replay(seed: int, chosen: str | None, *, trace: int) -> int:
    """Run one seed, with all of its faults or those chosen, and print it."""
    faults = None
    if chosen is not None:
        planned = simulate(seed).faults
        faults = [planned[int(number)] for number in chosen.split(",") if number not in {"", "-"}]
    outcome = simulate(seed, faults)
    show(outcome, trace=trace)
    return 1 if outcome.broken else 0


def explore(seeds: Sequence[int], *, jobs: int, trace: int) -> int:
    """Run many seeds until one breaks a promise; then leave out the faults that it does not need."""
    counts: Counter[str] = Counter()
    began, turns = time.monotonic(), 0
    for number, outcome in enumerate(run_all(seeds, jobs=jobs), start=1):
        counts += outcome.counts
        turns += outcome.turns
        if outcome.broken:
            explain(outcome, trace=trace)
            return 1
        if number % 10 == 0 or number == len(seeds):
            left_s = (len(seeds) - number) * (time.monotonic() - began) / number
            print(f"\r{number} of {len(seeds)} seeds, {turns} turns, {left_s:.0f} s left  ", end="", flush=True)
    print("\nevery promise was kept; what happened, and how often:")
    for what, count in sorted(counts.items()):
        print(f"{count:9}  {what}")
    return 0


def measure(names: Sequence[str], *, ranges: int, most: int, jobs: int) -> int:
    """Measure mutants, and print the docs' table; 1 if one was not noticed in some range."""
    measured: list[Kill] = []
    began, count = time.monotonic(), ranges * len(names)
    for kill in kills(names, ranges=ranges, most=most, jobs=jobs):
        measured.append(kill)
        left_s = (count - len(measured)) * (time.monotonic() - began) / len(measured)
        print(
            f"{len(measured)} of {count}, {left_s:.0f} s left: {kill.mutant}: seed {kill.seed} {kill.broken or '-'}",
            flush=True,
        )
    print()
    for line in table(measured, most=most):
        print(line)
    return 0 if all(kill.broken for kill in measured) else 1


def explain(outcome: Outcome, *, trace: int) -> None:
    """Print the shortest run of the seed that breaks the same promise."""
    print(f"\nseed {outcome.seed} breaks {outcome.broken}; looking for the faults it needs ...", flush=True)

    def fails(faults: Sequence[Fault]) -> bool:
        return simulate(outcome.seed, faults).broken == outcome.broken

    needed = shrunk(outcome.faults, fails)
    show(simulate(outcome.seed, needed), trace=trace)
    numbers = ",".join(str(outcome.faults.index(fault)) for fault in needed)
    print(f"again: just sim {outcome.seed} --faults {numbers or '-'}")


def show(outcome: Outcome, *, trace: int) -> None:
    print(f"seed {outcome.seed}: {outcome.turns} turns in {outcome.steps} steps, digest {outcome.digest:08x}")
    for number, fault in enumerate(outcome.faults):
        print(f"  fault {number}: {fault}")
    if not outcome.broken:
        print("every promise was kept")
        return
    print(f"the last {min(trace, len(outcome.trace))} steps:")
    for line in outcome.trace[-trace:]:
        print(line)
    print(f"\n{outcome.told}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
