"""The digest of a state: a hash of its rows and definitions, whatever the bytes of the file."""

import hashlib

import msgspec

from satchel.state import tables
from satchel.state.database import Database
from satchel.state.schema import fingerprint

_TABLES = """
SELECT l.name, l.wr, x.name, x.type, x.pk FROM pragma_table_list AS l JOIN pragma_table_xinfo(l.name, 'main') AS x
WHERE l.schema = 'main' AND l.type IN ('table', 'shadow') AND x.hidden NOT IN (2, 3)
  AND (l.name = 'sqlite_sequence' OR l.name NOT LIKE 'sqlite\\_%' ESCAPE '\\')
ORDER BY l.name, x.cid
"""


class _Table(msgspec.Struct):
    name: str
    without_rowid: bool
    columns: list[str]
    key: list[tuple[int, str, str]]


def digest(database: Database) -> bytes:
    """Return the digest (32 bytes) of every row, with what is uncommitted.

    Types are exact, and so is text that is not UTF-8; -0.0 counts as 0.0, which
    SQLite holds equal. ``_satchel_turn`` and what follows from other rows (indexes,
    generated columns, statistics) are left out. O(the state) in time; rows are read
    one at a time.
    """
    total = hashlib.sha256(fingerprint(database.connection))
    for table in _tables(database):
        if table.name != tables.TURN:
            total.update(msgspec.msgpack.encode((table.name, table.columns)))
            total.update(_ordered(database, table) if _has_stored_order(table) else _unordered(database, table))
    return total.digest()


def _tables(database: Database) -> list[_Table]:
    found: dict[str, _Table] = {}
    for name, without_rowid, column, declared, key in database.run(_TABLES):
        table = found.setdefault(name, _Table(name, bool(without_rowid), [], []))
        table.columns.append(column)
        if key:
            table.key.append((key, column, declared))
    return list(found.values())


def _has_stored_order(table: _Table) -> bool:
    """Whether two copies read the rows in one order: that of the key they are stored by."""
    is_row_id = len(table.key) == 1 and table.key[0][2].upper() == "INTEGER"
    return table.without_rowid or is_row_id


def _ordered(database: Database, table: _Table) -> bytes:
    key = ", ".join(tables.quoted(column) for _, column, _ in sorted(table.key))
    rows = hashlib.sha256()
    for row in database.connection.execute(f"{_select(table)} ORDER BY {key}", can_cache=False):
        rows.update(msgspec.msgpack.encode(row))
    return rows.digest()


def _unordered(database: Database, table: _Table) -> bytes:
    """Return the sum of the rows' hashes: the same in any order, and it counts rows that are equal."""
    total = 0
    for row in database.connection.execute(_select(table), can_cache=False):
        total += int.from_bytes(hashlib.sha256(msgspec.msgpack.encode(row)).digest(), "big")
    return (total % 2**256).to_bytes(32, "big")


def _select(table: _Table) -> str:
    # Text is read as bytes, which need not be UTF-8, and told from a blob by a first letter.
    values = ", ".join(
        f"CASE typeof({name}) WHEN 'text' THEN CAST('t' || {name} AS BLOB) WHEN 'blob' THEN CAST('b' || {name} AS BLOB)"
        f" WHEN 'real' THEN {name} + 0.0 ELSE {name} END"
        for name in map(tables.quoted, table.columns)
    )
    return f"SELECT {values} FROM main.{tables.quoted(table.name)}"
