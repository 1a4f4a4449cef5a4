"""The hub's databases on a simulated disk: slow, full at times, and lost with all that was not synced."""

import asyncio
import enum
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from satchel.errors import StoreUnavailable
from satchel.store.thread import Call, begin_group, commit_group, work_group
from tests.simulation.loop import SimulatedLoop, Strand
from tests.simulation.power import Change, PowerLossVfs


class Fault(enum.Enum):
    """What a group of calls may meet."""

    NOT_DONE = enum.auto()
    """The callers hear of a failure, and nothing was written."""
    DONE = enum.auto()
    """The callers hear of a failure, and everything was written: the outcome is unknown."""


class Moment(enum.Enum):
    """When a hub dies, relative to a write of its store."""

    BEFORE = enum.auto()
    AT = enum.auto()
    """At a write to the disk, which may be found in part."""
    AFTER = enum.auto()
    """It is durable, and nobody was told."""
    COMMITTED = enum.auto()
    """The same, of a write that commits a turn."""


class Disk:
    """What the databases of one hub after another are on."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.vfs = PowerLossVfs(f"disk {folder}", folder, chance)
        self._chance = chance
        self._databases: list[SimulatedDatabase] = []
        self._doom: tuple[Moment, int, Callable[[], None]] | None = None
        self.fault_rate = 0.0
        self.slowness = 1.0
        self.faults = 0
        self.calls = 0
        """How many calls shared the last write."""
        self.wrote: Callable[[], bool] = lambda: False
        """Called after each write that is durable, before anybody is told. Tells whether it committed a turn."""
        self.deaths_after_commit = 0

    def database(
        self, connect: Callable[[], apsw.Connection], *, name: str, begin: str, group_max: int, is_quick: bool = False
    ) -> "SimulatedDatabase":
        """Stand in for ``DatabaseThread``: a thread of the process that asks."""
        del is_quick  # all of it is on its own strand: a group's work may come as late as its commit
        process = SimulatedLoop.strand().process
        database = SimulatedDatabase(self, process.strand(name), connect, begin, group_max)
        self._databases.append(database)
        return database

    # --- what a group of calls meets -----------------------------------------------------------

    async def pause(self) -> None:
        await asyncio.sleep(self.slowness * self._chance.choice([0, 0, 0.001, 0.002, 0.02]))

    def fault(self, begin: str) -> Fault | None:
        if self._chance.random() >= self.fault_rate:
            return None
        self.faults += 1
        return self._chance.choice([Fault.NOT_DONE, Fault.DONE]) if "IMMEDIATE" in begin else Fault.NOT_DONE

    def group_size(self, most: int) -> int:
        return min(self._chance.randint(1, 4), most)

    def heal(self) -> None:
        self.fault_rate, self.slowness = 0.0, 1.0

    # --- death ---------------------------------------------------------------------------------

    def doom(self, moment: Moment, writes: int, end: Callable[[], None]) -> None:
        """Call *end*, which kills the hub, at *moment* of the write after *writes* more."""
        self._doom = (moment, writes, end)

    def is_doomed(self, moment: Moment) -> bool:
        """Whether the hub died at this write; counts it."""
        if self._doom is None or self._doom[0] is not moment:
            return False
        _, writes, end = self._doom
        if writes > 0:
            self._doom = (moment, writes - 1, end)
            return False
        self._doom = None
        end()
        return self.vfs.is_lost

    async def run(self, connection: apsw.Connection, begin: str, group: list[Call], fault: Fault | None) -> bool:
        """Run a group; False if the hub died of it. Its callers hear of it before it is durable."""
        is_write = "IMMEDIATE" in begin
        if is_write and self.is_doomed(Moment.BEFORE):
            return False
        died: list[bool] = []

        def watch(_change: Change) -> None:
            if is_write and not died and self.is_doomed(Moment.AT):
                died.append(True)

        begin_group(connection, begin, group)
        work_group(connection, group)
        for call in group:
            call.tell()
        if is_write:
            await self.pause()
        if fault is Fault.NOT_DONE and connection.in_transaction:
            connection.execute("ROLLBACK")
            return True
        self.vfs.watch = watch
        try:
            commit_group(connection, group)
        finally:
            self.vfs.watch = lambda _change: None
        if died:
            return False
        self.calls = len(group)
        has_committed = is_write and self.wrote()
        if (is_write and self.is_doomed(Moment.AFTER)) or (has_committed and self.is_doomed(Moment.COMMITTED)):
            self.deaths_after_commit += has_committed
            return False
        return True

    def lose(self, *, everything: bool) -> None:
        """Decide what the disk is found to have; what its processes write from here on is lost."""
        self._doom = None
        self.vfs.lose_power(everything=everything)

    def restore(self) -> None:
        """Close what the dead had open, and put what was found in place."""
        self.vfs.restore_power()
        self._databases.clear()

    def close(self) -> None:
        if self.vfs.is_lost:
            self.restore()
        for database in reversed(self._databases):  # a reader cannot be the last that closes a file
            database.disconnect()
        self.vfs.close()


class SimulatedDatabase:
    """A ``Database`` on a strand: the same order, groups and outcomes as on a thread."""

    def __init__(
        self, disk: Disk, strand: Strand, connect: Callable[[], apsw.Connection], begin: str, group_max: int
    ) -> None:
        self._disk = disk
        self._strand = strand
        self._connect = connect
        self._begin = begin
        self._group_max = group_max
        self._calls: asyncio.Queue[Call | None] = asyncio.Queue()
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None
        self._connection: apsw.Connection | None = None

    async def open(self) -> None:
        self._connection = self._connect()
        self._task = self._strand.spawn(self._run(self._connection))

    async def call(
        self, work: Callable[[apsw.Connection], Any], *, decided: Callable[[Any], None] | None = None
    ) -> Any:
        if self._is_closed:
            raise StoreUnavailable("The store is closed.")
        caller = SimulatedLoop.strand()
        told = None if decided is None else lambda result: caller.context.run(decided, result)
        call = Call(work, asyncio.get_running_loop().create_future(), told)
        self._calls.put_nowait(call)
        return await call.future

    async def settle(self) -> None:
        await self.call(lambda _db: None)

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._calls.put_nowait(None)
        if self._task is not None:
            await asyncio.wait({self._task})
        self.disconnect()

    def disconnect(self) -> None:
        self._is_closed = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _run(self, connection: apsw.Connection) -> None:
        while (first := await self._calls.get()) is not None:
            await self._disk.pause()
            group = [first]
            while len(group) < self._disk.group_size(self._group_max) and not self._calls.empty():
                call = self._calls.get_nowait()
                if call is None:
                    self._calls.put_nowait(None)
                    break
                group.append(call)
            fault = self._disk.fault(self._begin)
            if not await self._disk.run(connection, self._begin, group, fault):
                return
            await self._disk.pause()
            for call in group:
                if fault is not None:
                    call.error = StoreUnavailable("The disk is full.")
                call.resolve()
