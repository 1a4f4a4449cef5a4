"""The three tables Satchel keeps in every session's database. Their columns are stable: people query exported files."""

from typing import Final

PREFIX: Final = "_satchel_"

TURN: Final = "_satchel_turn"
VALUES: Final = "_satchel_values"
HISTORY: Final = "_satchel_history"

STATEMENTS: Final = {
    # One row, updated last in every turn. `version` is a value, never a key: an
    # UPDATE carries the old one, so a delta refuses another attempt's state.
    TURN: f"""CREATE TABLE {TURN} (
    id INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    base_state_id BLOB NOT NULL,
    schema_number INTEGER NOT NULL
) STRICT""",
    # What a handler keeps as `turn.state["key"]`: one row a key, its value as JSON.
    VALUES: f"""CREATE TABLE {VALUES} (
    key TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID""",
    # The conversation, one row an item in order of insertion; `content` is the item as JSON.
    HISTORY: f"""CREATE TABLE {HISTORY} (
    position INTEGER PRIMARY KEY,
    item_id TEXT NOT NULL,
    type TEXT NOT NULL,
    role TEXT,
    message_id TEXT NOT NULL,
    content TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT""",
}
"""Each table and its definition, exactly as SQLite stores it."""

TURN_COLUMNS: Final = ("id", "session_id", "version", "epoch", "base_state_id", "schema_number")


def is_ours(name: str) -> bool:
    """Whether a table of this name belongs to Satchel."""
    return name.lower().startswith(PREFIX)


def quoted(name: str) -> str:
    """Return *name* as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
