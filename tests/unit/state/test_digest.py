"""The digest: equal for equal rows whatever the file looks like, different for any other row."""

import pytest

from satchel.state.digest import digest
from tests.unit.state.sessions import Recording

SCHEMA = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)"


def digest_after(*statements: str) -> bytes:
    with Recording(SCHEMA) as recording:
        for statement in statements:
            recording.turn(statement)
        assert recording.digest is not None
        return recording.digest


VALUES = (
    "NULL",
    "0",
    "0.0",
    "'0'",
    "x'30'",
    "1",
    "1.0",
    "''",
    "x''",
    "CAST(x'ff' AS TEXT)",
    "x'ff'",
    "9e999",
    "'a' || char(0)",
)


def test_values_of_every_type_are_told_apart():
    """1 is not 1.0 and not '1'; a copy that mixed them up would behave differently some day."""
    digests = {digest_after(f"INSERT INTO t VALUES (1, {value})") for value in VALUES}

    assert len(digests) == len(VALUES)


def test_minus_zero_is_zero():
    """SQLite holds them equal, so a delta does not carry the sign."""
    assert digest_after("INSERT INTO t VALUES (1, -0.0)") == digest_after("INSERT INTO t VALUES (1, 0.0)")


def test_the_way_to_the_rows_does_not_matter():
    """Order of insertion, deleted rows, free pages and versions leave no mark."""
    straight = digest_after("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    winding = digest_after(
        "INSERT INTO t VALUES (2, 'b'), (3, zeroblob(9999))",
        "DELETE FROM t WHERE a = 3",
        "INSERT INTO t VALUES (1, 'a')",
    )

    assert straight == winding


@pytest.mark.parametrize(
    "change", ["DELETE FROM t", "UPDATE t SET a = 3", "CREATE INDEX i ON t (b)", "CREATE TABLE u (a)"]
)
def test_rows_and_definitions_count(change: str):
    """Also an index: a copy without it would not refuse what the other does."""
    rows = "INSERT INTO t VALUES (1, 'a')"

    assert digest_after(rows) != digest_after(rows, change)


def test_a_value_does_not_move_to_the_next_column_unseen():
    """Values are delimited: 'ab','c' is not 'a','bc'."""
    schema = "CREATE TABLE t (a INTEGER PRIMARY KEY, b, c)"
    found = set()
    for row in ("'ab', 'c'", "'a', 'bc'", "'abc', ''"):
        with Recording(schema) as recording:
            recording.turn(f"INSERT INTO t VALUES (1, {row})")
            found.add(recording.digest)

    assert len(found) == 3


def test_rows_without_a_key_are_a_multiset():
    """VACUUM renumbers them; which came first is nobody's business, how many there are is."""
    with Recording() as recording:
        recording.turn("CREATE TABLE n (a); INSERT INTO n VALUES (1), ('a'), (1.0), (NULL)")
        one = recording.digest
        recording.turn("DELETE FROM n; INSERT INTO n VALUES ('a'), (NULL), (1.0), (1)")
        two = recording.digest
        recording.turn("INSERT INTO n VALUES (1)")

        assert one == two != recording.digest


def test_vacuum_changes_the_file_and_not_the_digest():
    """A compacted snapshot has other bytes and the same rows."""
    with Recording(
        f"{SCHEMA}; CREATE VIRTUAL TABLE f USING fts5(a); CREATE VIRTUAL TABLE g USING fts4(a)"
    ) as recording:
        for number in range(30):
            recording.turn(
                f"INSERT INTO f VALUES ('word n{number}'); INSERT INTO g VALUES ('word {number}');"
                f"INSERT INTO t VALUES ({number}, zeroblob(5000)); DELETE FROM t WHERE a = {number - 5}"
            )

        image, found = recording.session.compact()

        assert found == recording.digest == digest(recording.session._database)
        assert len(image) == recording.session.state_bytes


def test_the_widest_table_has_a_digest():
    """At SQLite's own bound of columns, with a key and without."""
    columns = ", ".join(f"c{number}" for number in range(1999))
    with Recording(f"CREATE TABLE t (a INTEGER PRIMARY KEY, {columns})") as recording:
        recording.turn("INSERT INTO t (a, c1998) VALUES (1, 'x'); CREATE TABLE n AS SELECT * FROM t")

        assert recording.copy().name == recording.session.name
