"""The disk that loses power does what disks do: else a store that survives it has shown nothing."""

import random
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from tests.simulation.power import Change, PowerLossVfs

MARK = b"\xaa" * 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[PowerLossVfs]:
    disk = PowerLossVfs("power", tmp_path, random.Random(1))  # noqa: S311  # it has to be the same every time
    yield disk
    for connection in apsw.connections():
        connection.close()
    disk.close()


def connect(path: Path, synchronous: str = "full") -> apsw.Connection:
    db = apsw.Connection(str(path))
    db.pragma("journal_mode", "wal")
    db.pragma("synchronous", synchronous)
    db.execute("CREATE TABLE IF NOT EXISTS t (number INTEGER PRIMARY KEY, filler)")
    return db


def insert(db: apsw.Connection, number: int) -> None:
    db.execute("INSERT INTO t VALUES (?, zeroblob(3000))", (number,))


def rows_after_a_loss(disk: PowerLossVfs, path: Path) -> int:
    """Lose the power, start again, and return how many rows are there."""
    disk.lose_power()
    disk.restore_power()
    db = connect(path)
    assert db.pragma("integrity_check") == "ok"
    return int(db.execute("SELECT count(*) FROM t").get)


def test_what_was_synced_is_there_again(disk: PowerLossVfs, tmp_path: Path):
    """Also over several losses, and a checkpoint between them."""
    for life in range(1, 6):
        db = connect(tmp_path / "x.db")
        for number in range(20):
            insert(db, life * 100 + number)
        if life % 2:
            db.wal_checkpoint()

        assert rows_after_a_loss(disk, tmp_path / "x.db") == life * 20


def test_what_was_not_synced_may_be_gone(disk: PowerLossVfs, tmp_path: Path):
    """The last commits first: the write-ahead log is valid up to its first gap."""
    found = []
    for name in range(30):
        db = connect(tmp_path / f"{name}.db", "normal")
        for number in range(20):
            insert(db, number)
        found.append(rows_after_a_loss(disk, tmp_path / f"{name}.db"))

    assert 0 in found
    assert 20 in found
    assert set(found) - {0, 20}


def test_a_write_is_torn_at_sectors(disk: PowerLossVfs, tmp_path: Path):
    """A page that was half written is neither the old nor the new one."""
    db = connect(tmp_path / "x.db", "off")
    db.execute("INSERT INTO t VALUES (1, ?)", (b"\xaa" * 400_000,))
    disk.lose_power()
    disk.restore_power()
    found = (tmp_path / "x.db-wal").read_bytes()

    pieces = [found[at : at + 512] for at in range(0, len(found), 512)]
    assert any(piece == MARK[:512] for piece in pieces)
    assert any(piece == bytes(512) for piece in pieces)


def test_only_the_processes_may_die(disk: PowerLossVfs, tmp_path: Path):
    """After kill -9 the operating system has all they wrote, synced or not."""
    db = connect(tmp_path / "x.db", "off")
    insert(db, 1)

    disk.lose_power(everything=True)
    disk.restore_power()

    assert connect(tmp_path / "x.db").execute("SELECT count(*) FROM t").get == 1


def test_the_dead_change_nothing_more(disk: PowerLossVfs, tmp_path: Path):
    """No commit succeeds after the loss, and closing is no last sync."""
    db = connect(tmp_path / "x.db")
    insert(db, 1)
    disk.lose_power()

    with pytest.raises(apsw.IOError):
        insert(db, 2)
    with pytest.raises(apsw.IOError):
        apsw.Connection(str(tmp_path / "x.db"))
    disk.restore_power()

    with pytest.raises(apsw.ConnectionClosedError):
        insert(db, 3)
    assert connect(tmp_path / "x.db").execute("SELECT number FROM t").get == 1


def test_a_file_may_lose_its_name(disk: PowerLossVfs, tmp_path: Path):
    """A folder that was not synced may not have the new file, or may have the old one again."""
    found: set[tuple[bool, bool]] = set()
    for name in range(30):
        connect(tmp_path / f"kept{name}.db").close()
        new = apsw.Connection(str(tmp_path / f"new{name}.db"))
        new.pragma("journal_mode", "off")
        new.execute("CREATE TABLE t (a)")
        disk.lose_power()
        disk.restore_power()
        found.add(((tmp_path / f"new{name}.db").exists(), (tmp_path / f"kept{name}.db-wal").exists()))

    assert found == {(False, False), (False, True), (True, False), (True, True)}


def test_files_elsewhere_are_left_alone(disk: PowerLossVfs, tmp_path_factory: pytest.TempPathFactory):
    """The disk is one folder's."""
    path = tmp_path_factory.mktemp("elsewhere") / "x.db"
    db = connect(path, "off")
    insert(db, 1)

    disk.lose_power()
    insert(db, 2)
    disk.restore_power()

    assert db.execute("SELECT count(*) FROM t").get == 2


def lived(folder: Path, seed: int) -> list[tuple[str, int, object]]:
    """Commit until the power goes in the middle of something; return which files and rows are found."""
    folder.mkdir()
    chance = random.Random(seed)  # noqa: S311  # it has to be the same every time
    disk = PowerLossVfs("power", folder, chance)
    left = chance.randrange(20, 200)

    def watch(_change: Change) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            disk.lose_power()

    disk.watch = watch
    with pytest.raises(apsw.IOError):  # noqa: PT012  # whichever commit it is
        for life in range(100):
            db = connect(folder / f"{life % 3}.db", chance.choice(["full", "normal"]))
            insert(db, life)
            db.close()
    disk.restore_power()
    disk.close()
    files = [(path, path.stat().st_size) for path in sorted(folder.iterdir())]
    return [(path.name, size, rows_of(path) if path.suffix == ".db" else None) for path, size in files]


def rows_of(path: Path) -> object:
    db = apsw.Connection(str(path))
    is_new = db.execute("SELECT count(*) FROM sqlite_schema").get == 0
    rows = None if is_new else db.execute("SELECT number FROM t").get
    db.close()
    return rows


def test_a_seed_says_what_is_found(tmp_path: Path):
    """A failure of the simulation is replayed exactly."""
    assert all(lived(tmp_path / f"{seed}a", seed) == lived(tmp_path / f"{seed}b", seed) for seed in range(5))
