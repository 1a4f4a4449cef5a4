"""Declared schemas: numbered, named by what the tables are, and the same wherever they are built."""

import subprocess
import sys

import pytest

from satchel import limits
from satchel.errors import SchemaRefused
from satchel.state.schema import Schema
from tests.unit.state.sessions import Recording

SCHEMA = "CREATE TABLE t (a INTEGER PRIMARY KEY, b);"


def test_each_migration_raises_the_number():
    """The number is what builds and sessions are compared by."""
    assert Schema.declare("").number == 1
    assert Schema.declare(SCHEMA, ["CREATE INDEX i ON t (b)", "DROP INDEX i"]).number == 3


def test_the_fingerprint_is_that_of_the_tables():
    """A changed column changes it; what stands around the definitions does not."""
    plain = Schema.declare(SCHEMA).name.fingerprint

    assert len(plain) == 32
    assert Schema.declare(f"-- a comment\n\n{SCHEMA}").name.fingerprint == plain
    assert Schema.declare(SCHEMA.replace("b", "c")).name.fingerprint != plain
    assert Schema.declare(SCHEMA, ["CREATE INDEX i ON t (b)", "DROP INDEX i"]).name.fingerprint == plain


def test_a_session_has_the_declared_name_whether_made_or_migrated():
    """A session that went through the migrations is the same as one made after them."""
    migrations = ("ALTER TABLE t ADD COLUMN c", "CREATE VIRTUAL TABLE f USING fts5(a)")
    with Recording(SCHEMA, migrations) as made, Recording(SCHEMA) as migrated:
        migrated.turn()
        migrated.schema = made.schema
        migrated.turn()

        assert made.session.schema == migrated.session.schema == made.schema.name


def test_rows_that_a_schema_inserts_are_there_at_the_first_turn():
    """Version 0 has them, and the first snapshot carries them."""
    with Recording(f"{SCHEMA} INSERT INTO t VALUES (1, 'seed')") as recording:
        assert recording.begin().state.execute("SELECT b FROM t").scalar() == "seed"


def test_a_migration_is_linted_too():
    """The message says which of several texts it is."""
    with pytest.raises(SchemaRefused, match=r"Migration 1 \(to schema number 2\) would lose rows. Table u"):
        Schema.declare(SCHEMA, ["CREATE TABLE u (a TEXT)"])


def test_a_refusal_carries_its_findings_as_facts():
    """A tool that shows them needs no parser."""
    with pytest.raises(SchemaRefused) as caught:
        Schema.declare("CREATE TABLE t (a TEXT); CREATE TABLE u (a TEXT PRIMARY KEY)")

    assert [finding["table"] for finding in caught.value.details["findings"]] == ["t", "u"]


def test_a_schema_past_its_bound_is_refused():
    """At the bound it is taken."""
    filled = SCHEMA + " " * (limits.SQL_BYTES_MAX - len(SCHEMA))

    assert Schema.declare(filled).number == 1
    with pytest.raises(SchemaRefused, match="characters"):
        Schema.declare(filled + " ")


def test_an_old_sqlite_is_refused_by_name():
    """Older releases crash on hostile changesets: better not to start."""
    program = "import apsw; apsw.sqlite_lib_version = lambda: '3.53.4'; import satchel.state"

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert result.returncode == 1
    assert "needs apsw with SQLite 3.54 or later" in result.stderr
