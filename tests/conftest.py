"""What holds for every test."""

import os
import signal
from collections.abc import Generator
from typing import Any

import pytest

# A shell that starts a job in the background has it ignore SIGINT, and so does every child. The tests
# of Ctrl-C are about what we do with it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where ``SATCHEL_TESTS_SKIP_NOTHING`` is 1, as in CI, a test that would be skipped fails: nothing is left out."""
    report = yield
    is_skip = report.skipped and not hasattr(report, "wasxfail")
    if is_skip and os.environ.get("SATCHEL_TESTS_SKIP_NOTHING") == "1":
        why: Any = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"Skipped where nothing may be skipped. {why[2] if isinstance(why, tuple) else why}"
    return report
