"""What the demo shows: lines that hold in any width, figures that are right, a command that fits the shell."""

import io
import pathlib
from collections.abc import Mapping

import pytest
from rich.console import Console

from satchel.cli import demoview
from satchel.cli.demo import demo
from satchel.cli.demoreport import invocation, report
from satchel.cli.demoview import Rates, bars, screen, shown
from satchel.demo.audit import Verdict
from satchel.demo.findings import Finding, FindingKind
from satchel.demo.ledger import Told
from satchel.demo.plan import FaultKind
from satchel.demo.processes import ProcessState, WorkerProcess
from satchel.demo.run import Options, Run, turn_to_open
from satchel.errors import InvalidRequest
from satchel.model import Start, TurnReport

VENV = "/home/ada/satchel/.venv"
BY_UV = {"UV_RUN_RECURSION_DEPTH": "1", "VIRTUAL_ENV": VENV}
PYTHON = f"{VENV}/bin/python"


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    """A run in the middle: one worker up, one killed, some turns behind it."""
    run = Run(
        Options(seed=7, seconds=60, sessions=30, workers=2, folder=tmp_path),
        noted=lambda note: None,  # noqa: ARG005
    )
    for number, state in enumerate((ProcessState.UP, ProcessState.KILLED), start=1):
        worker = WorkerProcess(number, tmp_path, build=1, hub_url=run.fleet.url)
        worker.state = state
        run.fleet.workers.append(worker)
    ledger = run.ledger
    for start in (Start.NEW, Start.WARM, Start.WARM, Start.COLD):
        sent = ledger.send("s-001", "4 pears")
        for _ in range(2):
            ledger.acknowledge(sent, Told(1, "so be it"))
        ledger.turned(TurnReport(start=start, attempts=1, sent_bytes=100, received_bytes=300), waited_ms=20)
    ledger.waits("s-002", "m1", now_s=1.0)
    run.chaos.done[FaultKind.KILL] = 1
    return run


def drawn(run: Run, *, width: int) -> list[str]:
    target = io.StringIO()
    Console(file=target, width=width, color_system=None).print(screen(run, Rates(), width=width))
    return target.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 40, 80, 110, 250])
def test_the_screen_fits_any_width(run: Run, width: int):
    """A line that wraps would push the rest off the screen."""
    lines = drawn(run, width=width)

    assert max(map(len, lines)) <= width
    assert len(lines) <= 30


def test_the_screen_tells_what_is(run: Run):
    text = "\n".join(drawn(run, width=110))

    assert "seed 7" in text
    assert "warm 50.0 %" in text
    assert "29 think ·  0 wait o  1 for more than 2 s #" in text
    assert "worker-1  up" in text
    assert "worker-2  killed" in text


def test_those_that_live_are_shown_and_then_the_latest_of_the_others(run: Run):
    """After many kills the table stays as long as it is."""
    dead = [WorkerProcess(number, run.options.folder, build=1, hub_url="") for number in range(3, 40)]
    for worker in dead:
        worker.state = ProcessState.KILLED

    names = [worker.name for worker in shown([*run.fleet.workers, *dead])]

    assert len(names) == demoview.WORKERS_SHOWN
    assert (names[0], names[-1]) == ("worker-1", "worker-39")


def test_the_rate_is_of_the_last_seconds():
    rates = Rates()
    for second in range(20):
        rates.look(float(second), 10 * second if second < 10 else 90)

    assert rates.per_second(19.0, 90) == 0
    assert list(rates.bars)[:3] == [10, 10, 10]
    assert bars(rates.bars)[0] == "█"


def test_the_last_lines_hold_every_figure(run: Run):
    """They are pasted elsewhere: nothing may be missing from them, and the command is the last."""
    lines = report(run, Verdict(findings=(), heads={"s-001": 20}, migrated=1))

    assert lines[2] == "lost 0   doubled 0   gaps 0   mismatches 0   unanswered 0"
    text = "\n".join(lines)
    assert "versions        20 committed, 4 acknowledged" in text
    assert "warm share      50.0 %   catch-up 0.0 %   cold 25.0 %   new 25.0 %" in text
    assert "bytes per turn  sent 100 B   received 300 B" in text
    assert "1 x worker killed with -9" in text
    assert "4 messages sent twice" in text
    assert lines[-1].endswith(f"sessions export s-001 --version 17 --store {run.fleet.store}")


def test_findings_come_first_and_not_all_of_them(run: Run):
    """A run that broke says what and where before any figure, and stays readable."""
    found = tuple(Finding(FindingKind.LOST, "s-001", f"m{number}", "it is gone") for number in range(30))

    lines = report(run, Verdict(findings=found, heads={}, migrated=0))

    assert lines[2] == "lost: session s-001 message m0: it is gone"
    assert "and 10 more" in lines
    assert "lost 30   doubled 0   gaps 0   mismatches 0   unanswered 0" in lines


@pytest.mark.parametrize(
    ("heads", "opened"),
    [
        ({"s-1": 16, "s-2": 40, "s-3": 17}, ("s-2", 17)),
        ({"s-1": 500, "s-2": 40}, ("s-2", 17)),
        ({"s-1": 500, "s-2": 300}, ("s-1", 500)),
        ({"s-1": 3, "s-2": 5}, ("s-2", 5)),
        ({"s-1": 0}, None),
        ({}, None),
    ],
)
def test_the_turn_to_open_is_one_that_is_kept(heads: Mapping[str, int], opened: tuple[str, int] | None):
    """The pasted command must work: of a long session turn 17 is gone."""
    assert turn_to_open(heads) == opened


@pytest.mark.parametrize(
    ("environ", "folder", "found", "called"),
    [
        (BY_UV, "/home/ada/satchel", f"{VENV}/bin/satchel", "uv run satchel"),
        (
            BY_UV, "/home/ada/satchel/docs",
            f"{VENV}/bin/satchel", "uv run satchel",
        ),
        (
            BY_UV, "/home/ada",
            f"{VENV}/bin/satchel", f"{PYTHON} -m satchel",
        ),
        ({"VIRTUAL_ENV": VENV}, "/home/ada", f"{VENV}/bin/satchel", "satchel"),
        ({}, "/home/ada", "/usr/bin/satchel", f"{PYTHON} -m satchel"),
        ({}, "/home/ada", None, f"{PYTHON} -m satchel"),
    ],
)  # fmt: skip
def test_the_command_is_one_that_this_shell_knows(
    environ: Mapping[str, str], folder: str, found: str | None, called: str
):
    """``uv run`` puts the program on its child's path alone."""
    prefix = invocation(environ, executable=PYTHON, prefix=VENV, folder=pathlib.Path(folder), found=found)

    assert prefix == called


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_minutes_that_are_none_are_refused(minutes: float):
    with pytest.raises(InvalidRequest, match="--minutes is a number above 0"):
        demo(minutes=minutes)


def test_a_folder_that_holds_something_is_refused(tmp_path: pathlib.Path):
    """An older run's sessions would be audited against this one's ledger."""
    (tmp_path / "hub.db").touch()

    with pytest.raises(InvalidRequest, match="is not empty"):
        demo(folder=tmp_path)


def test_a_folder_that_is_a_file_is_refused(tmp_path: pathlib.Path):
    path = tmp_path / "file"
    path.touch()

    with pytest.raises(InvalidRequest, match="cannot be used"):
        demo(folder=path)
