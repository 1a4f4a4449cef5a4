"""Run suites, print their tables, and write them as JSON: ``python -m benchmarks [--quick] [SUITE...]``.

A suite that fails is said and left out, and the exit code is 1; so it is where a reach is
missed. Linux: suites read other processes' clocks and memory from ``/proc``.
"""

import argparse
import importlib
import json
import pathlib
import sys
import traceback
from collections.abc import Sequence

from benchmarks.tables import Table, reach_table

SUITES = {
    "warm": "benchmarks.warm",
    "growth": "benchmarks.growth",
    "tokens": "benchmarks.tokens",
    "memory": "benchmarks.memory",
    "cold": "benchmarks.cold",
    "wire": "benchmarks.wire",
    "load": "benchmarks.load.run",
}
"""The modules with a ``measure``, by the names that the command takes, in the order in which they run."""


def measured(names: Sequence[str], *, quick: bool) -> tuple[list[Table], bool]:
    """Return the tables of the named suites, and whether every suite came to its end."""
    tables: list[Table] = []
    is_whole = True
    for name in names:
        print(f"… {name}", file=sys.stderr, flush=True)
        try:
            tables += importlib.import_module(SUITES[name]).measure(quick=quick)
        except Exception:  # noqa: BLE001  # an hour's other suites are not lost with it
            traceback.print_exc()
            is_whole = False
    return tables, is_whole


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"one of {', '.join(SUITES)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller states: does it run?")
    parser.add_argument("--json", type=pathlib.Path, help="where to write the tables")
    options = parser.parse_args(arguments)
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        parser.error(f"there is no suite {', '.join(sorted(unknown))}")
    tables, is_whole = measured(options.suites or list(SUITES), quick=options.quick)
    reach = reach_table(tables)
    for table in [*tables, reach] if reach.rows else tables:
        print(table.text())
    if options.json is not None:
        options.json.write_text(json.dumps([table.plain() for table in [*tables, reach]], indent=1) + "\n")
    return 0 if is_whole and all(line.is_reached for table in tables for line in table.reach) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
