"""What ``satchel demo`` shows while it runs: a live screen in a terminal, lines in a pipe."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from satchel.cli.turnline import byte_count
from satchel.demo.ledger import percentile
from satchel.demo.processes import ProcessState, WorkerProcess
from satchel.demo.run import Note, Run
from satchel.model import Start

FRAME_S: Final = 0.25
LINE_EVERY_S: Final = 5.0
RATE_OVER_S: Final = 5.0
BARS: Final = "▁▂▃▄▅▆▇█"
BAR_COUNT: Final = 24
SLOW_S: Final = 2.0
NOTES_SHOWN: Final = 6
WORKERS_SHOWN: Final = 9

STYLES: Final = {
    ProcessState.STARTING: "cyan",
    ProcessState.UP: "green",
    ProcessState.KILLED: "red",
    ProcessState.FROZEN: "bold blue",
    ProcessState.LEAVING: "yellow",
    ProcessState.GONE: "dim",
}


class Rates:
    """Turns for each second, as they were acknowledged."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque([(0.0, 0)])
        self.bars: deque[int] = deque(maxlen=BAR_COUNT)

    def look(self, at_s: float, acknowledged: int) -> None:
        """Take the count at a moment; those of the same second count once."""
        last_s, last = self._counts[-1]
        if at_s - last_s >= 1:
            self.bars.append(round((acknowledged - last) / (at_s - last_s)))
            self._counts.append((at_s, acknowledged))
        while len(self._counts) > 1 and self._counts[0][0] < at_s - RATE_OVER_S:
            self._counts.popleft()

    def per_second(self, at_s: float, acknowledged: int) -> float:
        first_s, first = self._counts[0]
        return (acknowledged - first) / max(at_s - first_s, 1.0)


