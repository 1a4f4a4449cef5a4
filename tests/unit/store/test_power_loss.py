"""Power is lost at random moments: what the store said is durable is there, and what is there is whole."""

import asyncio
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from satchel.errors import SatchelError, StoreUnavailable
from satchel.model import StateName, TurnStatus
from satchel.store import sqlite, sqlite_objects
from satchel.store.base import Commit, ObjectName, PublishedSnapshot, StoredEvents, Turn
from satchel.store.chain import load_chain
from satchel.store.events import load_events
from satchel.store.files import StoreLock, objects_path
from satchel.store.sqlite import SqliteStore
from satchel.store.sweep import sweep
from satchel.store.thread import Call, run_group
from satchel.testing.conformance.script import FAR_AHEAD_MS, SNAPSHOT, Script, payload, session_key, stored_as_object
from tests.simulation.power import Change, PowerLossVfs

LIVES = 8
SESSIONS = 3
LARGE = 20_000


class LostError(Exception):
    """Something that was acknowledged is not there, or something is there in part."""


class SameThread:
    """A ``Database`` without a thread: calls made at once share a transaction, and their order is theirs."""

    def __init__(self, connect: Callable[[], apsw.Connection], *, begin: str, group_max: int, **_rest: object) -> None:
        self._connect = connect
        self._begin = begin
        self._group_max = group_max
        self._calls: list[Call] = []

    async def open(self) -> None:
        self._connection = self._connect()

    async def call(
        self, work: Callable[[apsw.Connection], Any], *, decided: Callable[[Any], None] | None = None
    ) -> Any:
        call = Call(work, asyncio.get_running_loop().create_future(), decided)
        self._calls.append(call)
        await asyncio.sleep(0)
        while not call.future.done():
            group, self._calls = self._calls[: self._group_max], self._calls[self._group_max :]
            run_group(self._connection, self._begin, group)
            for each in group:
                each.resolve()
        return await call.future

    async def settle(self) -> None:
        await self.call(lambda _db: None)

    async def close(self) -> None:
        self._connection.close()


