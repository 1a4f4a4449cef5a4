"""An agent's schema: declared once, checked where it could lose rows, named by number and fingerprint."""

import hashlib
from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from satchel import limits
from satchel.errors import CorruptState, SchemaRefused, StateTooLarge
from satchel.model import SchemaName
from satchel.state import tables
from satchel.state.database import Database, empty_database
from satchel.state.fence import Fence
from satchel.state.lint import Finding, lint

__all__ = ["Facts", "Finding", "Schema", "Shape", "create_own_tables", "fingerprint", "lint", "survey"]

_DEFINITIONS: Final = """
SELECT s.type, s.name, s.tbl_name, s.sql FROM main.sqlite_schema AS s
WHERE s.tbl_name NOT LIKE '\\_satchel\\_%' ESCAPE '\\' AND s.tbl_name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
  AND s.tbl_name NOT IN (SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow')
ORDER BY s.type, s.name
"""
_COLUMNS: Final = """
SELECT l.name, x.pk FROM pragma_table_list AS l JOIN pragma_table_xinfo(l.name, 'main') AS x
WHERE l.schema = 'main' AND l.type IN ('table', 'shadow') AND x.hidden NOT IN (2, 3)
  AND l.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
ORDER BY l.name, x.cid
"""
_OWN: Final = (
    "SELECT name, sql FROM main.sqlite_schema WHERE tbl_name LIKE '\\_satchel\\_%' ESCAPE '\\' AND sql NOT NULL"
)
_ALL_DEFINITIONS: Final = "SELECT type, name, tbl_name, sql FROM main.sqlite_schema ORDER BY rowid"
_VIRTUAL: Final = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'"


class Shape(msgspec.Struct, frozen=True):
    """A table as a changeset sees it: how many columns it stores, and which of them are the key."""

    columns: int
    key: frozenset[int]


class Facts(msgspec.Struct, frozen=True):
    """What a turn and a delta need to know of a schema; computed once for each."""

    fingerprint: bytes
    findings: tuple[Finding, ...]
    shapes: dict[str, Shape]
    autoincrement: frozenset[str]
    virtual: frozenset[str]


_SURVEYED_MAX: Final = 64
_surveyed: Final[dict[bytes, Facts]] = {}
"""The facts by the hash of all definitions, on which alone they depend: many sessions have few schemas."""


class Schema:
    """A schema as an agent declares it: the tables, and the migrations since. Immutable."""

    def __init__(self, texts: tuple[str, ...], name: SchemaName) -> None:
        self.texts = texts
        """The schema, then each migration."""
        self.name = name

    @property
    def number(self) -> int:
        """1 for the schema without migrations, and 1 more for each."""
        return self.name.number

    @classmethod
    def declare(cls, schema: str, migrations: Sequence[str] = ()) -> "Schema":
        """Build the tables once, in a scratch database, and return the schema with its name.

        Raises ``SchemaRefused`` with the table, the reason and the fix when turns on
        such tables could lose rows, and with SQLite's error when a text does not run.
        """
        texts = (schema, *migrations)
        database = empty_database()
        try:
            create_own_tables(database)
            for number, text in enumerate(texts, start=1):
                run_definition(database, text, number)
                findings = lint(database.connection)
                if findings:
                    raise _refused(number, findings)
            return cls(texts, SchemaName(len(texts), fingerprint(database.connection)))
        finally:
            database.close()

    def migrate(self, database: Database, *, after: int) -> None:
        """Run the texts from number *after* + 1 on, inside the open transaction."""
        for number in range(after + 1, self.number + 1):
            run_definition(database, self.texts[number - 1], number)


