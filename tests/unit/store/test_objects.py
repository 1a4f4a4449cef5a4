"""Objects at rest: damage, interruption, and the turns that must not wait for them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from satchel.errors import CorruptPayload
from satchel.limits import MIB, OBJECT_GRACE_S
from satchel.store.base import Store
from satchel.store.open import open_store
from satchel.store.sqlite_objects import SqliteObjects
from satchel.store.sweep import sweep
from satchel.testing.conformance.script import FAR_AHEAD_MS, Script, session_key

KEY = session_key()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(str(tmp_path / "x.db"))
    yield store
    await store.close()


def objects_of(store: Store) -> SqliteObjects:
    assert isinstance(store.objects, SqliteObjects)
    return store.objects


async def execute(store: Store, sql: str) -> list[tuple[object, ...]]:
    def work(db: apsw.Connection) -> list[tuple[object, ...]]:
        return db.execute(sql).fetchall()

    return await objects_of(store)._writer.call(work)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE piece SET data = zeroblob(length(data)) WHERE number = 1",
        "UPDATE piece SET data = substr(data, 2) WHERE number = 1",
        "DELETE FROM piece WHERE number = 1",
        "UPDATE piece SET number = -1 WHERE number = 1",
        "UPDATE object SET is_whole = 0",
    ],
)
async def test_a_damaged_object_is_never_given_out(store: Store, damage: str):
    """It is checked against its name each time it is read."""
    name = await store.objects.put(KEY, b"x" * MIB + b"y" * MIB + b"z")
    await execute(store, damage)

    with pytest.raises(CorruptPayload):
        await store.objects.get(name)


async def test_an_object_is_written_in_pieces_of_at_most_1_mib(store: Store):
    """A piece is a transaction, and bounds how long the file is held."""
    await store.objects.put(KEY, bytes(2 * MIB + 1))

    assert await execute(store, "SELECT length(data) FROM piece ORDER BY number") == [(MIB,), (MIB,), (1,)]


async def test_an_interrupted_put_is_no_object_and_can_be_repeated(store: Store, monkeypatch: pytest.MonkeyPatch):
    """A crash between two pieces leaves pieces, and nothing that can be named or read."""
    objects = objects_of(store)
    put_piece = objects._put_piece

    async def fail_at_the_second(name, number, piece) -> None:
        if number == 1:
            raise ConnectionError
        await put_piece(name, number, piece)

    data = b"x" * (2 * MIB)
    with monkeypatch.context() as patch:
        patch.setattr(objects, "_put_piece", fail_at_the_second)
        with pytest.raises(ConnectionError):
            await objects.put(KEY, data)
    [name] = [each async for each in objects.sweepable(older_than_ms=FAR_AHEAD_MS)]
    with pytest.raises(CorruptPayload):
        await objects.get(name)

    assert await objects.put(KEY, data) == name

    assert await objects.get(name) == data


async def test_what_an_interrupted_put_left_is_swept(store: Store):
    """Else every crash would cost the disk a little."""
    await store.objects.put(KEY, bytes(2 * MIB))
    await execute(store, "UPDATE object SET is_whole = 0")

    assert await sweep(store, now_ms=FAR_AHEAD_MS) == 1

    assert await execute(store, "SELECT * FROM piece") == []


async def test_a_put_of_bytes_already_there_only_touches(store: Store):
    """It makes them young again, and writes no piece."""
    objects = objects_of(store)
    name = await objects.put(KEY, b"bytes")
    await execute(store, "UPDATE object SET touched_at_ms = 1")
    pieces = await execute(store, "SELECT rowid, * FROM piece")
    await execute(store, "UPDATE piece SET number = 7")

    assert await objects.put(KEY, b"bytes") == name

    assert await execute(store, "SELECT number FROM piece") == [(7,)]
    assert len(pieces) == 1
    assert not await objects.delete(name, older_than_ms=2)


async def test_the_sweep_spares_objects_within_the_grace(store: Store):
    """A commit may be about to name them: at the bound they stay, one past it they go."""
    await store.objects.put(KEY, b"bytes")
    await execute(store, "UPDATE object SET touched_at_ms = 1000")
    grace_ms = int(OBJECT_GRACE_S * 1000)

    assert await sweep(store, now_ms=1000 + grace_ms) == 0
    assert await sweep(store, now_ms=1001 + grace_ms) == 1


async def test_commits_land_between_the_pieces_of_a_large_object(store: Store, monkeypatch: pytest.MonkeyPatch):
    """While 100 MB are written, no turn waits for more than a few pieces: counted, not timed."""
    happened: list[str] = []
    objects = objects_of(store)
    put_piece = objects._put_piece

    async def put_piece_and_note(name, number, piece) -> None:
        await put_piece(name, number, piece)
        happened.append("piece")

    async def commit_until(done: asyncio.Event) -> None:
        script = await Script.begin(store)
        number = 0
        while not done.is_set():
            number += 1
            await script.commit_turn(f"m{number}")
            happened.append("commit")

    monkeypatch.setattr(objects, "_put_piece", put_piece_and_note)
    done = asyncio.Event()
    turns = asyncio.create_task(commit_until(done))
    name = await objects.put(session_key("large"), bytes(100 * MIB))
    done.set()
    await turns

    assert happened.count("piece") == name.size // MIB == 100
    runs = "".join("p" if each == "piece" else "c" for each in happened).strip("c").split("c")
    assert max(len(run) for run in runs) < 4