class History:
    """A store's lives, and what it acknowledged over all of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        folder.mkdir()
        self.path = folder / "x.db"
        self.chance = random.Random(seed)  # noqa: S311  # it has to be the same every time
        self.disk = PowerLossVfs("power", folder, self.chance)
        self.disk.watch = self._watch
        self.changes_left = 0
        self.numbers = itertools.count(1)
        self.raws: dict[StateName, bytes] = {}
        """Of every version that was ever asked to be committed."""
        self.turns: dict[tuple[str, str], Turn] = {}
        """Turns as they were last reported, final ones only."""
        self.objects: set[ObjectName] = set()
        """Reported to be durable, and not swept since."""

    def _watch(self, _change: Change) -> None:
        self.changes_left -= 1
        if self.changes_left == 0:
            self.disk.lose_power()

    async def live(self, changes: int) -> None:
        """Open the store, check it, work on it until the power goes at the *changes*-th change of the disk."""
        self.changes_left = changes
        lock = StoreLock.take(self.path, holder="")
        store = SqliteStore(self.path, lock, now_ms=lambda: 1_000, database=SameThread)
        try:
            await self._open(store)
            scripts = [await self.script(store, f"s{number}") for number in range(SESSIONS)]
            while True:
                chosen = self.chance.sample(scripts, self.chance.randint(1, SESSIONS))
                outcomes = await asyncio.gather(*(self._step(script) for script in chosen), return_exceptions=True)
                for outcome in outcomes:
                    if outcome is not None:
                        raise outcome
                if self.chance.random() < 0.1:  # alone: without its grace it would take what is about to be named
                    await self._sweep(store)
        except (StoreUnavailable, apsw.IOError, apsw.CantOpenError):
            if not self.disk.is_lost:
                raise
        finally:
            lock.release()
            self.disk.lose_power()
            self.disk.restore_power()

    async def _open(self, store: SqliteStore) -> None:
        """Open the store and check what it holds. Raises ``LostError`` unless the power goes meanwhile."""
        try:
            for part in store._parts:
                await part.open()
            await self.check(store)
        except (AssertionError, SatchelError, apsw.Error) as error:
            if self.disk.is_lost:
                raise StoreUnavailable from error
            raise LostError from error

    async def script(self, store: SqliteStore, session_id: str) -> Script:
        """Go on with a session as it was found."""
        script = await Script.begin(store, session_key(session_id))
        for row in await store.log.versions(script.key, limit=10_000, before=None):
            script.names[row.name.version] = row.name
        return script

    # --- what is done ------------------------------------------------------------------------

    async def _step(self, script: Script) -> None:
        steps = [self._turn, self._turn, self._turn, self._turn, self._ended, self._compact, self._trim]
        await self.chance.choice(steps)(script)

    async def _put(self, script: Script, data: bytes) -> ObjectName:
        name = await script.store.objects.put(script.key, data)
        self.objects.add(name)
        return name

    async def _turn(self, script: Script) -> None:
        for turn in await script.log.unfinished():  # what a loss left
            if turn.key == script.key:
                self._report(await script.cancel(turn.message_id))
        started = await script.run(f"m{next(self.numbers)}")
        raw = b"%d" % next(self.numbers) * self.chance.choice([10, 100, LARGE])
        is_first = started.session.head.version == 0
        kind = SNAPSHOT if is_first or self.chance.random() < 0.1 else None
        commit = script.commit_of(started, kind=kind, raw=raw)
        if len(raw) > LARGE:
            stored = await stored_as_object(script.store, script.key, commit.payload.payload)
            events = StoredEvents(b"", object=await self._put(script, b"events of " + raw[:100]))
            commit = script.commit_of(started, kind=kind, raw=raw, stored=stored, events=events)
        self.raws[commit.name] = raw
        self._report(await self._commit(script, commit))

    async def _commit(self, script: Script, commit: Commit) -> Turn:
        turn = await script.log.commit(commit)
        script.names[commit.name.version] = commit.name
        if commit.payload.object is not None:
            self.objects.add(commit.payload.object)
        return turn

    async def _ended(self, script: Script) -> None:
        message_id = f"m{next(self.numbers)}"
        await script.admit(message_id)
        self._report(await (script.fail if self.chance.random() < 0.5 else script.cancel)(message_id))

    async def _compact(self, script: Script) -> None:
        head = (await script.session()).head if len(script.names) > 1 else None
        if head is not None:
            data = payload(SNAPSHOT, b"compacted %d" % head.version * self.chance.choice([1, 1000]))
            stored = await stored_as_object(script.store, script.key, data)
            await script.log.publish(PublishedSnapshot(script.key, head, stored, b"d" * 32))

    async def _trim(self, script: Script) -> None:
        if len(script.names) > 1:
            await script.trim(retain_versions=6, retain_answers=8)

    async def _sweep(self, store: SqliteStore) -> None:
        self.objects.clear()
        await sweep(store, now_ms=FAR_AHEAD_MS)

    def _report(self, turn: Turn) -> None:
        self.turns[turn.key.session_id, turn.message_id] = turn

    # --- what must be there ------------------------------------------------------------------

    async def check(self, store: SqliteStore) -> None:
        """Raise unless everything acknowledged is there, and everything there is whole."""
        for path in (self.path, objects_path(self.path)):
            with apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY) as db:
                assert db.pragma("integrity_check") == "ok"
                assert db.pragma("foreign_key_check") is None
        for reported in self.turns.values():
            turn = await store.log.turn(reported.key, reported.message_id)
            assert (turn.status, turn.version, turn.error) == (reported.status, reported.version, reported.error)
            assert turn.answer in {reported.answer, None}
        for name in self.objects:
            await store.objects.get(name)
        for session in await store.log.sessions(session_key().tenant, agent=None, limit=100, after=None):
            await self._check_session(store, Script(store, session.key))

    async def _check_session(self, store: SqliteStore, script: Script) -> None:
        retained = await store.log.versions(script.key, limit=10_000, before=None)
        head = (await script.session()).head
        assert [row.name.version for row in retained] == list(range(head.version - len(retained) + 1, head.version + 1))
        assert not retained or retained[-1].name == head
        for row in retained:
            *_, last = await load_chain(store, script.key, row.name.version)
            assert last.name == row.name
            if last.payload.kind is not SNAPSHOT:
                assert last.payload.data == self.raws[row.name]
        for turn in await store.log.turns(script.key, limit=10_000, before=None):
            if turn.status is TurnStatus.COMMITTED and turn.answer is not None:
                assert await load_events(store, turn)


async def lives(folder: Path, seed: int) -> History:
    """Lose the power over and over. Raises ``LostError``."""
    history = History(folder, seed)
    try:
        for _ in range(LIVES):
            await history.live(
                history.chance.choice([history.chance.randrange(1, 60), history.chance.randrange(1, 1500)])
            )
    finally:
        history.disk.close()
    return history


@pytest.mark.parametrize("seed", range(12))
async def test_what_was_reported_is_there_after_the_loss(tmp_path: Path, seed: int):
    """The caller was told; a snapshot was named; a turn was ended: all of it stays, whole."""
    history = await lives(tmp_path / "disk", seed)

    assert history.disk.losses == LIVES


async def test_the_lives_have_all_that_can_be_lost(tmp_path: Path):
    """Losses of nothing would be survived by anything."""
    histories = [await lives(tmp_path / str(seed), seed) for seed in range(3)]

    statuses = [turn.status for history in histories for turn in history.turns.values()]
    assert statuses.count(TurnStatus.COMMITTED) > 100
    assert {TurnStatus.FAILED, TurnStatus.CANCELLED} < set(statuses)


Connect = Callable[[Path], apsw.Connection]


def weakened(connect: Connect, synchronous: str) -> Connect:
    def connect_weakly(path: Path) -> apsw.Connection:
        connection = connect(path)
        connection.pragma("synchronous", synchronous)
        return connection

    return connect_weakly


async def lives_of_many(folder: Path) -> None:
    for seed in range(12):
        await lives(folder / str(seed), seed)


@pytest.mark.parametrize("synchronous", ["normal", "off"])
@pytest.mark.parametrize(("module", "connect"), [(sqlite, "connect_log"), (sqlite_objects, "connect_objects")])
async def test_a_store_that_syncs_less_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, connect: str, synchronous: str
):
    """Either file: without its syncs the same losses lose something that was acknowledged."""
    monkeypatch.setattr(module, connect, weakened(getattr(module, connect), synchronous))

    with pytest.raises(LostError):
        await lives_of_many(tmp_path)
