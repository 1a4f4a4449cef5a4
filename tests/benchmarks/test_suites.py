"""A benchmark that nobody runs for a month still runs: each suite in its short form, no figure asserted."""

import importlib
import math
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the suites read /proc")


@pytest.mark.parametrize("name", ["warm", "wire", "state"])
def test_a_suite_runs_and_fills_its_tables(name: str):
    """What it measures changes under it; that it no longer starts must not be found out before a release."""
    tables = importlib.import_module(f"benchmarks.{name}").measure(quick=True)

    assert tables
    for table in tables:
        assert table.rows, table.name
        assert all(set(row) <= set(table.columns) for row in table.rows), table.name
        assert all(math.isfinite(line.share) for line in table.reach), table.name
