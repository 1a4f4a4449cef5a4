"""``satchel demo``: real processes on this machine, faults on purpose, and an audit from outside."""

import asyncio
import contextlib
import logging
import math
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from satchel.cli.demoreport import report
from satchel.cli.demoview import LiveView, PlainView
from satchel.cli.logs import FactsFormatter
from satchel.demo.run import Options, Run
from satchel.errors import InvalidRequest
from satchel.limits import DEMO_MINUTES_MAX, DEMO_SESSIONS_MAX, DEMO_WORKERS_MAX

INTERRUPTED = 130
SEEDS = 10_000


def demo(
    seed: Annotated[
        int | None, typer.Option(min=0, help="Decides the faults and the texts; a random one if left out.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(max=DEMO_MINUTES_MAX, help="How long users talk; the faults take half a minute at least.")
    ] = 1.0,
    sessions: Annotated[int, typer.Option(min=1, max=DEMO_SESSIONS_MAX, help="Sessions that talk at once.")] = 200,
    workers: Annotated[int, typer.Option(min=2, max=DEMO_WORKERS_MAX, help="Worker processes.")] = 4,
    folder: Annotated[
        Path | None, typer.Option(help="Empty or new folder for the store and the logs; a temporary one if left out.")
    ] = None,
) -> None:
    """Break a hub and its workers while users talk to them, and prove that nothing is lost.

    It starts a hub and workers as processes of this machine. It kills workers with -9,
    freezes one past its heartbeats, restarts the hub, rolls out a schema change, sends
    every message twice and some before the last answer. Then it reads every session
    back over HTTP and as an exported file. The exit status is 1 if anything was lost,
    doubled or altered. Ctrl-C ends the load; what was acknowledged is still audited.
    """
    if not (math.isfinite(minutes) and minutes > 0):
        raise InvalidRequest(f"--minutes is a number above 0, not {minutes}.", hint="Fractions are allowed: 0.5")
    options = Options(
        seed=random.randrange(SEEDS) if seed is None else seed,  # noqa: S311  # a plan, no secret
        seconds=60 * minutes,
        sessions=sessions,
        workers=workers,
        folder=_folder(folder),
    )
    _log_to(options.folder / "demo.log")
    raise typer.Exit(uvloop.run(_demo(options)))


def _folder(wanted: Path | None) -> Path:
    """Return an empty folder, absolute: what an older run left there would be audited, too."""
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="satchel-demo-"))
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        if any(wanted.iterdir()):
            raise InvalidRequest(f"{wanted} is not empty.", hint="Name a folder that is new or empty.")
    except OSError as error:
        raise InvalidRequest(f"{wanted} cannot be used: {error.strerror}.", hint="Name another folder.") from error
    return wanted.absolute()


def _log_to(path: Path) -> None:
    """Send warnings to a file, which is there if there are any: the screen is the view's."""
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(FactsFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


async def _demo(options: Options) -> int:
    """Run the demo, tell the verdict, and return the exit status."""
    view = LiveView() if sys.stdout.isatty() else PlainView()
    run = Run(options, noted=view.noted)
    with _signals(run) as ended_by:
        try:
            async with view.showing(run):
                verdict = await run.run()
        except asyncio.CancelledError:
            if not ended_by:
                raise
            typer.echo("Ended before the audit was done: nothing is known about the sessions.", err=True)
            typer.echo(f"folder  {options.folder}", err=True)
            return ended_by[0]
    for line in report(run, verdict):
        typer.echo(line)
    if verdict.findings:
        return 1
    return INTERRUPTED if run.is_interrupted else 0


@contextlib.contextmanager
def _signals(run: Run) -> Iterator[list[int]]:
    """Have the first Ctrl-C end the load, and another signal everything; yield the exit status of the latter."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "it is called from the demo's own"
    ended_by: list[int] = []

    def end(status: int) -> None:
        ended_by.append(status)
        task.cancel()

    def interrupt() -> None:
        if run.is_loaded and not run.is_interrupted:
            run.interrupt()
        else:
            end(INTERRUPTED)

    loop.add_signal_handler(signal.SIGINT, interrupt)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, 128 + number)
    try:
        yield ended_by
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
