"""The store's threads in simulated time, over a disk that is slow, full at times, and dies with its hub."""

import asyncio
import enum
import random
from collections.abc import Callable
from typing import Any

import apsw

from satchel.errors import StoreUnavailable
from satchel.store.thread import _Call, _run_group


class Fault(enum.Enum):
    NOT_DONE = enum.auto()
    """The caller hears of a failure, and nothing was written."""
    DONE = enum.auto()
    """The caller hears of a failure, and everything was written."""


class Disk:
    """What the calls of one hub's store meet."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._threads: list[SimulatedThread] = []
        self.fault_rate = 0.0
        self.faults = 0

    def thread(self, connect: Callable[[], apsw.Connection], **options: Any) -> "SimulatedThread":
        """Stand in for ``DatabaseThread``."""
        thread = SimulatedThread(self, connect, **options)
        self._threads.append(thread)
        return thread

    async def pause(self) -> None:
        await asyncio.sleep(self._chance.choice([0, 0, 0.001, 0.002, 0.02]))

    def fault(self, begin: str) -> Fault | None:
        if self._chance.random() >= self.fault_rate:
            return None
        self.faults += 1
        return self._chance.choice([Fault.NOT_DONE, Fault.DONE]) if "IMMEDIATE" in begin else Fault.NOT_DONE

    def group_size(self, most: int) -> int:
        return min(self._chance.randint(1, 4), most)

    def die(self) -> None:
        """End as with ``kill -9``: what is not durable now never will be."""
        for thread in self._threads:
            thread.die()
        self._threads.clear()


class SimulatedThread:
    """``DatabaseThread`` as a task: the same order, groups and outcomes."""

    def __init__(
        self, disk: Disk, connect: Callable[[], apsw.Connection], *, name: str, begin: str, group_max: int
    ) -> None:
        self._disk = disk
        self._connect = connect
        self._name = name
        self._begin = begin
        self._group_max = group_max
        self._calls: asyncio.Queue[_Call | None] = asyncio.Queue()
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None
        self._connection: apsw.Connection | None = None

    async def open(self) -> None:
        self._connection = self._connect()
        self._connection.pragma("synchronous", "off")  # this disk is lost with the process only
        self._task = asyncio.create_task(self._run(self._connection), name=self._name)

    async def call(self, work: Callable[[apsw.Connection], Any]) -> Any:
        if self._is_closed:
            raise StoreUnavailable("The store is closed.")
        call = _Call(work, asyncio.get_running_loop().create_future())
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
        self._disconnect()

    def die(self) -> None:
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
        self._disconnect()

    def _disconnect(self) -> None:
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
            if fault is not Fault.NOT_DONE:
                _run_group(connection, self._begin, group)
            await self._disk.pause()
            for call in group:
                if fault is not None:
                    call.error = StoreUnavailable("The disk is full.")
                call.resolve()
