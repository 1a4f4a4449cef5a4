"""Group commit: who shares a transaction, and who hears what when it fails."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from satchel.errors import InternalError, QueueFull, StoreUnavailable
from satchel.limits import GROUP_COMMIT_MAX
from satchel.store.thread import DatabaseThread


class Disk(apsw.VFS):
    """A disk whose syncs can be counted and made to fail."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.syncs = 0
        self.is_broken = False
        self.gate = threading.Event()
        self.gate.set()

    def waiting(self) -> asyncio.Future[None]:
        """Return what is done once somebody syncs."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.arrived = lambda: loop.call_soon_threadsafe(lambda: future.done() or future.set_result(None))
        return future

    def arrived(self) -> None:
        pass

    def xOpen(self, name, flags):  # noqa: N802  # SQLite's name
        return DiskFile(self, name, flags)


class DiskFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name, flags) -> None:
        super().__init__("", name, flags)
        self.disk = disk

    def xSync(self, flags):  # noqa: N802  # SQLite's name
        self.disk.arrived()
        self.disk.gate.wait()
        if self.disk.is_broken:
            raise apsw.IOError("the disk is gone")
        self.disk.syncs += 1
        super().xSync(flags)


class Numbers:
    """A table of numbers behind one writer thread."""

    def __init__(self, path: Path, disk: Disk, *, is_quick: bool) -> None:
        self.disk = disk
        self.path = path
        self.thread = DatabaseThread(
            self.connect, name="test-writer", begin="BEGIN IMMEDIATE", group_max=GROUP_COMMIT_MAX, is_quick=is_quick
        )

    def connect(self) -> apsw.Connection:
        db = apsw.Connection(str(self.path), vfs=self.disk.name)
        db.pragma("journal_mode", "wal")
        db.pragma("synchronous", "full")
        db.execute("CREATE TABLE IF NOT EXISTS number (n INTEGER PRIMARY KEY, filling BLOB) STRICT")
        db.execute("CREATE TABLE IF NOT EXISTS hold (n INTEGER PRIMARY KEY) STRICT")
        return db

    def insert(self, n: int) -> asyncio.Task[None]:
        return asyncio.create_task(self.thread.call(lambda db: _insert(db, n)))

    async def hold(self) -> asyncio.Task[None]:
        """Keep a write in its sync until the gate opens, so that what is asked from now on is one group."""
        self.disk.gate.clear()
        reached = self.disk.waiting()
        held = asyncio.create_task(self.thread.call(lambda db: db.execute("INSERT INTO hold (n) VALUES (NULL)").get))
        await reached
        return held

    async def read(self) -> list[int]:
        return await self.thread.call(lambda db: [n for (n,) in db.execute("SELECT n FROM number ORDER BY n")])


def _insert(db: apsw.Connection, n: int) -> None:
    db.execute("INSERT INTO number (n) VALUES (?)", (n,))


@pytest.fixture(params=[False, True], ids=["thread", "loop"])
async def numbers(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Numbers]:
    disk = Disk(f"disk-{tmp_path.name}")
    numbers = Numbers(tmp_path / "numbers.db", disk, is_quick=request.param)
    await numbers.thread.open()
    yield numbers
    disk.is_broken = False
    disk.gate.set()
    await numbers.thread.close()
    disk.unregister()


async def grouped(numbers: Numbers, *values: int) -> list[object]:
    """Insert *values* in one transaction; return each outcome."""
    held = await numbers.hold()
    tasks = [numbers.insert(value) for value in values]
    await asyncio.sleep(0)  # let each task make its call
    numbers.disk.gate.set()
    await asyncio.wait({held})
    held.exception()  # seen: a broken disk fails it, too
    return list(await asyncio.gather(*tasks, return_exceptions=True))


async def test_calls_that_wait_share_one_sync(numbers: Numbers):
    """Many turns share one fsync: it is what a commit costs."""
    held = await numbers.hold()
    tasks = [numbers.insert(n) for n in range(GROUP_COMMIT_MAX)]
    await asyncio.sleep(0)
    before = numbers.disk.syncs

    numbers.disk.gate.set()
    await asyncio.gather(held, *tasks)

    assert numbers.disk.syncs == before + 2  # the held one's, and theirs
    assert len(await numbers.read()) == GROUP_COMMIT_MAX


async def test_nobody_hears_of_a_call_before_its_sync(numbers: Numbers):
    """Only after it is durable does the caller see that the turn is complete."""
    numbers.disk.gate.clear()
    reached = numbers.disk.waiting()
    written = numbers.insert(1)

    await reached
    before = written.done()
    numbers.disk.gate.set()
    await written

    assert not before


async def test_a_group_has_a_bound(numbers: Numbers):
    """One past it waits for the next sync: a transaction's length is bounded."""
    held = await numbers.hold()
    tasks = [numbers.insert(n) for n in range(GROUP_COMMIT_MAX + 1)]
    await asyncio.sleep(0)
    before = numbers.disk.syncs

    numbers.disk.gate.set()
    await asyncio.gather(held, *tasks)

    assert numbers.disk.syncs == before + 3  # the held one's, and two


