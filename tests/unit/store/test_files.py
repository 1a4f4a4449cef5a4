"""Whose files these are: format, pair and lock."""

import asyncio
import os
import sys
from pathlib import Path

import apsw
import pytest

from satchel.errors import InvalidRequest, NotSupported, StoreFormatUnknown, StoreInUse, StoreUnavailable
from satchel.store.files import FORMAT, objects_path
from satchel.store.open import open_store, store_path
from satchel.testing.conformance.script import Script


async def fill(path: Path) -> None:
    """Leave a store with one session at *path*."""
    store = await open_store(str(path))
    await (await Script.begin(store)).commit_turn("m1")
    await store.close()


def write(path: Path, sql: str) -> None:
    db = apsw.Connection(str(path))
    db.execute(sql)
    db.close()


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("x.db", "{cwd}/x.db"),
        ("a/x.db", "{cwd}/a/x.db"),
        ("/a/x.db", "/a/x.db"),
        ("sqlite:///x.db", "{cwd}/x.db"),
        ("sqlite:////a/x.db", "/a/x.db"),
        (":memory:", "{cwd}/:memory:"),
    ],
)
def test_a_url_or_path_names_one_file(url: str, path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Also the name that SQLite would take for a database in memory, gone with the process."""
    monkeypatch.chdir(tmp_path)

    assert str(store_path(url)) == path.format(cwd=tmp_path)


@pytest.mark.parametrize("url", ["", "a/", "sqlite://x.db", "sqlite:///", "mysql://host/db", "://x"])
def test_a_url_that_is_not_understood_is_refused(url: str):
    """A typing error must not become a new, empty store."""
    with pytest.raises(InvalidRequest):
        store_path(url)


def test_postgresql_is_refused_by_name():
    """It is a store of several hubs; this one is embedded."""
    with pytest.raises(NotSupported) as refused:
        store_path("postgresql://user:secret@host/db")

    assert "secret" not in str(refused.value)


async def test_opening_creates_directories_and_both_files(tmp_path: Path):
    """A first run needs no preparation."""
    path = tmp_path / "a" / "b" / "x.db"

    store = await open_store(str(path))

    assert store.location == str(path)
    assert sorted(each.name for each in path.parent.iterdir() if each.suffix == ".db") == ["x.db", "x.objects.db"]
    await store.close()
    await store.close()


async def test_a_second_opener_hears_who_has_the_store(tmp_path: Path):
    """One store file has one hub: two would each fence the other's turns."""
    store = await open_store(str(tmp_path / "x.db"), holder="http://127.0.0.1:8700")

    with pytest.raises(StoreInUse) as refused:
        await open_store(str(tmp_path / "x.db"))

    message = str(refused.value)
    assert f"process {os.getpid()}" in message
    assert "http://127.0.0.1:8700" in message
    assert refused.value.details["url"] == "http://127.0.0.1:8700"
    await store.close()
    await (await open_store(str(tmp_path / "x.db"))).close()


async def test_a_refused_opener_leaves_the_holders_name(tmp_path: Path):
    """The third is told as well as the second."""
    store = await open_store(str(tmp_path / "x.db"), holder="http://first")

    for _ in range(2):
        with pytest.raises(StoreInUse, match="http://first"):
            await open_store(str(tmp_path / "x.db"), holder="http://second")

    await store.close()


async def test_the_lock_dies_with_its_process(tmp_path: Path):
    """A hub that was killed must not keep the next one out."""
    path = tmp_path / "x.db"
    hold = (
        "import asyncio, sys\nfrom satchel.store.open import open_store\n"
        f"async def main():\n    await open_store({str(path)!r})\n    print('open', flush=True)\n    sys.stdin.read()\n"
        "asyncio.run(main())\n"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", hold, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert await child.stdout.readline() == b"open\n"
        with pytest.raises(StoreInUse, match=f"process {child.pid}"):
            await open_store(str(path))
    finally:
        child.kill()
        await child.wait()

    await (await open_store(str(path))).close()


async def test_a_newer_format_is_refused_by_name(tmp_path: Path):
    """An older Satchel would read it wrongly; the message says which one is needed."""
    path = tmp_path / "x.db"
    await fill(path)
    write(path, f"UPDATE meta SET format = {FORMAT + 1}")

    with pytest.raises(StoreFormatUnknown) as refused:
        await open_store(str(path))

    assert f"has format {FORMAT + 1}" in str(refused.value)
    assert f"reads format {FORMAT}" in str(refused.value)
    assert str(path) in str(refused.value)


async def test_a_newer_objects_file_is_refused_by_name(tmp_path: Path):
    """Each file says what it is."""
    path = tmp_path / "x.db"
    await fill(path)
    write(objects_path(path), f"UPDATE meta SET format = {FORMAT + 1}")

    with pytest.raises(StoreFormatUnknown, match=r"x\.objects\.db has format"):
        await open_store(str(path))


@pytest.mark.parametrize("content", [b"not a database, but long enough to be taken for one" * 100, None])
async def test_a_file_that_is_not_ours_is_left_as_it_is(tmp_path: Path, content: bytes | None):
    """A wrong path must not cost anybody their data."""
    path = tmp_path / "x.db"
    if content is None:
        write(path, "CREATE TABLE theirs (a)")
    else:
        path.write_bytes(content)
    before = path.read_bytes()

    with pytest.raises(StoreFormatUnknown, match="not a Satchel store"):
        await open_store(str(path))

    assert path.read_bytes() == before


async def test_a_refused_store_can_be_opened_once_it_is_put_right(tmp_path: Path):
    """A refusal keeps neither lock nor thread nor file."""
    path = tmp_path / "x.db"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(StoreFormatUnknown):
        await open_store(str(path))

    path.unlink()

    await (await open_store(str(path))).close()


async def test_a_log_without_its_objects_is_refused(tmp_path: Path):
    """An empty objects file in its place would make every session unreadable, silently."""
    path = tmp_path / "x.db"
    await fill(path)
    objects_path(path).unlink()

    with pytest.raises(StoreFormatUnknown, match=r"x\.objects\.db is missing"):
        await open_store(str(path))

    assert not objects_path(path).exists()


async def test_objects_of_another_store_are_refused(tmp_path: Path):
    """Two files of two copies would look whole until a snapshot is needed."""
    path, other = tmp_path / "x.db", tmp_path / "y.db"
    await fill(path)
    await fill(other)
    objects_path(other).replace(objects_path(path))

    with pytest.raises(StoreFormatUnknown, match="does not belong"):
        await open_store(str(path))


async def test_a_store_whose_creation_was_cut_short_is_created(tmp_path: Path):
    """An empty file, or one with nothing but the header, is where a crash leaves a new store."""
    path = tmp_path / "x.db"
    path.touch()
    write(objects_path(path), "PRAGMA journal_mode = wal; PRAGMA user_version = 0")

    await fill(path)


async def test_a_path_that_cannot_be_opened_is_unavailable(tmp_path: Path):
    """The message names the path."""
    (tmp_path / "x.db").mkdir()

    with pytest.raises(StoreUnavailable, match=r"x\.db"):
        await open_store(str(tmp_path / "x.db"))


async def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path):
    """An operating system's error would not say which of the hub's paths is wrong."""
    (tmp_path / "file").touch()

    with pytest.raises(StoreUnavailable, match=r"file/x\.db cannot be opened"):
        await open_store(str(tmp_path / "file" / "x.db"))


async def test_both_files_are_kept_durably(tmp_path: Path):
    """WAL, a sync for every commit, foreign keys on: what the guarantees stand on."""
    store = await open_store(str(tmp_path / "x.db"))
    for part in (store.log, store.objects):
        facts = await part._writer.call(
            lambda db: (db.pragma("journal_mode"), db.pragma("synchronous"), db.pragma("foreign_keys"))
        )
        assert facts == ("wal", 2, 1)
    await store.close()
