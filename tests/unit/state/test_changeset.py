"""The bytes of known changes are those that SQLite's session extension records."""

import apsw
import pytest

from satchel.state import tables
from satchel.state.changeset import Value, deleted, encoded, inserted, table_header, updated

TABLE = "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c BLOB) STRICT"
HEADER = table_header("t", columns=3)
ROWS: tuple[tuple[Value, ...], ...] = (
    (1, "b", b"c"),
    (-(2**63), None, None),
    (2**63 - 1, "é\0", b"\0\xff"),
    *((5, "x" * size, bytes(size)) for size in (0, 0x7F, 0x80, 0x3FFF, 0x4000, 0x1FFFFF, 0x200000)),
)
PAIRS = [(row, other) for row in ROWS[:5] for other in ROWS[:5] if row[1:] != other[1:]]


def recorded(before: tuple[Value, ...] | None, after: tuple[Value, ...] | None) -> bytes:
    """Return what SQLite's recorder says of a row that was *before* and is *after*."""
    connection = apsw.Connection(":memory:")
    connection.execute(TABLE)
    if before is not None:
        connection.execute("INSERT INTO t VALUES (?, ?, ?)", before)
    recorder = apsw.Session(connection, "main")
    recorder.attach()
    if before is None:
        connection.execute("INSERT INTO t VALUES (?, ?, ?)", after)
    elif after is None:
        connection.execute("DELETE FROM t WHERE a = ?", before[:1])
    else:
        connection.execute("UPDATE t SET b = ?, c = ? WHERE a = ?", (*after[1:], before[0]))
    return recorder.changeset()


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_rows_come_and_go_as_sqlite_says_it(row: tuple[Value, ...]):
    """A length or a type that is off by one makes every copy of a session refuse its next turn, or lie."""
    assert HEADER + inserted(row) == recorded(None, row)
    assert HEADER + deleted(row) == recorded(row, None)


@pytest.mark.parametrize(("before", "after"), PAIRS, ids=range(len(PAIRS)))
def test_rows_change_as_sqlite_says_it(before: tuple[Value, ...], after: tuple[Value, ...]):
    """A value that stays is not named, nor is the key's second time."""
    after = (before[0], *after[1:])

    assert HEADER + updated(before, after) == recorded(before, after)


def test_text_that_sqlite_refuses_is_refused():
    """Half a surrogate pair is no UTF-8, and reaches no row."""
    with pytest.raises(UnicodeEncodeError):
        encoded("\ud800")


@pytest.mark.parametrize("name", tables.STATEMENTS)
def test_the_key_of_our_tables_is_their_first_column_and_their_values_have_one_type(name: str):
    """The header says which column is the key: a receiver whose table has another skips the change."""
    connection = apsw.Connection(":memory:")
    connection.execute(tables.STATEMENTS[name])

    columns = connection.execute(f"SELECT pk, type FROM pragma_table_info('{name}')").fetchall()

    assert [key for key, _ in columns] == [1] + [0] * (len(columns) - 1)
    assert {kind for _, kind in columns} <= {"INTEGER", "TEXT", "BLOB"}
    assert "STRICT" in tables.STATEMENTS[name]
