"""What SQLite's changesets cannot carry, case by case: refused when declared or run, or carried whole.

Each case was seen to lose rows without an error when a changeset is recorded
and applied with SQLite's defaults. The verdict says what happens here instead.
"""

import apsw
import pytest

from satchel.errors import SchemaRefused, StateMisused
from satchel.model import PayloadKind
from satchel.state.schema import Schema
from tests.differential.dumps import dump
from tests.unit.state.sessions import Recording

REFUSED = {
    "no primary key": ("CREATE TABLE t (a, b)", "no PRIMARY KEY"),
    "unique is no key": ("CREATE TABLE t (a TEXT UNIQUE NOT NULL)", "no PRIMARY KEY"),
    "key may be NULL": ("CREATE TABLE t (a TEXT PRIMARY KEY)", "WITHOUT ROWID"),
    "composite key may be NULL": ("CREATE TABLE t (a, b, PRIMARY KEY (a, b))", "WITHOUT ROWID"),
    "row IDs are not carried": ("CREATE TABLE t (a TEXT PRIMARY KEY NOT NULL)", "WITHOUT ROWID"),
    "STRICT row IDs are not carried": ("CREATE TABLE t (a TEXT PRIMARY KEY) STRICT", "WITHOUT ROWID"),
    "NOCASE key": ("CREATE TABLE t (a TEXT COLLATE NOCASE PRIMARY KEY) WITHOUT ROWID", "BINARY"),
    "RTRIM key": ("CREATE TABLE t (a TEXT, PRIMARY KEY (a COLLATE RTRIM)) WITHOUT ROWID", "BINARY"),
    "typeless key": ("CREATE TABLE t (a PRIMARY KEY) WITHOUT ROWID", "type INTEGER or TEXT"),
    "ANY key": ("CREATE TABLE t (a ANY PRIMARY KEY) STRICT, WITHOUT ROWID", "type INTEGER or TEXT"),
    "BLOB key of any type": ("CREATE TABLE t (a BLOB PRIMARY KEY) WITHOUT ROWID", "STRICT with BLOB"),
    "descending key": ("CREATE TABLE t (a INTEGER PRIMARY KEY DESC)", "Leave out DESC"),
    "foreign collation": ("CREATE TABLE t (a INTEGER PRIMARY KEY, b COLLATE zz)", "zz"),
    "foreign collation in a check": (
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b CHECK (b COLLATE zz <> ''))",
        "NOCASE or RTRIM",
    ),
    "foreign function in a check": ("CREATE TABLE t (a INTEGER PRIMARY KEY, b CHECK (f(b)))", "no such function: f"),
    "foreign function in an index": (
        "CREATE TABLE t (a INTEGER PRIMARY KEY); CREATE INDEX i ON t (f(a))",
        "CREATE INDEX i ON t (f(a))",
    ),
    "unrecorded module": ("CREATE VIRTUAL TABLE t USING fts3(a)", "fts5, fts4 or rtree"),
    "module without rows": ("CREATE VIRTUAL TABLE t USING dbstat", "fts5, fts4 or rtree"),
    "UTF-16": ("PRAGMA encoding = 'UTF-16'", "PRAGMA encoding"),
    "pragma": ("PRAGMA user_version = 3", "PRAGMA user_version"),
    "our name": ("CREATE TABLE _SATCHEL_mine (a INTEGER PRIMARY KEY)", "belong to Satchel"),
    "our name by renaming": (
        "CREATE TABLE t (a INTEGER PRIMARY KEY); ALTER TABLE t RENAME TO _satchel_t",
        "belong to Satchel",
    ),
    "a reference to our table": (
        "CREATE TABLE t (a INTEGER PRIMARY KEY, k TEXT REFERENCES _Satchel_values (key) ON DELETE CASCADE)",
        "Leave out REFERENCES",
    ),
    "index on our table": ("CREATE INDEX i ON _satchel_history (type)", "belong to Satchel"),
    "trigger on our table": (
        "CREATE TRIGGER g AFTER INSERT ON _satchel_values BEGIN SELECT 1; END",
        "belong to Satchel",
    ),
    "write to our table": ("INSERT INTO _satchel_values VALUES ('a', '1')", "belongs to Satchel"),
    "reserved name": ("CREATE TABLE sqlite_t (a INTEGER PRIMARY KEY)", "reserved"),
    "temporary table": ("CREATE TEMP TABLE t (a INTEGER PRIMARY KEY)", "Temporary"),
    "transaction": ("BEGIN; CREATE TABLE t (a INTEGER PRIMARY KEY); COMMIT", "BEGIN is refused"),
    "savepoint": ("SAVEPOINT a", "savepoints"),
    "vacuum": ("VACUUM", "VACUUM"),
    "attach": ("ATTACH ':memory:' AS other", "ATTACH"),
    "load extension": ("SELECT load_extension('x')", "load_extension"),
    "schema by hand": ("UPDATE sqlite_schema SET sql = 'x'", "may not be modified"),
    "mistyped": ("CREATE TABLE a (x INTEGER PRIMARY KEY);\nCREATE TABEL t (a)", "CREATE TABEL t (a)"),
    "row that does not fit": (
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b CHECK (b > 1)); INSERT INTO t VALUES (1, 1)",
        "INSERT INTO t VALUES (1, 1)",
    ),
    "half a character": ("\ud800", "surrogates"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_schema_that_would_lose_rows_is_refused_with_the_fix(case: str):
    """The author learns at start what would be lost in some turn, months later, without a word."""
    schema, fix = REFUSED[case]

    with pytest.raises(SchemaRefused) as caught:
        Schema.declare(schema)

    assert fix in str(caught.value)


DELTA, SNAPSHOT, MISUSED = "delta", "snapshot", "misused"
T = "CREATE TABLE t (a INTEGER PRIMARY KEY, b, c)"
FILLED = "INSERT INTO t VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 3)"
COUNTED = "CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, b)"
FTS = "CREATE VIRTUAL TABLE f USING fts5(b)"
EXTERNAL = f"""{T}; CREATE VIRTUAL TABLE f USING fts5(b, content='t', content_rowid='a');
CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO f (rowid, b) VALUES (new.a, new.b); END;
CREATE TRIGGER d AFTER DELETE ON t BEGIN INSERT INTO f (f, rowid, b) VALUES ('delete', old.a, old.b); END"""
FAMILY = """CREATE TABLE p (a INTEGER PRIMARY KEY);
CREATE TABLE t (a INTEGER PRIMARY KEY, b REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE,
                c REFERENCES p ON DELETE SET NULL)"""
KIN = "INSERT INTO p VALUES (1), (2); INSERT INTO t VALUES (1, 1, 2), (2, 2, 1)"

CASES = {
    # keys and values
    "plain rows": (T, FILLED, "INSERT INTO t VALUES (9, 9, 9); UPDATE t SET b = 0 WHERE a = 1", DELTA),
    "largest integers": (T, FILLED, f"INSERT INTO t VALUES ({2**63 - 1}, {-(2**63)}, 0)", DELTA),
    "text key": ("CREATE TABLE t (a TEXT PRIMARY KEY, b) WITHOUT ROWID", "", "INSERT INTO t VALUES ('k', 1)", DELTA),
    "strict blob key": (
        "CREATE TABLE t (a BLOB PRIMARY KEY) STRICT, WITHOUT ROWID",
        "INSERT INTO t VALUES (x'00')",
        "UPDATE t SET a = x'0000'",
        DELTA,
    ),
    "composite key": (
        "CREATE TABLE t (a INT, b TEXT, PRIMARY KEY (b, a)) WITHOUT ROWID",
        "INSERT INTO t VALUES (1, 'x')",
        "UPDATE t SET b = 'y'",
        DELTA,
    ),
    "real key to minus zero": (
        "CREATE TABLE t (a REAL PRIMARY KEY, b) WITHOUT ROWID",
        "INSERT INTO t VALUES (0.0, 1)",
        "UPDATE t SET a = -0.0, b = 2",
        DELTA,
    ),
    "900 columns": (
        f"CREATE TABLE t (a INTEGER PRIMARY KEY, {', '.join(f'b{n}' for n in range(900))})",
        "INSERT INTO t (a) VALUES (1)",
        "UPDATE t SET b899 = 7",
        DELTA,
    ),
    "odd names": (
        'CREATE TABLE "a ""b" ("select" INTEGER PRIMARY KEY, "é" TEXT)',
        "",
        'INSERT INTO "a ""b" VALUES (1, 2)',
        DELTA,
    ),
    "key moves": (T, FILLED, "UPDATE t SET a = a + 1 WHERE a = 3; UPDATE t SET a = -a", DELTA),
    "all keys shift": (T, FILLED, "UPDATE t SET a = a + 10", DELTA),
    "unique swap": (
        f"{T}; CREATE UNIQUE INDEX u ON t (c)",
        FILLED,
        "UPDATE t SET c = -c; UPDATE t SET c = 4 + c",
        DELTA,
    ),
    "upsert": (T, FILLED, "INSERT INTO t (a, b) VALUES (1, 'x') ON CONFLICT DO UPDATE SET b = excluded.b", DELTA),
    "replace": (T, FILLED, "INSERT OR REPLACE INTO t VALUES (1, 'x', NULL)", DELTA),
    "delete all": (T, FILLED, "DELETE FROM t", DELTA),
    "infinity and NaN": (T, FILLED, "UPDATE t SET b = 9e999, c = 9e999 - 9e999", DELTA),
    "same value, other type": (T, FILLED, "UPDATE t SET c = 1.0 WHERE c = 1; UPDATE t SET b = CAST(b AS BLOB)", DELTA),
    "minus zero": (T, "INSERT INTO t VALUES (1, 0.0, 0)", "UPDATE t SET b = -0.0", DELTA),
    "text with NUL": (T, FILLED, "UPDATE t SET b = 'a' || char(0) || 'b'", DELTA),
    "text that is no UTF-8": (T, FILLED, "UPDATE t SET b = CAST(x'ff41' AS TEXT)", DELTA),
    "large blob": (T, FILLED, "UPDATE t SET b = zeroblob(3000000)", DELTA),
    "no row": (T, FILLED, "SELECT 1", DELTA),
    "rolled back to a savepoint": (T, FILLED, "SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; RELEASE s", DELTA),
    # what SQL makes SQL do
    "generated columns": (
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b, c AS (b * 2) STORED, d AS (b * 3) UNIQUE)",
        "INSERT INTO t (a, b) VALUES (1, 1)",
        "UPDATE t SET b = 5; INSERT INTO t (b) VALUES (6)",
        DELTA,
    ),
    "triggers": (
        (
            f"{T}; CREATE TABLE l (a INTEGER PRIMARY KEY, r);"
            "CREATE TRIGGER g AFTER UPDATE ON t BEGIN INSERT INTO l (r) VALUES (random()); UPDATE l SET r = r + 1; END"
        ),
        FILLED,
        "UPDATE t SET b = 0",
        DELTA,
    ),
    "view with a trigger": (
        (
            f"{T}; CREATE VIEW v AS SELECT b FROM t;"
            "CREATE TRIGGER g INSTEAD OF INSERT ON v BEGIN INSERT INTO t (b) VALUES (new.b); END"
        ),
        FILLED,
        "INSERT INTO v VALUES ('through')",
        DELTA,
    ),
    "foreign keys cascade": (FAMILY, KIN, "DELETE FROM p WHERE a = 1; UPDATE p SET a = 7", DELTA),
    "broken deferred foreign key": (
        FAMILY.replace("ON DELETE SET NULL", "DEFERRABLE INITIALLY DEFERRED"),
        KIN,
        "INSERT INTO t VALUES (3, 1, 99)",
        MISUSED,
    ),
    # sequences
    "autoincrement": (COUNTED, "INSERT INTO t (b) VALUES (1)", "INSERT INTO t (b) VALUES (2), (3)", DELTA),
    "autoincrement, first row": (COUNTED, "", "INSERT INTO t (b) VALUES (2)", DELTA),
    "autoincrement, inserted and deleted": (COUNTED, "", "INSERT INTO t (b) VALUES (2); DELETE FROM t", SNAPSHOT),
    "autoincrement, key moved up": (COUNTED, "INSERT INTO t (b) VALUES (1)", "UPDATE t SET a = 50", SNAPSHOT),
    "autoincrement, negative key": (COUNTED, "", "INSERT INTO t VALUES (-5, 1)", DELTA),
    "autoincrement, word in a comment": (f"{T} /* no AUTOINCREMENT */", FILLED, "INSERT INTO t (b) VALUES (9)", DELTA),
    "sequence by hand": (COUNTED, "INSERT INTO t (b) VALUES (1)", "UPDATE sqlite_sequence SET seq = 90", SNAPSHOT),
    # virtual tables
    "fts5": (
        FTS,
        "INSERT INTO f VALUES ('old words')",
        "INSERT INTO f VALUES ('new words'); DELETE FROM f WHERE rowid = 1",
        DELTA,
    ),
    "fts5 without content": (
        "CREATE VIRTUAL TABLE f USING fts5(b, content='')",
        "",
        "INSERT INTO f (rowid, b) VALUES (3, 'x')",
        DELTA,
    ),
    "fts5 with content elsewhere": (
        EXTERNAL,
        FILLED,
        "DELETE FROM t WHERE a = 2; INSERT INTO t (b) VALUES ('nine')",
        DELTA,
    ),
    "fts4": (
        "CREATE VIRTUAL TABLE f USING fts4(b)",
        "INSERT INTO f VALUES ('old words')",
        "INSERT INTO f VALUES ('new words')",
        DELTA,
    ),
    "rtree": (
        "CREATE VIRTUAL TABLE r USING rtree(id, x0, x1, +note)",
        "INSERT INTO r VALUES (1, 0, 1, 'a')",
        "INSERT INTO r VALUES (2, 0, 9, 'b'); UPDATE r SET x1 = 5 WHERE id = 1",
        DELTA,
    ),
    # definitions
    "table made and filled": (T, FILLED, "CREATE TABLE n (a INTEGER PRIMARY KEY); INSERT INTO n VALUES (1)", SNAPSHOT),
    "table made without a key": (T, FILLED, "CREATE TABLE n (a); INSERT INTO n VALUES (1)", SNAPSHOT),
    "index": (T, FILLED, "CREATE INDEX i ON t (b)", SNAPSHOT),
    "column added": (T, FILLED, "ALTER TABLE t ADD COLUMN d DEFAULT 5; UPDATE t SET d = 6 WHERE a = 1", SNAPSHOT),
    "column dropped after a change": (T, FILLED, "UPDATE t SET b = 0; ALTER TABLE t DROP COLUMN c", SNAPSHOT),
    "column renamed after a change": (T, FILLED, "UPDATE t SET b = 0; ALTER TABLE t RENAME COLUMN b TO z", SNAPSHOT),
    "table dropped after a change": (T, FILLED, "UPDATE t SET b = 0; DROP TABLE t", SNAPSHOT),
    "table renamed after a change": (T, FILLED, "UPDATE t SET b = 0; ALTER TABLE t RENAME TO u", SNAPSHOT),
    "table dropped and made": (T, FILLED, f"DROP TABLE t; {T}; INSERT INTO t VALUES (1, 1, 1)", SNAPSHOT),
    "table made in a savepoint that is undone": (
        T,
        FILLED,
        "SAVEPOINT s; CREATE TABLE n (a INTEGER PRIMARY KEY); INSERT INTO n VALUES (1); ROLLBACK TO s; RELEASE s",
        SNAPSHOT,
    ),
    "column added in a savepoint that is undone": (
        T,
        FILLED,
        "SAVEPOINT s; ALTER TABLE t ADD COLUMN d; UPDATE t SET d = 1, b = 0; ROLLBACK TO s; UPDATE t SET b = 7",
        SNAPSHOT,
    ),
    "analyze": (f"{T}; CREATE INDEX i ON t (b)", FILLED, "ANALYZE", SNAPSHOT),
    "reindex": (f"{T}; CREATE INDEX i ON t (b)", FILLED, "REINDEX", SNAPSHOT),
    "our name by renaming": (T, FILLED, "ALTER TABLE t RENAME TO _satchel_t", MISUSED),
    # what a changeset never sees
    "user_version": (T, FILLED, "PRAGMA user_version = 5", MISUSED),
    "application_id": (T, FILLED, "PRAGMA application_id = 5", MISUSED),
    "writable_schema": (T, FILLED, "PRAGMA writable_schema = 1", MISUSED),
    "recursive_triggers": (T, FILLED, "PRAGMA recursive_triggers = 0", MISUSED),
    "foreign_keys": (T, FILLED, "PRAGMA foreign_keys = 0", MISUSED),
    "temporary table": (T, FILLED, "CREATE TEMP TABLE n (a)", MISUSED),
    "attach": (T, FILLED, "ATTACH ':memory:' AS other", MISUSED),
    "vacuum": (T, FILLED, "VACUUM", MISUSED),
    "begin": (T, FILLED, "BEGIN", MISUSED),
    "commit": (T, FILLED, "COMMIT", MISUSED),
    "rollback": (T, FILLED, "ROLLBACK", MISUSED),
    "our table": (T, FILLED, "UPDATE _satchel_turn SET version = 9", MISUSED),
    "our table by delete": (T, FILLED, "DELETE FROM _satchel_history", MISUSED),
    "rollback by conflict": (T, FILLED, "INSERT OR ROLLBACK INTO t VALUES (1, 1, 1)", MISUSED),
}


