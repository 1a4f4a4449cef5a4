"""Reads an exported session as anyone would: a plain file, by the standard library's SQLite.

Nothing of the product opens it here, so that the product cannot vouch for itself.
"""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from satchel.demo.rows import rows_digest
from satchel.errors import CorruptState


class Exported(msgspec.Struct, frozen=True):
    """What a file holds that the audit asks about."""

    session_id: str
    version: int
    schema_number: int
    notes: tuple[tuple[int, str], ...]
    """The number and the message ID of each row that a turn wrote, by number."""
    said: tuple[tuple[str, str, str], ...]
    """Role, message ID and text of the conversation, in order."""
    digest: str
    """Of the rows as they were when the last turn's answer was made."""


def read_exported(path: Path) -> Exported:
    """Read the file at *path*. Raises ``CorruptState`` for what is not a session of the demo's agent."""
    try:
        return _read(path)
    except (
        sqlite3.Error,
        ValueError,
        TypeError,
        KeyError,
    ) as error:  # no database, other tables, rows of another shape
        raise CorruptState(f"{path} is not what was exported: {error}") from error


def _read(path: Path) -> Exported:
    # By a URI for reading alone: nothing here may write beside the file.
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
        (check,) = file.execute("PRAGMA integrity_check").fetchone()
        if check != "ok":
            raise sqlite3.DatabaseError(check)
        session_id, version, schema_number = file.execute(
            "SELECT session_id, version, schema_number FROM _satchel_turn"
        ).fetchone()
        notes = file.execute("SELECT * FROM note ORDER BY id").fetchall()
        said = [
            (role, message_id, _text(content))
            for role, message_id, content in file.execute(
                "SELECT role, message_id, content FROM _satchel_history WHERE type = 'message' ORDER BY position"
            )
        ]
        return Exported(
            session_id=session_id,
            version=version,
            schema_number=schema_number,
            notes=tuple((row[0], row[1]) for row in notes),
            said=tuple(said),
            digest=rows_digest(
                note=notes,
                tally=file.execute("SELECT * FROM tally ORDER BY item"),
                values=[
                    (key, json.loads(value))
                    for key, value in file.execute("SELECT key, value FROM _satchel_values ORDER BY key")
                ],
                said=[(role, text) for role, _, text in _before_answer(said)],
            ),
        )


def _text(content: str) -> str:
    item: dict[str, Any] = json.loads(content)
    return "".join(part["text"] for part in item["content"])


def _before_answer(said: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Leave out the last turn's answer: its digest is of the rows before it."""
    return said[:-1] if said and said[-1][0] == "ASSISTANT" else said
