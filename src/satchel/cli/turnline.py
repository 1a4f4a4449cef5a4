"""The turn line: what a turn did and cost, the same wherever one is printed (pure)."""

from collections.abc import Mapping

from satchel.limits import KIB, MIB
from satchel.model import Complete

TENTHS_BELOW = 9.95
"""Above it, a tenth says nothing and costs two columns."""


def turn_line(complete: Complete) -> str:
    """Return the line of a turn that ended.

    ``  v12  warm      → 0 B      ← 212 B     38 ms (handler 31 ms)   booking +1 ~2``:
    version, start, state bytes sent to the worker and received from it, times, rows
    inserted (+), updated (~), deleted (-). ``  --  CODE  message`` if it failed.
    """
    turn = complete.turn
    if complete.error is not None or complete.session_state is None:
        code, message = ("", "") if complete.error is None else (complete.error.code, complete.error.message)
        return f"  --  {code}  {' '.join(printable(message).split())}".rstrip()
    version = f"v{complete.session_state.version}"
    start = "" if turn.start is None else turn.start.value
    sent, received = byte_count(turn.sent_bytes), byte_count(turn.received_bytes)
    return (
        f"  {version:<4} {start:<8}  → {sent:<7}  ← {received:<7} {turn.total_ms:>4.0f} ms"
        f" (handler {turn.handler_ms:.0f} ms)   {_changes(turn.changed_rows)}"
    ).rstrip()


def byte_count(size: int) -> str:
    """Return *size* for people, in at most seven characters: ``212 B``, ``4.0 KB``, ``42 KB``, ``1.5 MB``."""
    if size < KIB:
        return f"{size} B"
    number, unit = (size / KIB, "KB") if size < MIB else (size / MIB, "MB")
    return f"{number:.1f} {unit}" if number < TENTHS_BELOW else f"{number:.0f} {unit}"


def printable(text: str) -> str:
    """Return *text* without control characters: what a model says must not steer the terminal."""
    return "".join(char for char in text if char in "\n\t" or char.isprintable())


def _changes(changed_rows: Mapping[str, tuple[int, int, int]]) -> str:
    tables = (
        " ".join([printable(table), *(f"{sign}{count}" for sign, count in zip("+~-", counts, strict=True) if count)])
        for table, counts in changed_rows.items()
        if any(counts)
    )
    return "  ".join(tables)