async def test_a_call_that_raises_undoes_only_itself(numbers: Numbers):
    """Writes may share a transaction; their fates they do not share."""

    def write_then_refuse(db: apsw.Connection) -> None:
        _insert(db, 2)
        raise QueueFull

    held = await numbers.hold()
    tasks = [numbers.insert(1), asyncio.create_task(numbers.thread.call(write_then_refuse)), numbers.insert(3)]
    await asyncio.sleep(0)
    numbers.disk.gate.set()
    await held

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [type(None), QueueFull, type(None)]
    assert await numbers.read() == [1, 3]


async def test_calls_take_effect_in_the_order_in_which_they_were_made(numbers: Numbers):
    """The contract's order, whatever shares a transaction."""
    seen: list[int] = []
    held = await numbers.hold()
    tasks = [asyncio.create_task(numbers.thread.call(lambda _db, n=n: seen.append(n))) for n in range(600)]
    await asyncio.sleep(0)

    numbers.disk.gate.set()
    await asyncio.gather(held, *tasks)

    assert seen == list(range(600))


async def test_a_failed_commit_is_unavailable_for_the_whole_group(numbers: Numbers):
    """Nobody may be told that a write is durable when its sync failed."""
    numbers.disk.is_broken = True

    outcomes = await grouped(numbers, 1, 2, 3)

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3


async def test_the_thread_goes_on_after_a_failed_commit(numbers: Numbers):
    """A full disk is emptied, a volume comes back: the hub need not restart."""
    numbers.disk.is_broken = True
    await grouped(numbers, 1)
    numbers.disk.is_broken = False

    await numbers.insert(2)

    assert await numbers.read() == [2]


async def test_a_full_disk_loses_no_acknowledged_call(numbers: Numbers):
    """SQLite may roll the whole group back when space ends: then the whole group must hear of it."""
    await numbers.thread.call(lambda db: db.pragma("max_page_count", db.pragma("page_count")))

    def fill(db: apsw.Connection) -> None:
        db.execute("INSERT INTO number VALUES (2, zeroblob(1000000))")

    held = await numbers.hold()
    tasks = [numbers.insert(1), asyncio.create_task(numbers.thread.call(fill)), numbers.insert(3)]
    await asyncio.sleep(0)
    numbers.disk.gate.set()
    await held

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(outcomes[1], StoreUnavailable)
    acknowledged = [n for n, outcome in zip((1, 2, 3), outcomes, strict=True) if outcome is None]
    assert await numbers.read() == acknowledged


async def test_an_error_that_is_our_bug_is_not_called_unavailable(numbers: Numbers):
    """A caller repeats what is unavailable; a bug would be repeated for ever."""
    await numbers.insert(1)

    with pytest.raises(InternalError) as failed:
        await numbers.insert(1)

    assert isinstance(failed.value.__cause__, apsw.ConstraintError)


async def test_a_caller_that_leaves_does_not_undo_its_call(numbers: Numbers):
    """The outcome of a cancelled wait is unknown, and must not take others with it."""
    held = await numbers.hold()
    left, stayed = numbers.insert(1), numbers.insert(2)
    await asyncio.sleep(0)
    left.cancel()

    numbers.disk.gate.set()
    await asyncio.gather(held, stayed)

    assert await numbers.read() == [1, 2]


async def test_closing_finishes_what_was_asked(numbers: Numbers):
    """A hub that stops loses no write that it was about to acknowledge."""
    held = await numbers.hold()
    tasks = [numbers.insert(n) for n in range(3)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(numbers.thread.close())
    await asyncio.sleep(0)

    numbers.disk.gate.set()
    await asyncio.gather(held, *tasks, closing)

    with apsw.Connection(str(numbers.path)) as db:
        assert db.execute("SELECT count(*) FROM number").get == 3
    db.close()


async def test_a_closed_thread_says_so(numbers: Numbers):
    """A call after the end must not wait for ever."""
    await numbers.thread.close()
    await numbers.thread.close()

    with pytest.raises(StoreUnavailable):
        await numbers.insert(1)


async def test_what_connecting_raises_reaches_the_opener():
    """And the thread ends."""

    def connect() -> apsw.Connection:
        raise apsw.CantOpenError("no")

    thread = DatabaseThread(connect, name="test-writer", begin="BEGIN", group_max=1)

    with pytest.raises(StoreUnavailable):
        await thread.open()
    await thread.close()


async def test_somebody_elses_transaction_holds_a_group_and_not_the_loop(numbers: Numbers):
    """A backup that locks the file for a moment costs its writers that moment, and nobody else."""
    with contextlib.closing(apsw.Connection(str(numbers.path))) as other:
        other.execute("BEGIN IMMEDIATE; INSERT INTO number (n) VALUES (7)")

        written = numbers.insert(1)
        for _ in range(10):
            await asyncio.sleep(0)
        was_done = written.done()
        other.execute("COMMIT")
        await written

        assert not was_done
        assert await numbers.read() == [1, 7]
