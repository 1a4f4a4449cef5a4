"""The .sql files: every statement has a name, a description, and a schema it fits."""

import re
from pathlib import Path

import apsw
import pytest

import satchel.store
from satchel.store.statements import schema, statements

SOURCES = "".join(path.read_text() for path in Path(satchel.store.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("file", ["log", "objects"])
def test_every_statement_fits_the_schema(file: str):
    """A misspelled column would show only on the path that uses it."""
    db = apsw.Connection(":memory:")
    db.execute(schema(f"{file}_schema"))

    for text in statements(file).values():
        names = set(re.findall(r":(\w+)", text))
        db.execute(f"EXPLAIN {text}", dict.fromkeys(names)).fetchall()

    db.close()


@pytest.mark.parametrize("file", ["log", "objects"])
def test_no_statement_is_passed_over(file: str):
    """A header that the reader does not understand would lose its statement."""
    assert len(statements(file)) == schema(file).count("-- name:") == schema(file).count(";\n")


@pytest.mark.parametrize("file", ["log", "objects"])
def test_every_statement_is_used(file: str):
    """What nobody runs, nobody tests."""
    assert [name for name in statements(file) if f'"{name}"' not in SOURCES] == []


@pytest.mark.parametrize("file", ["log_schema", "objects_schema"])
def test_every_table_but_meta_begins_its_key_with_the_tenant(file: str):
    """Nothing of one tenant is visible to another: no key can leave it out."""
    db = apsw.Connection(":memory:")
    db.execute(schema(file))
    keys = """
        SELECT m.name, i.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS i
        WHERE m.type = 'table' AND i.pk = 1
    """

    first_columns = dict(db.execute(keys))

    assert first_columns.pop("meta") == "id"
    assert set(first_columns.values()) == {"tenant"}
    db.close()


def test_reading_what_is_unfinished_or_next_does_not_scan_the_transcript():
    """A session's ten-thousandth turn must start as quickly as its first."""
    db = apsw.Connection(":memory:")
    db.execute(schema("log_schema"))
    sql = statements("log")

    def plan(name: str) -> str:
        names = set(re.findall(r":(\w+)", sql[name]))
        return "\n".join(str(row[-1]) for row in db.execute(f"EXPLAIN QUERY PLAN {sql[name]}", dict.fromkeys(names)))

    assert "turn_unfinished" in plan("first_unfinished")
    assert "turn_unfinished" in plan("session")
    assert "turn_place" in plan("arrival")
    for name in ("session", "turn", "first_unfinished", "arrival", "start_turn", "commit_turn", "delta_links"):
        assert "SCAN" not in plan(name).replace("SCAN (", "")
    assert "SCAN" not in plan("trim_answers")
    db.close()
