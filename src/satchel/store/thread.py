"""One SQLite connection in a thread of its own, with group commit.

Calls that arrive while a transaction is being synced share the next one. Each call
runs in a savepoint, so that one that raises undoes only itself; no caller hears
of its call before the transaction is durable.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import apsw

from satchel.errors import InternalError, SatchelError, StoreUnavailable

Result = TypeVar("Result")
Work = Callable[[apsw.Connection], Any]

_UNAVAILABLE: Final = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.FullError,
    apsw.IOError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.NotADBError,
    apsw.PermissionsError,
    apsw.ProtocolError,
    apsw.ReadOnlyError,
)
"""What the file system does to us. Any other error of SQLite is our own bug."""


def translated(error: BaseException) -> BaseException:
    """Return *error* as one of ours, if it is SQLite's."""
    if isinstance(error, SatchelError) or not isinstance(error, apsw.Error):
        return error
    kind = StoreUnavailable if isinstance(error, _UNAVAILABLE) else InternalError
    ours = kind(f"The store failed: {error}.")
    ours.__cause__ = error
    return ours


class Call:
    """One caller's work, and what came of it."""

    def __init__(self, work: Work, future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None

    def resolve(self) -> None:
        if self.future.cancelled():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Database(Protocol):
    """Runs calls on one connection, in the order in which they were made, in groups that share a transaction."""

    async def open(self) -> None: ...
    async def call(self, work: Callable[[apsw.Connection], Result]) -> Result: ...
    async def settle(self) -> None: ...
    async def close(self) -> None: ...


class MakesDatabases(Protocol):
    """Makes a ``Database``: on a thread of its own, unless a test has its own idea of threads."""

    def __call__(
        self, connect: Callable[[], apsw.Connection], *, name: str, begin: str, group_max: int
    ) -> Database: ...


class DatabaseThread:
    """A ``Database`` in a thread of its own.

    ``open`` before use, ``close`` after. Only the event loop that opened it may call.
    """

    def __init__(self, connect: Callable[[], apsw.Connection], *, name: str, begin: str, group_max: int) -> None:
        self._connect = connect
        self._begin = begin
        self._group_max = group_max
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._opened: asyncio.Future[None]
        self._is_closed = False

    async def open(self) -> None:
        """Start the thread and connect. Raises what *connect* raises."""
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        self._thread.start()
        try:
            await asyncio.shield(self._opened)
        except BaseException:
            self._is_closed = True
            self._calls.put(None)
            raise

    async def call(self, work: Callable[[apsw.Connection], Result]) -> Result:
        """Run *work* inside a transaction; return its result once that is durable.

        What *work* raises undoes only what it did. Raises ``StoreUnavailable``: the
        outcome is unknown. A caller that is cancelled does not undo its call.
        """
        if self._is_closed:
            raise StoreUnavailable("The store is closed.")
        call = Call(work, self._loop.create_future())
        self._calls.put(call)
        result: Result = await call.future
        return result

    async def settle(self) -> None:
        """Wait until every call made before this one has its outcome."""
        await self.call(lambda _db: None)

    async def close(self) -> None:
        """Finish the calls that were made, and disconnect. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._calls.put(None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    # --- in the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            connection = self._connect()
        except BaseException as error:  # noqa: BLE001  # whoever opens the store hears of it
            self._loop.call_soon_threadsafe(self._fail_open, translated(error))
            return
        self._loop.call_soon_threadsafe(self._opened.set_result, None)
        try:
            while group := self._next_group():
                run_group(connection, self._begin, group)
                self._loop.call_soon_threadsafe(_resolve, group)
        finally:
            connection.close()

    def _fail_open(self, error: BaseException) -> None:
        self._opened.set_exception(error)

    def _next_group(self) -> list[Call]:
        """Wait for a call, and take all that have arrived with it. Empty: the thread ends."""
        first = self._calls.get()
        if first is None:
            return []
        group = [first]
        while len(group) < self._group_max:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                break
            if call is None:
                self._calls.put(None)  # nothing comes after it: end after this group
                break
            group.append(call)
        return group


def _resolve(group: list[Call]) -> None:
    for call in group:
        call.resolve()


def run_group(connection: apsw.Connection, begin: str, group: list[Call]) -> None:
    """Run *group* in one transaction. If that fails, every call of it failed."""
    try:
        connection.execute(begin)
        for call in group:
            _run_call(connection, call)
        connection.execute("COMMIT")
    except BaseException as error:  # noqa: BLE001  # every caller of the group waits for an outcome
        for call in group:
            call.error = translated(error)
        with contextlib.suppress(apsw.Error):  # a transaction that cannot end makes the next BEGIN say so
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _run_call(connection: apsw.Connection, call: Call) -> None:
    connection.execute("SAVEPOINT call")
    try:
        call.result = call.work(connection)
    except BaseException as error:
        if not connection.in_transaction:
            raise  # SQLite rolled the whole group back: disk full, I/O error
        connection.execute("ROLLBACK TO call")
        call.error = translated(error)
    connection.execute("RELEASE call")
