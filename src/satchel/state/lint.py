"""What of a schema a changeset cannot carry. Each finding names the table, the reason and the fix."""

import re
from typing import Any, Final

import apsw
import msgspec

from satchel.state import tables

_RECORDED_MODULES: Final = frozenset({"fts5", "fts4", "rtree"})
_COLLATIONS: Final = frozenset({"BINARY", "NOCASE", "RTRIM"})
_NAME: Final = r"""(?:"(?:[^"]|"")*"|'(?:[^']|'')*'|`(?:[^`]|``)*`|\[[^\]]*\]|[^\s("'`\[]+)"""
_MODULE: Final = re.compile(rf"CREATE\s+VIRTUAL\s+TABLE\s+{_NAME}\s+USING\s+(?P<module>{_NAME})", re.IGNORECASE)
_COLLATE: Final = re.compile(r"COLLATE\s+[\"'`\[]?(\w+)", re.IGNORECASE)

_KEY_COLUMNS: Final = """
SELECT name, type, "notnull", pk, hidden FROM pragma_table_xinfo(?, 'main') WHERE pk > 0 ORDER BY pk
"""
_KEY_COLLATIONS: Final = """
SELECT x.name, x.coll FROM pragma_index_list(?, 'main') AS l JOIN pragma_index_xinfo(l.name, 'main') AS x
WHERE l.origin = 'pk' AND x.key
"""


class Finding(msgspec.Struct, frozen=True):
    """One thing a changeset would lose."""

    table: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"Table {self.table}: {self.reason}. {self.fix}"


def lint(connection: apsw.Connection) -> list[Finding]:
    """Return what turns on this database could lose if they travelled as deltas; empty: nothing.

    O(the schema). A database that holds a finding is carried by snapshots.
    """
    found: list[Finding] = []
    listed = _rows(
        connection, "SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main' ORDER BY name"
    )
    for name, kind, without_rowid, strict in listed:
        if tables.is_ours(name) or name.lower().startswith("sqlite_") or kind in {"view", "shadow"}:
            continue
        if kind == "virtual":
            found += _virtual_findings(connection, name)
        else:
            found += _key_findings(connection, name, without_rowid=bool(without_rowid), strict=bool(strict))
            found += _reference_findings(connection, name)
    return found + _collation_findings(connection) + _name_findings(connection)


def _rows(connection: apsw.Connection, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    return connection.execute(sql, parameters, can_cache=False).fetchall()


def _virtual_findings(connection: apsw.Connection, name: str) -> list[Finding]:
    ((sql,),) = _rows(connection, "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?", name)
    match = _MODULE.match(sql)
    module = match["module"].strip("\"'`[]").lower() if match else "?"
    if module in _RECORDED_MODULES:
        return []
    return [Finding(name, f"the rows of virtual module {module} are not recorded", "Use fts5, fts4 or rtree.")]


def _key_findings(connection: apsw.Connection, name: str, *, without_rowid: bool, strict: bool) -> list[Finding]:
    key = _rows(connection, _KEY_COLUMNS, name)
    if not key:
        return [Finding(name, "it has no PRIMARY KEY, so its rows are not recorded", "Add id INTEGER PRIMARY KEY.")]
    collations = _rows(connection, _KEY_COLLATIONS, name)
    if len(key) == 1 and not without_rowid and key[0][1].upper() == "INTEGER":
        if not collations:
            return []
        return [
            Finding(name, "INTEGER PRIMARY KEY DESC is not the row ID and may be NULL", "Leave out DESC."),
        ]
    if not without_rowid:
        nullable = "" if strict or all(column[2] for column in key) else "a key that is NULL is not recorded, and "
        return [
            Finding(
                name,
                f"{nullable}the row IDs behind a key that is not INTEGER PRIMARY KEY are not carried",
                "Add WITHOUT ROWID after the closing parenthesis.",
            )
        ]
    return [
        *(
            _type_finding(name, column, declared)
            for column, declared, *_ in key
            if _is_typeless(declared, strict=strict)
        ),
        *(
            Finding(name, f"key {column} has collation {collation}: two spellings would be one key", "Use BINARY.")
            for column, collation in collations
            if collation.upper() != "BINARY"
        ),
    ]


def _reference_findings(connection: apsw.Connection, name: str) -> list[Finding]:
    """An action of a foreign key is carried out by Satchel's own statements, which nobody records."""
    return [
        Finding(name, f"its foreign key names {table}, which is Satchel's", "Leave out REFERENCES.")
        for (table,) in _rows(connection, "SELECT DISTINCT \"table\" FROM pragma_foreign_key_list(?, 'main')", name)
        if tables.is_ours(table)
    ]


def _is_typeless(declared: str, *, strict: bool) -> bool:
    """Whether a key column can hold 1 and 1.0, which are one key and two records."""
    upper = declared.upper()
    if strict:
        return upper == "ANY"
    has_affinity = any(part in upper for part in ("INT", "CHAR", "CLOB", "TEXT", "REAL", "FLOA", "DOUB"))
    return not has_affinity and ("BLOB" in upper or upper in {"", "ANY"})


def _type_finding(table: str, column: str, declared: str) -> Finding:
    kind = declared or "no type"
    return Finding(
        table,
        f"key {column} has {kind}, where 1 and 1.0 are one key but two records",
        "Give it the type INTEGER or TEXT, or make the table STRICT with BLOB.",
    )


def _collation_findings(connection: apsw.Connection) -> list[Finding]:
    rows = _rows(connection, "SELECT tbl_name, sql FROM main.sqlite_schema WHERE sql LIKE '%COLLATE%'")
    return [
        Finding(table, f"collation {name} is not built in", "Use BINARY, NOCASE or RTRIM.")
        for table, sql in rows
        for name in _COLLATE.findall(sql)
        if name.upper() not in _COLLATIONS
    ]


def _name_findings(connection: apsw.Connection) -> list[Finding]:
    rows = _rows(
        connection, "SELECT name, tbl_name FROM main.sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return [
        Finding(name, "names that begin with _satchel_ belong to Satchel", "Rename it.")
        for name, table in rows
        if (tables.is_ours(name) or tables.is_ours(table)) and name not in tables.STATEMENTS
    ]
