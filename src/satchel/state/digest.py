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
    one at a time, in the order of their key.
    """
    total = hashlib.sha256(fingerprint(database.connection))
    for table in _tables(database):
        if table.name != tables.TURN:
            total.update(msgspec.msgpack.encode((table.name, table.columns)))
            for row in database.connection.execute(_rows_sql(table), can_cache=False):
                total.update(msgspec.msgpack.encode(row))
    return total.digest()


def _tables(database: Database) -> list[_Table]:
    found: dict[str, _Table] = {}
    for name, without_rowid, column, declared, key in database.run(_TABLES):
        table = found.setdefault(name, _Table(name, bool(without_rowid), [], []))
        table.columns.append(column)
        if key:
            table.key.append((key, column, declared))
    return list(found.values())


def _rows_sql(table: _Table) -> str:
    names = [tables.quoted(column) for column in table.columns]
    # The first letters of the five type names differ; one text tells the types of a row.
    kinds = " || ".join(f"substr(typeof({name}), 1, 1)" for name in names)
    values = ", ".join(
        f"CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) WHEN 'real' THEN {name} + 0.0 ELSE {name} END"
        for name in names
    )
    return f"SELECT {kinds}, {values} FROM main.{tables.quoted(table.name)} ORDER BY {_order(table, names)}"


def _order(table: _Table, names: list[str]) -> str:
    """Return an order that two copies share: the stored key where it is one, else all columns."""
    is_row_id = len(table.key) == 1 and table.key[0][2].upper() == "INTEGER"
    if table.without_rowid or is_row_id:
        return ", ".join(tables.quoted(column) for _, column, _ in sorted(table.key))
    return ", ".join(f"typeof({name}), {name} COLLATE BINARY" for name in names)