def run_definition(database: Database, text: str, number: int) -> None:
    """Run the schema (number 1) or a migration, fenced. Raises ``SchemaRefused``, ``StateTooLarge``."""
    where = _where(number)
    if len(text) > limits.SQL_BYTES_MAX:
        raise SchemaRefused(f"{where} is over {limits.SQL_BYTES_MAX} characters.")
    done: list[str] = []
    cursor = database.connection.cursor()

    def trace(_cursor: apsw.Cursor, sql: str, _bindings: object) -> bool:
        done.append(sql)
        return True

    cursor.exec_trace = trace
    database.authorizer.fence = Fence.SCHEMA
    try:
        cursor.execute(text, can_cache=False).fetchall()
    except apsw.AuthError as error:
        raise SchemaRefused(f"{where}: {database.authorizer.refusal or error}") from error
    except apsw.FullError as error:
        raise StateTooLarge(state_bytes_max=limits.STATE_BYTES_MAX) from error
    except (apsw.Error, ValueError) as error:
        raise SchemaRefused(f"{where}: {error} in: {_failed(text, done, error)}") from error
    finally:
        database.authorizer.fence = Fence.DOWN
        cursor.close(True)


def _failed(text: str, done: list[str], error: Exception) -> str:
    """Return the start of the statement that failed: the first that did not parse, or the last that ran."""
    rest = text[sum(len(sql) for sql in done) :].lstrip(" \r\n\t;").split(";", maxsplit=1)[0].strip()
    if done and not (isinstance(error, apsw.SQLError) and rest):
        rest = done[-1].strip()
    return rest[:200]


def _where(number: int) -> str:
    return "The schema" if number == 1 else f"Migration {number - 1} (to schema number {number})"


def _refused(number: int, findings: list[Finding]) -> SchemaRefused:
    return SchemaRefused(
        f"{_where(number)} would lose rows. " + " ".join(str(finding) for finding in findings),
        findings=[{"table": finding.table, "reason": finding.reason, "fix": finding.fix} for finding in findings],
    )


def create_own_tables(database: Database) -> None:
    """Create Satchel's three tables."""
    for statement in tables.STATEMENTS.values():
        database.run(statement)


def fingerprint(connection: apsw.Connection) -> bytes:
    """Return the hash (32 bytes) of the agent's definitions.

    Satchel's own tables and those that virtual modules make for themselves are
    left out: a release of either must not look like a changed schema.
    """
    digest = hashlib.sha256()
    for definition in connection.execute(_DEFINITIONS, can_cache=False):
        digest.update(msgspec.msgpack.encode(definition))
    return digest.digest()


def survey(database: Database) -> Facts:
    """Return the facts of the schema as it stands; equal definitions give one object.

    Raises ``CorruptState`` if Satchel's own tables are not as it made them.
    """
    definitions = hashlib.sha256(msgspec.msgpack.encode(database.run(_ALL_DEFINITIONS))).digest()
    facts = _surveyed.get(definitions)
    if facts is None:
        facts = _surveyed_anew(database)
        if len(_surveyed) >= _SURVEYED_MAX:
            _surveyed.clear()
        _surveyed[definitions] = facts
    return facts


def _surveyed_anew(database: Database) -> Facts:
    if dict(database.run(_OWN)) != tables.STATEMENTS:
        raise CorruptState("Satchel's own tables are not as it made them.")
    connection = database.connection
    keys: dict[str, list[int]] = {}
    for name, key in database.run(_COLUMNS):
        keys.setdefault(name, []).append(key)
    return Facts(
        fingerprint=fingerprint(connection),
        findings=tuple(lint(connection)),
        shapes={
            name: Shape(len(columns), frozenset(index for index, key in enumerate(columns) if key))
            for name, columns in keys.items()
        },
        autoincrement=_autoincrement(database),
        virtual=frozenset(name for (name,) in database.run(_VIRTUAL)),
    )


def _autoincrement(database: Database) -> frozenset[str]:
    candidates = database.run(
        "SELECT s.name, x.name FROM main.sqlite_schema AS s JOIN pragma_table_xinfo(s.name, 'main') AS x"
        " WHERE s.type = 'table' AND s.sql LIKE '%AUTOINCREMENT%' AND x.pk"
    )
    is_counted = database.connection.column_metadata
    return frozenset(table for table, column in candidates if is_counted("main", table, column)[4])