def bars(counts: "deque[int]") -> str:
    """Return *counts* as a line of bars, the highest full."""
    most = max(counts, default=0) or 1
    return "".join(BARS[min(count * len(BARS) // (most + 1), len(BARS) - 1)] for count in counts)


class PlainView:
    """A line for what is done, and one for the figures every few seconds."""

    def noted(self, note: Note) -> None:
        typer.echo(f"{clock(note.at_s)}  {note.text}")

    @contextlib.asynccontextmanager
    async def showing(self, run: Run) -> AsyncIterator[None]:
        typer.echo(f"starting a hub and {run.options.workers} workers in {run.options.folder}")
        task = asyncio.create_task(self._show(run))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _show(self, run: Run) -> None:
        rates = Rates()
        while True:
            for _ in range(int(LINE_EVERY_S)):
                await asyncio.sleep(1)
                rates.look(run.elapsed_s, run.ledger.acknowledged)
            if run.is_loaded:
                typer.echo(f"{clock(run.elapsed_s)}  {self._line(run, rates)}")

    def _line(self, run: Run, rates: Rates) -> str:
        ledger = run.ledger
        if run.phase == "audit":
            return f"audited {run.audited} of {run.options.sessions} sessions"
        return (
            f"{ledger.acknowledged:,} turns, {rates.per_second(run.elapsed_s, ledger.acknowledged):.0f}/s"
            f"   waiting {len(ledger.waiting_since)}   p50 {percentile(ledger.recent_ms, 0.5):,.0f} ms"
            f"   p99 {percentile(ledger.recent_ms, 0.99):,.0f} ms   warm {100 * ledger.warm_share():.0f} %"
        )


class LiveView:
    """The whole run on a screen of its own; the terminal is left as it was before."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False)
        self._rates = Rates()

    def noted(self, note: Note) -> None:
        """Notes are read from the run."""

    @contextlib.asynccontextmanager
    async def showing(self, run: Run) -> AsyncIterator[None]:
        with Live(console=self._console, auto_refresh=False, screen=True) as live:
            task = asyncio.create_task(self._show(run, live))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait({task})

    async def _show(self, run: Run, live: Live) -> None:
        while True:
            self._rates.look(run.elapsed_s, run.ledger.acknowledged)
            live.update(screen(run, self._rates, width=self._console.width), refresh=True)
            await asyncio.sleep(FRAME_S)


def screen(run: Run, rates: Rates, *, width: int) -> RenderableType:
    """Return the run as it is now."""
    return Group(
        _title(run),
        _figures(run, rates),
        Text(),
        _now(run),
        Text(),
        _processes(run),
        Text(),
        _sessions(run, width=width),
        Text(),
        *(_cropped(f"{clock(note.at_s)}  {note.text}", style="dim") for note in list(run.notes)[-NOTES_SHOWN:]),
    )


def _cropped(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _title(run: Run) -> Text:
    # A short run goes on until its faults are done.
    end = f" of {clock(run.options.seconds)}" if run.elapsed_s < run.options.seconds else ""
    when = f"{clock(run.elapsed_s)}{end}" if run.phase == "users talk" else ""
    title = _cropped("satchel demo", style="bold")
    title.append(f"   seed {run.options.seed}   {when}   {_phase(run)}", style="not bold")
    return title


def _phase(run: Run) -> str:
    match run.phase:
        case "starting":
            return f"starting a hub and {run.options.workers} workers"
        case "audit":
            return f"audit: {run.audited} of {run.options.sessions} sessions read back"
        case _:
            return run.phase


def _figures(run: Run, rates: Rates) -> Table:
    ledger = run.ledger
    turns = max(ledger.starts.total(), 1)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, min_width=len("acknowledged"))
    grid.add_column(no_wrap=True, overflow="ellipsis")
    rate = rates.per_second(run.elapsed_s, ledger.acknowledged) if run.is_loaded else 0.0
    grid.add_row("turns/s", f"{rate:5.1f}  {bars(rates.bars)}")
    grid.add_row(
        "acknowledged", f"{run.counted.acknowledged:,} told to users, {run.counted.committed:,} committed by the hub"
    )
    grid.add_row(
        "waited",
        f"p50 {percentile(ledger.recent_ms, 0.5):,.0f} ms   p99 {percentile(ledger.recent_ms, 0.99):,.0f} ms"
        f"   longest pause {ledger.longest_ms(now_s=time.monotonic()):,.0f} ms",
    )
    grid.add_row("starts", "   ".join(f"{start.value} {100 * ledger.starts[start] / turns:.1f} %" for start in _STARTS))
    grid.add_row(
        "a turn",
        f"→ {byte_count(ledger.sent_bytes // turns)} sent   ← {byte_count(ledger.received_bytes // turns)} received",
    )
    grid.add_row(
        "messages",
        f"{ledger.repeats:,} answered twice   {ledger.double_texts:,} before the last answer"
        f"   {ledger.restarts:,} run again",
    )
    return grid


_STARTS: Final = (Start.WARM, Start.CATCH_UP, Start.COLD, Start.NEW)


def _now(run: Run) -> Text:
    now = run.chaos.now
    return _cropped(f"now  {now}", style="bold red") if now else _cropped("now  nothing is being broken", style="dim")


def _processes(run: Run) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("process", "state", "build"):
        table.add_column(name, no_wrap=True)
    for name in ("running", "warm", "pid"):
        table.add_column(name, justify="right", no_wrap=True)
    if run.fleet.hub.has_started:
        state = run.fleet.hub.state
        table.add_row("hub", Text(state.value, STYLES[state]), "", "", "", str(run.fleet.hub.pid))
    for worker in shown(run.fleet.workers):
        row = run.listed.get(worker.worker_id)
        is_listed = row is not None and worker.state.is_alive
        table.add_row(
            worker.name,
            Text(worker.state.value, STYLES[worker.state]),
            str(worker.build),
            f"{row.running}/{row.slots}" if row is not None and is_listed else "",
            f"{row.warm_sessions}" if row is not None and is_listed else "",
            str(worker.pid) if worker.state.is_alive and worker.has_started else "",
        )
    return table


def shown(workers: list[WorkerProcess]) -> list[WorkerProcess]:
    """Return the workers that fit: all that live, and the latest of the others, in the order of their start."""
    living = [worker for worker in workers if worker.state.is_alive]
    dead = [worker for worker in workers if not worker.state.is_alive]
    kept = {*living, *dead[max(len(dead) - max(WORKERS_SHOWN - len(living), 0), 0) :]}
    return [worker for worker in workers if worker in kept]


def _sessions(run: Run, *, width: int) -> RenderableType:
    """Return a mark for each session: who thinks, who waits, and who waits long."""
    since: dict[str, float] = {}
    for (session_id, _), at_s in list(run.ledger.waiting_since.items()):
        since[session_id] = min(at_s, since.get(session_id, at_s))
    now_s = time.monotonic()
    text = Text(overflow="fold")
    column = max(min(width - 1, 100), 10)
    for number, session_id in enumerate(run.ledger.sessions):
        if number and number % column == 0:
            text.append("\n")
        text.append(*_mark(now_s - since[session_id] if session_id in since else None))
    waiting = len(since)
    slow = sum(now_s - at_s > SLOW_S for at_s in since.values())
    head = _cropped(
        f"{run.options.sessions} sessions: {run.options.sessions - waiting} think ·  {waiting - slow} wait o"
        f"  {slow} for more than {SLOW_S:.0f} s #",
        style="dim",
    )
    return Group(head, text)


def _mark(waiting_s: float | None) -> tuple[str, str]:
    if waiting_s is None:
        return "·", "dim"
    return ("o", "green") if waiting_s <= SLOW_S else ("#", "bold red")


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02}:{int(seconds) % 60:02}"
