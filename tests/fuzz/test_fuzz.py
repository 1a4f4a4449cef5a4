"""Bytes from outside: near-valid ones, and every one that was ever found to break something.

Each target runs in a process of its own with a bound on its memory, so that a crash of
SQLite, a hang or a large allocation is a failure and not the end of the tests.
"""

import subprocess
import sys

import pytest

TARGETS = ["frame-to-hub", "frame-to-worker", "link", "payload", "changeset", "image", "request", "runtime"]
EXAMPLES = 400
"""Beside every single departure from what is valid, which are made one by one."""
HANGS_S = 100
"""Far beyond the few seconds that it takes."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANGS_S,
        check=False,
    )


@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_break_it(target):
    """No crash, hang, leak or allocation past the bound; each refusal is one of the documented."""
    ran = run(target, "--replay", "--examples", str(EXAMPLES))

    assert ran.returncode == 0, ran.stdout[-4000:]


def test_every_target_is_run():
    assert run("list").stdout.split() == TARGETS