@pytest.mark.parametrize("case", CASES)
def test_no_row_of_a_turn_is_lost(case: str):
    """The turn is carried exactly, as a delta where one suffices, or it is refused and leaves no trace."""
    schema, base, work, verdict = CASES[case]
    with Recording(schema) as recording:
        recording.turn(base)
        recording.turn()
        before = dump(recording.session)

        if verdict == MISUSED:
            with pytest.raises(apsw.SQLError if case == "vacuum" else (StateMisused, apsw.ConstraintError)):
                recording.turn(work)
            recording.session.rollback()
            assert dump(recording.session) == before
        else:
            recorded = recording.turn(work)
            assert (recorded.kind, bool(recorded.reasons)) == (PayloadKind(verdict), verdict == SNAPSHOT), (
                recorded.reasons
            )
            assert dump(recording.copy()) == dump(recording.session)
            assert recording.turn().kind is PayloadKind.DELTA or "without a key" in case


def test_a_delete_prepared_before_the_recorder_is_seen():
    """SQLite empties a table without telling a recorder when it prepared the DELETE before there was one."""
    with Recording(T) as recording:
        recording.turn(FILLED)
        recording.turn("DELETE FROM t")
        recording.turn(FILLED)

        recorded = recording.turn("DELETE FROM t")

        assert recorded.changed_rows == {"t": (0, 0, 3)}
        assert recording.copy().name == recording.session.name


