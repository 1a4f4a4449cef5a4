"""The agent of the simulation, and the model that says what its rows must be.

What a turn does to the rows follows from its text and its attempt, so the rows of a
version follow from the texts and attempts that were committed up to it.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from satchel.worker.context import Turn

AGENT = "notes"
PLAIN_AGENT = "plain-notes"
"""The same, as a plain function that runs in a thread."""
SCHEMA = """
CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
CREATE TABLE tally (kind TEXT PRIMARY KEY NOT NULL, count INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""
MIGRATION = "ALTER TABLE note ADD COLUMN length INTEGER NOT NULL DEFAULT 0; UPDATE note SET length = length(text);"
KINDS = (
    ["note"] * 8
    + ["slow"] * 4
    + ["forget", "forget", "refuse", "raise", "flaky", "flaky", "hang", "stubborn", "deadly", "block"]
)
"""What a message asks for, by its first word."""

Execute = Callable[[str], Iterable[tuple[Any, ...]]]


class Rows(msgspec.Struct, frozen=True):
    """What a session's own tables hold."""

    notes: tuple[tuple[Any, ...], ...] = ()
    tally: tuple[tuple[str, int], ...] = ()
    visits: int = 0

    @classmethod
    def read(cls, execute: Execute) -> "Rows":
        """Read them as a person would who has the file."""
        visits = list(execute("SELECT value FROM _satchel_values WHERE key = 'visits'"))
        return cls(
            notes=tuple(tuple(row) for row in execute("SELECT * FROM note ORDER BY id")),
            tally=tuple((kind, count) for kind, count in execute("SELECT kind, count FROM tally ORDER BY kind")),
            visits=json.loads(visits[0][0]) if visits else 0,
        )

    def after(self, text: str, attempt: int, schema_number: int) -> "Rows":
        """Return what an attempt of the turn *text* makes of them, under the schema that it leaves (pure)."""
        kind = text.split(maxsplit=1)[0]
        notes = [(note[0], note[1]) for note in self.notes]
        notes.append((max((note[0] for note in notes), default=0) + 1, noted(text, attempt)))
        if kind == "forget":
            del notes[0]
        tally = dict(self.tally)
        tally[kind] = tally.get(kind, 0) + 1
        return Rows(
            notes=tuple(note if schema_number == 1 else (*note, len(note[1])) for note in notes),
            tally=tuple(sorted(tally.items())),
            visits=self.visits + 1,
        )

    def migrated(self, schema_number: int) -> "Rows":
        """Return them as a handler of that build finds them (pure)."""
        notes = tuple((*note[:2], len(note[1])) if schema_number > 1 else note[:2] for note in self.notes)
        return msgspec.structs.replace(self, notes=notes)


def noted(text: str, attempt: int) -> str:
    """Return what is written down of a message: another attempt writes something else."""
    return f"{text} by attempt {attempt}"


def change(turn: Turn[Any], schema_number: int, ballast: Callable[[], str]) -> Rows:
    """Do to the state what ``Rows.after`` says; return what was there before."""
    execute = turn.state.execute
    found = Rows(
        notes=tuple(tuple(row) for row in execute("SELECT * FROM note ORDER BY id")),
        tally=tuple((kind, count) for kind, count in execute("SELECT kind, count FROM tally ORDER BY kind")),
        visits=turn.state.get("visits", 0),
    )
    if not found.visits:  # so that a snapshot weighs more than a few deltas, and catching up is worth it
        turn.state["ballast"] = ballast()
    kind = turn.text.split()[0]
    text = noted(turn.text, turn.attempt)
    if schema_number == 1:
        execute("INSERT INTO note (text) VALUES (?)", (text,))
    else:
        execute("INSERT INTO note (text, length) VALUES (?, ?)", (text, len(text)))
    if kind == "forget":
        execute("DELETE FROM note WHERE id = (SELECT min(id) FROM note)")
    execute("INSERT INTO tally (kind, count) VALUES (?, 1) ON CONFLICT (kind) DO UPDATE SET count = count + 1", (kind,))
    turn.state["visits"] = found.visits + 1
    return found


async def stay(chance: random.Random, is_over: Callable[[], bool]) -> None:
    """Go on for a while, whatever cancels."""
    loop = asyncio.get_running_loop()
    until = loop.time() + chance.choice([0.5, 8, 30])
    while loop.time() < until and not is_over():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(until - loop.time())
