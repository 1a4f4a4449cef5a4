"""Run suites, print their tables, and keep them for the docs: ``python -m benchmarks [--quick] [SUITE...]``.

The tables take the place of the older ones in ``docs/explanation``: in
``performance.json``, in the page and in the charts; not so with ``--quick``. A suite that fails is said and left
out, and the exit code is 1; so it is where a limit is missed. Linux: suites read other
processes' clocks and memory from ``/proc``.
"""

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Sequence

from benchmarks import results
from benchmarks.tables import Table, reach_table

SUITES = {
    "warm": "benchmarks.warm",
    "tokens": "benchmarks.tokens",
    "wire": "benchmarks.wire",
    "growth": "benchmarks.growth",
    "state": "benchmarks.state",
    "cold": "benchmarks.cold",
    "large": "benchmarks.large",
    "memory": "benchmarks.memory",
    "load": "benchmarks.load.run",
    "peers": "benchmarks.peers.suite",
}
"""The modules with a ``measure``, by the names that the command takes, in the order in which they run."""


def measured(names: Sequence[str], *, quick: bool) -> tuple[list[Table], bool]:
    """Return the tables of the named suites, and whether every suite came to its end."""
    tables: list[Table] = []
    is_whole = True
    for name in names:
        print(f"… {name}", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            found = importlib.import_module(SUITES[name]).measure(quick=quick)
        except Exception:  # noqa: BLE001  # an hour's other suites are not lost with it
            traceback.print_exc()
            is_whole = False
            continue
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        for table in found:
            print(table.text(), flush=True)
        tables += found
    return tables, is_whole


def keep(tables: Sequence[Table]) -> None:
    """Put *tables* into the docs, in the place of the older ones."""
    from benchmarks.charts import draw  # noqa: PLC0415  # matplotlib is in the group "bench" alone

    stored = results.store(results.FILE, tables)
    draw(results.CHARTS, stored)
    results.PAGE.write_text(results.page(results.PAGE.read_text(), stored))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"one of {', '.join(SUITES)}; all if none is named")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer rounds and smaller states, and the docs stay as they are: does it run?",
    )
    options = parser.parse_args(arguments)
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        parser.error(f"there is no suite {', '.join(sorted(unknown))}")
    tables, is_whole = measured(options.suites or list(SUITES), quick=options.quick)
    print(reach_table(tables).text())
    if not options.quick:
        keep(tables)
    return 0 if is_whole and all(line.is_reached for table in tables for line in table.reach) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