def test_a_statement_that_is_kept_prepared_is_judged_in_every_turn():
    """SQLite asks what a statement does when it prepares it, and it is prepared once: a repeat does the same."""
    with Recording(T) as recording:
        recording.turn(f"{FILLED}; CREATE INDEX i ON t (b)")
        recording.turn("ANALYZE")
        write = "DELETE FROM sqlite_stat1 WHERE idx = 'none'"

        kinds = [recording.turn(write).kind for _ in range(3)]

        assert kinds == [PayloadKind.SNAPSHOT] * 3
        assert recording.turn("DELETE FROM t WHERE a = 1").kind is PayloadKind.DELTA


def test_a_table_without_a_key_is_carried_whole_ever_after():
    """A handler may define what the lint refuses; then every turn is a snapshot, and says why."""
    with Recording(T) as recording:
        recording.turn("CREATE TABLE n (a)")

        recorded = recording.turn("INSERT INTO n VALUES (7)")

        assert recorded.kind is PayloadKind.SNAPSHOT
        assert "no PRIMARY KEY" in recorded.reasons[0]
        assert dump(recording.copy()) == dump(recording.session)


def test_full_text_search_stays_sound_on_copies_that_take_turns():
    """FTS5 remembers its index per connection; deltas applied beneath it would corrupt the index."""
    with Recording(FTS) as recording:
        recording.turn("INSERT INTO f VALUES ('word')")
        other = recording.copy()
        for number in range(20):
            recording.turn(f"INSERT INTO f VALUES ('word n{number}'); DELETE FROM f WHERE rowid = {number}")
            recording.session, other = other, recording.session
            recording.session.catch_up(
                recording.chain[-1:], base=other.name, schema=other.schema, digest=recording.digest
            )

            recording.begin()
            found = recording.session.state.execute(f"SELECT count(*) FROM f('n{number}')").scalar()
            recording.session.state.execute("INSERT INTO f (f, rank) VALUES ('integrity-check', 1)")
            recording.session.rollback()

            assert found == 1
        other.close()
