"""Looks into an exported session as its reader will: with the standard library's SQLite."""

import contextlib
import sqlite3
from pathlib import Path

from satchel.state.tables import quoted


def row_counts(path: Path) -> dict[str, int]:
    """Return how many rows each table of the SQLite file at *path* has, by name."""
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
        names = [
            name
            for (name,) in file.execute(
                "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')"
                " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            )
        ]
        return {name: file.execute(f"SELECT count(*) FROM {quoted(name)}").fetchone()[0] for name in names}
