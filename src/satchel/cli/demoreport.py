"""The last lines of ``satchel demo``, made to be pasted, and the command that they end with."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from satchel.cli.turnline import byte_count
from satchel.demo.audit import Verdict
from satchel.demo.findings import FindingKind
from satchel.demo.ledger import percentile
from satchel.demo.plan import FaultKind
from satchel.demo.run import Run, turn_to_open
from satchel.model import Start

FINDINGS_SHOWN = 20


def report(run: Run, verdict: Verdict) -> list[str]:
    """Return the lines: findings first if there are any, then the figures, then the command."""
    options = run.options
    asked = f"{options.sessions} sessions, {options.workers} workers, {run.seconds:.0f} s, seed {options.seed}"
    lines = [
        f"satchel demo    {asked}",
        "",
        *_findings(verdict),
        "   ".join(f"{name} {verdict.count(kind)}" for kind, name in _COUNTED.items()),
    ]
    lines += [f"{name:<16}{what}" for name, what in _figures(run, verdict)]
    opened = turn_to_open(verdict.heads)
    if opened is not None:
        session_id, version = opened
        command = export_command(run.fleet.store, session_id, version)
        lines += ["", f"open {session_id} as it was at turn {version}:", f"  {command}"]
    return lines


_COUNTED: Final = {
    FindingKind.LOST: "lost",
    FindingKind.DOUBLED: "doubled",
    FindingKind.GAP: "gaps",
    FindingKind.MISMATCH: "mismatches",
    FindingKind.UNANSWERED: "unanswered",
}


def _figures(run: Run, verdict: Verdict) -> Iterator[tuple[str, str]]:
    ledger = run.ledger
    turns = max(ledger.starts.total(), 1)
    others = (Start.CATCH_UP, Start.COLD, Start.NEW)
    yield "versions", f"{verdict.versions:,} committed, {ledger.acknowledged:,} acknowledged"
    yield (
        "warm share",
        f"{_percent(ledger.starts[Start.WARM], turns)}   "
        + "   ".join(f"{start.value} {_percent(ledger.starts[start], turns)}" for start in others),
    )
    sent, received = (byte_count(size // turns) for size in (ledger.sent_bytes, ledger.received_bytes))
    yield "bytes per turn", f"sent {sent}   received {received}"
    yield "longest pause", _pause(run)
    half, most = (f"{percentile(ledger.waits_ms, part):,.0f} ms" for part in (0.5, 0.99))
    yield "waited", f"half of the turns up to {half}, 99 of 100 up to {most}"
    for number, line in enumerate(_done(run, verdict)):
        yield ("" if number else "done to it"), line
    yield "folder", str(run.options.folder)


def _pause(run: Run) -> str:
    """Return the longest pause and the faults that were under way in it."""
    pause = run.ledger.longest
    during = run.chaos.during(pause.ended_s - pause.ms / 1000, pause.ended_s)
    return f"{pause.ms:,.0f} ms" + (f" ({', '.join(during)})" if during else "")


def _findings(verdict: Verdict) -> list[str]:
    shown = [str(finding) for finding in verdict.findings[:FINDINGS_SHOWN]]
    if len(verdict.findings) > len(shown):
        shown.append(f"and {len(verdict.findings) - len(shown)} more")
    return [*shown, ""] if shown else []


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _done(run: Run, verdict: Verdict) -> Iterator[str]:
    done, ledger = run.chaos.done, run.ledger
    for kind in FaultKind:
        if done[kind]:
            migrated = f", {verdict.migrated:,} sessions migrated" if kind is FaultKind.ROLLOUT else ""
            yield f"{done[kind]} x {kind.value}{migrated}"
    yield f"{ledger.repeats:,} messages sent twice, {ledger.double_texts:,} before the last answer"
    yield f"{ledger.restarts:,} attempts run again"
    if ledger.errors:
        again = ", ".join(f"{count:,} x {code}" for code, count in sorted(ledger.errors.items()))
        yield f"sent once more by users after {again}"


def export_command(store: Path, session_id: str, version: int) -> str:
    """Return what opens a version of *store*, to be pasted into the shell that ran this."""
    arguments = shlex.join(["sessions", "export", session_id, "--version", str(version), "--store", str(store)])
    prefix = invocation(
        os.environ, executable=sys.executable, prefix=sys.prefix, folder=Path.cwd(), found=shutil.which("satchel")
    )
    return f"{prefix} {arguments}"


def invocation(environ: Mapping[str, str], *, executable: str, prefix: str, folder: Path, found: str | None) -> str:
    """Return how ``satchel`` is called from the shell that started this process.

    ``uv run`` puts the program on the path of its child alone, so the shell behind it
    needs ``uv run`` again, which finds the environment from its project's *folder*. Where
    neither that nor the path leads to this very program, the interpreter is named.
    """
    project = Path(prefix).parent
    if "UV_RUN_RECURSION_DEPTH" in environ:
        is_below = project == folder or project in folder.parents
        if is_below and Path(prefix).name == ".venv" and "VIRTUAL_ENV" in environ:
            return "uv run satchel"
    elif found is not None and Path(found).parent == Path(executable).parent:
        return "satchel"
    return f"{shlex.quote(executable)} -m satchel"
