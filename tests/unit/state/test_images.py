"""Hostile and damaged images: refused in milliseconds, with nothing of theirs run."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from satchel import limits
from satchel.errors import CorruptPayload, CorruptState, StateError
from satchel.model import Link, PayloadKind
from satchel.state import image as images
from satchel.state.payload import seal
from satchel.state.session import OpenSession
from tests.unit.state.sessions import KEY, Recording

SCHEMA = "CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t (b)"


@pytest.fixture
def recording():
    with Recording(SCHEMA) as recording:
        recording.turn("INSERT INTO t VALUES (1, 'x'), (2, 'y')")
        yield recording


def opened(recording: Recording, image: bytes) -> OpenSession:
    link = Link(recording.session.name, seal(PayloadKind.SNAPSHOT, image))
    return OpenSession.from_chain(
        KEY.session_id, [link], base=link.name, schema=recording.session.schema, digest=recording.digest
    )


def image_of(recording: Recording) -> bytes:
    return recording.session._database.image()


def edited(image: bytes, *statements: str) -> bytes:
    """Return the image after a hand with no scruples was in it."""
    connection = apsw.Connection(":memory:")
    connection.deserialize("main", image)
    connection.config(apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1)
    for statement in statements:
        connection.execute(statement).fetchall()
    image = connection.serialize("main")
    connection.close()
    return image


def put(position: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda image: image[:position] + value + image[position + len(value) :]


def shortened_index(image: bytes) -> bytes:
    """Return the image with index i one entry short: its page says so, and nothing else does."""
    connection = apsw.Connection(":memory:")
    connection.deserialize("main", image)
    ((page,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'i'").fetchall()
    connection.close()
    cells = (page - 1) * 4096 + 3
    return put(cells, (int.from_bytes(image[cells : cells + 2], "big") - 1).to_bytes(2, "big"))(image)


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _image: b"",
    "not a database": lambda image: b"x" * len(image),
    "cut": lambda image: image[: len(image) // 2 + 100],
    "cut at a page": lambda image: image[:4096],
    "page size of 3": put(16, b"\0\3"),
    "write-ahead log": put(18, b"\2\2"),
    "4 G pages": put(28, b"\xff\xff\xff\xff"),
    "first page of noise": lambda image: image[:100] + random.Random(1).randbytes(3996) + image[4096:],  # noqa: S311  # a seed
    "UTF-16": put(56, b"\0\0\0\2"),
    "planted trigger": lambda image: edited(
        image, "CREATE TRIGGER g AFTER UPDATE ON _satchel_turn BEGIN DELETE FROM t; END"
    ),
    "planted trigger on a table": lambda image: edited(image, "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END"),
    "planted view": lambda image: edited(image, "CREATE VIEW v AS SELECT load_extension('x')"),
    "view for a table": lambda image: edited(image, "DROP TABLE t", "CREATE VIEW t AS SELECT 1 AS a, 2 AS b"),
    "view for our table": lambda image: edited(
        image,
        "DROP TABLE _satchel_turn",
        "CREATE VIEW _satchel_turn AS SELECT 1 AS id, 'alice' AS session_id, 1 AS version, 1 AS schema_number",
    ),
    "our table with a check of its own": lambda image: edited(
        image,
        "UPDATE sqlite_schema SET sql = replace(sql, 'version INTEGER', 'version INT') WHERE name = '_satchel_turn'",
    ),
    "index expression that builds a giant": lambda image: edited(
        image, "CREATE INDEX k ON t (length(replace(hex(zeroblob(20000)), '00', hex(zeroblob(a * 1000)))))"
    ),
    "changed row": lambda image: edited(image, "UPDATE t SET b = 'z' WHERE a = 2"),
    "other session": lambda image: edited(image, "UPDATE _satchel_turn SET session_id = 'bob'"),
    "two turns": lambda image: edited(image, "INSERT INTO _satchel_turn VALUES (2, 'alice', 1, 1, x'', 1)"),
    "index that lacks a row": shortened_index,
    "definition that is not UTF-8": lambda image: edited(
        image,
        "UPDATE sqlite_schema SET sql = CAST(CAST(replace(sql, ', b', ', b /*') AS BLOB) || x'952a2f29' AS TEXT)"
        " WHERE name = 't'",
    ),
    "name that is a blob": lambda image: edited(
        image, "UPDATE sqlite_schema SET name = CAST(name AS BLOB) WHERE name = 't'"
    ),
    "table's name that is a blob": lambda image: edited(
        image, "UPDATE sqlite_schema SET tbl_name = CAST(tbl_name AS BLOB) WHERE name = 'i'"
    ),
    "damage in a column that is not UTF-8": lambda image: edited(
        image,
        "UPDATE sqlite_schema SET"
        " sql = CAST('CREATE TABLE t (a INTEGER PRIMARY KEY, ' || x'94' || ' INTEGER) STRICT' AS TEXT)"
        " WHERE name = 't'",
        "UPDATE sqlite_schema SET sql = CAST('CREATE INDEX i ON t (' || x'94' || ')' AS TEXT) WHERE name = 'i'",
    ),
    "session that is not UTF-8": lambda image: edited(
        image, "UPDATE _satchel_turn SET session_id = CAST(x'95' AS TEXT)"
    ),
}


@pytest.fixture(params=["in memory", "by a file"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Open images the one way and the other, whatever their size; no file must be left."""
    if request.param == "by a file":
        monkeypatch.setattr(images, "FILE_OVER_BYTES", -1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_image_is_refused(recording: Recording, fault: str):
    """A worker opens what a hub sends, and a rebuild opens what a worker sent: neither trusts a byte of it."""
    image = HOSTILE[fault](image_of(recording))

    with pytest.raises(StateError):
        opened(recording, image)


@pytest.mark.usefixtures("way")
def test_the_image_without_a_fault_is_opened(recording: Recording):
    """The cases above fail for their fault, not for how they are made."""
    opened(recording, edited(image_of(recording))).close()


def test_a_large_image_goes_by_a_file_if_there_is_room_for_one(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A worker on a read-only disk still serves; it lets others wait a little longer."""
    monkeypatch.setattr(images, "FILE_OVER_BYTES", len(image_of(recording)) - 1)
    ways: list[str] = []
    for name in ("_opened_by_file", "opened_image"):
        monkeypatch.setattr(images, name, noted(ways, name, getattr(images, name)))

    opened(recording, image_of(recording)).close()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    opened(recording, image_of(recording)).close()
    monkeypatch.setattr(images, "FILE_OVER_BYTES", len(image_of(recording)))
    opened(recording, image_of(recording)).close()

    assert ways == ["_opened_by_file", "_opened_by_file", "opened_image", "opened_image"]


def noted(ways: list[str], name: str, way: Callable[..., Any]) -> Callable[..., Any]:
    def note(*arguments: Any) -> Any:
        ways.append(name)
        return way(*arguments)

    return note


def test_equal_definitions_are_surveyed_once(recording: Recording):
    """A thousand sessions of an agent have one schema; what a copy knows of it is one object."""
    first, second = opened(recording, image_of(recording)), opened(recording, image_of(recording))

    assert first._facts is second._facts
    first.close()
    second.close()


def test_an_image_past_the_bound_is_refused(recording: Recording):
    """Before a byte of it is read as a database."""
    image = image_of(recording) + bytes(limits.STATE_BYTES_MAX)

    with pytest.raises(CorruptPayload, match="over its bound"):
        opened(recording, image)


def test_damage_is_found_wherever_it_is(recording: Recording):
    """A changed byte is refused, or lies where no row lives: what opens has the right digest."""
    image = image_of(recording)
    dice = random.Random(7)  # noqa: S311  # a seed, not a secret
    refused = 0

    for _ in range(300):
        position = dice.randrange(len(image))
        damaged = put(position, bytes([dice.randrange(256)]))(image)
        try:
            opened(recording, damaged).close()
        except StateError:
            refused += 1

    assert refused > 10


def test_nothing_of_a_connection_reaches_the_handler(recording: Recording):
    """A raw connection could end the transaction, or the recorder, without a word."""
    state = recording.begin().state

    assert not [name for name in dir(state) if not name.startswith("_") and "connection" in name]
    recording.session.rollback()


def test_a_corrupt_state_names_what_is_wrong(recording: Recording):
    """An operator reads this at night."""
    with pytest.raises(CorruptState, match="no sound header"):
        opened(recording, b"x" * 4096)
