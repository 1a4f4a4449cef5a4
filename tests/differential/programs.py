"""Random schemas and turn programs from one seed, nasty on purpose. The same seed gives the same program."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

NASTY: tuple[Any, ...] = (
    *(0, 1, 2, -1, 7, 2**62, -(2**63), 1.0, 2.5, -0.0, 0.0, 1e300, float("inf")),
    *("", "a", "A", "a ", "b", "1", "1.0", "é", "a\0b", "x" * 3000),
    *(b"", b"a", b"\xff\x00", None),
)
TABLES = (
    "CREATE TABLE {t} (a INTEGER PRIMARY KEY, b, c)",
    "CREATE TABLE {t} (a INTEGER PRIMARY KEY AUTOINCREMENT, b, c)",
    "CREATE TABLE {t} (a INTEGER PRIMARY KEY, b UNIQUE, c)",
    "CREATE TABLE {t} (a INTEGER PRIMARY KEY, b TEXT COLLATE NOCASE UNIQUE, c REAL)",
    "CREATE TABLE {t} (a TEXT PRIMARY KEY, b, c) WITHOUT ROWID",
    "CREATE TABLE {t} (a REAL PRIMARY KEY, b, c) WITHOUT ROWID",
    "CREATE TABLE {t} (a NUMERIC PRIMARY KEY, b, c) WITHOUT ROWID",
    "CREATE TABLE {t} (a BLOB PRIMARY KEY, b ANY, c ANY) STRICT, WITHOUT ROWID",
    "CREATE TABLE {t} (a INTEGER, b TEXT, c, PRIMARY KEY (b, a)) WITHOUT ROWID",
    "CREATE TABLE {t} (a INTEGER PRIMARY KEY, b ANY, c ANY) STRICT",
    "CREATE TABLE {t} (a INTEGER PRIMARY KEY, b, c, d AS (typeof(b)) STORED, e AS (coalesce(c, 0)) UNIQUE)",
    "CREATE TABLE {t} (a INTEGER PRIMARY KEY, b INTEGER REFERENCES t0 (a) ON DELETE CASCADE ON UPDATE CASCADE, c)",
    "CREATE TABLE {t} (a INTEGER PRIMARY KEY, b INTEGER REFERENCES t0 (a) ON DELETE SET NULL, c CHECK (c <> 'b'))",
    "CREATE TABLE {t} (a INTEGER PRIMARY KEY, b INT REFERENCES t0 (a) DEFERRABLE INITIALLY DEFERRED, c)",
    "CREATE TABLE {t} (a INTEGER PRIMARY KEY, b DEFAULT (random()), c NOT NULL ON CONFLICT REPLACE DEFAULT 3)",
    "CREATE VIRTUAL TABLE {t} USING fts5(a, b, c)",
    "CREATE VIRTUAL TABLE {t} USING fts4(a, b, c)",
    "CREATE VIRTUAL TABLE {t} USING fts5(a, b, c, content='')",
)
TRIGGERS = (
    (
        "CREATE TRIGGER g{n} AFTER {event} ON {t} BEGIN INSERT INTO log (m, n) VALUES (random(), 1);"
        " UPDATE log SET n = n + 1 WHERE id % 2 = 0; DELETE FROM log WHERE id = 4; END"
    ),
    (
        "CREATE TRIGGER g{n} BEFORE {event} ON {t} WHEN (SELECT count(*) FROM log) > 5 BEGIN"
        " SELECT RAISE(ABORT, 'full'); END"
    ),
    (
        "CREATE TRIGGER g{n} AFTER {event} ON {t} WHEN (SELECT count(*) FROM log) > 2 BEGIN"
        " SELECT RAISE(ROLLBACK, 'lost'); END"
    ),
    "CREATE TRIGGER g{n} AFTER {event} ON {t} BEGIN UPDATE t0 SET c = coalesce(c, 0) || 'x' WHERE a < 3; END",
)


@dataclass
class Turn:
    """Steps of one turn, and how it ends: commit, undo before or undo after it was finished."""

    steps: list[tuple[str, Any]]
    end: str


@dataclass
class Program:
    seed: int
    schema: str
    turns: list[Turn] = field(default_factory=list)


def program(seed: int) -> Program:
    """Return the program of *seed*."""
    dice = random.Random(seed)  # noqa: S311  # a seed, not a secret
    names = [f"t{number}" for number in range(dice.randint(1, 4))]
    definitions = ["CREATE TABLE t0 (a INTEGER PRIMARY KEY, b, c)", "CREATE TABLE log (id INTEGER PRIMARY KEY, m, n)"]
    definitions += [dice.choice(TABLES).format(t=name) for name in names[1:]]
    is_virtual = {
        name for name, text in zip(names, definitions[:1] + definitions[2:], strict=True) if "VIRTUAL" in text
    }
    for number in range(dice.choice((0, 0, 1, 2))):
        on = dice.choice([name for name in names if name not in is_virtual])
        event = dice.choice(("INSERT", "UPDATE", "DELETE"))
        definitions.append(dice.choice(TRIGGERS).format(n=number, event=event, t=on))
    if dice.random() < 0.2:
        definitions.append(f"CREATE INDEX ix ON {names[0]} (b COLLATE NOCASE, c)")
    has_ddl = dice.random() < 0.3
    turns = [
        Turn(
            _all_steps(dice, names, has_ddl=has_ddl),
            dice.choices(("commit", "undo", "undo finished"), (8, 1, 1))[0],
        )
        for _ in range(dice.randint(2, 6))
    ]
    return Program(seed, ";\n".join(definitions), turns)


def _all_steps(dice: random.Random, names: list[str], *, has_ddl: bool) -> list[tuple[str, Any]]:
    """Return the steps of a turn; one turn in five has none of SQL, and so no recorder."""
    has_sql = dice.random() < 0.8
    times = dice.randint(0, 12)
    return [step for _ in range(times) for step in _steps(dice, names, has_sql=has_sql, has_ddl=has_ddl)]


def _steps(dice: random.Random, names: list[str], *, has_sql: bool, has_ddl: bool) -> Iterator[tuple[str, Any]]:
    kind = dice.random() if has_sql else dice.uniform(0.78, 0.95)
    if kind < 0.7:
        yield "sql", _change(dice, dice.choice(names))
    elif kind < 0.78:
        yield "sql", (dice.choice(("SAVEPOINT s", "SAVEPOINT r", "ROLLBACK TO s", "RELEASE s", "RELEASE r")), ())
    elif kind < 0.9:
        yield dice.choice(("set", "append", "append", "delete", "nested")), (dice.choice("xyz"), _json(dice))
    elif kind < 0.95:
        yield "say", dice.choice(("hello", "", "é" * 500))
    elif has_ddl:
        yield "sql", (_definition(dice, dice.choice(names)), ())


def _key(dice: random.Random) -> Any:
    return dice.choice((dice.choice(NASTY), dice.randrange(6), dice.randrange(6)))


def _change(dice: random.Random, t: str) -> tuple[str, tuple[Any, ...]]:
    value = dice.choice
    conflict = dice.choice(("IGNORE", "REPLACE", "ABORT", "FAIL"))
    if dice.random() < 0.2:
        conflict = "ROLLBACK"
    return dice.choice(
        (
            (f"INSERT OR {conflict} INTO {t} (a, b, c) VALUES (?, ?, ?)", (_key(dice), value(NASTY), value(NASTY))),
            (f"INSERT OR {conflict} INTO {t} (a, b, c) VALUES (?, ?, ?)", (_key(dice), _key(dice), value(NASTY))),
            (f"INSERT INTO {t} (b, c) VALUES (?, ?)", (value(NASTY), value(NASTY))),
            (
                f"INSERT INTO {t} (a, b) VALUES (?, ?) ON CONFLICT DO UPDATE SET c = 'up', b = a",
                (_key(dice), _key(dice)),
            ),
            (f"UPDATE OR {conflict} {t} SET {value('bc')} = ? WHERE a = ?", (value(NASTY), _key(dice))),
            (f"UPDATE OR {conflict} {t} SET a = ? WHERE a = ?", (_key(dice), _key(dice))),
            (f"UPDATE {t} SET b = c, c = b", ()),
            (f"UPDATE {t} SET a = a + 1", ()),
            (f"UPDATE {t} SET a = -a, c = -1.0 * c", ()),
            (f"UPDATE {t} SET c = CAST(x'ff41' AS TEXT) WHERE a = ?", (_key(dice),)),
            (f"DELETE FROM {t} WHERE a = ? OR b = ?", (_key(dice), value(NASTY))),
            (f"DELETE FROM {t}", ()),
            (f"INSERT OR IGNORE INTO {t} (a, b, c) SELECT a + 10, b, c FROM {t} LIMIT 20", ()),
            ("PRAGMA defer_foreign_keys = 1", ()),
            ("UPDATE log SET m = -0.0 WHERE m = 0.0", ()),
        )
    )


def _definition(dice: random.Random, t: str) -> str:
    n = dice.randrange(4)
    return dice.choice(
        (
            f"ALTER TABLE {t} ADD COLUMN z{n} DEFAULT 5",
            f"ALTER TABLE {t} ADD COLUMN y{n} NOT NULL DEFAULT 'y'",
            f"ALTER TABLE {t} DROP COLUMN c",
            f"ALTER TABLE {t} RENAME COLUMN b TO bb",
            f"ALTER TABLE {t} RENAME TO t{n + 1}",
            f"DROP TABLE IF EXISTS {t}",
            f"CREATE TABLE IF NOT EXISTS t{n} (a INTEGER PRIMARY KEY, b, c)",
            f"CREATE TABLE IF NOT EXISTS t{n} (a, b, c)",
            f"CREATE TABLE n{n} AS SELECT * FROM {t}",
            f"CREATE VIRTUAL TABLE IF NOT EXISTS t{n} USING fts5(a, b, c)",
            f"CREATE INDEX IF NOT EXISTS ix{n} ON {t} (b)",
            f"CREATE TRIGGER IF NOT EXISTS h{n} AFTER INSERT ON {t} BEGIN UPDATE t0 SET c = c + 1; END",
            f"DROP TRIGGER IF EXISTS g{n % 2}",
            "ANALYZE",
            "REINDEX",
            "UPDATE sqlite_sequence SET seq = seq + 10",
            "DELETE FROM sqlite_sequence",
            f"INSERT INTO {t} ({t}) VALUES ('optimize')",
            f"INSERT INTO {t} ({t}) VALUES ('rebuild')",
            f"INSERT INTO {t} ({t}) VALUES ('delete-all')",
        )
    )


def _json(dice: random.Random, depth: int = 2) -> Any:
    if depth and dice.random() < 0.5:
        items = [_json(dice, depth - 1) for _ in range(dice.randrange(3))]
        return items if dice.random() < 0.5 else {str(index): item for index, item in enumerate(items)}
    return dice.choice((None, True, 0, -1, 2**70, 1.5, -0.0, "", "é", "a\0b"))
