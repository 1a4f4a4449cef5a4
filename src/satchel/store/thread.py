"""One SQLite connection with a thread of its own, and group commit.

Calls that arrive while a transaction is being synced share the next one. Each call
runs in a savepoint, so that one that raises undoes only itself; no caller hears
of its call before the transaction is durable.
"""

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import apsw

from satchel.errors import InternalError, SatchelError, StoreUnavailable

BUSY_MS: Final = 5000
"""Only somebody from outside (a backup, a shell) can make us wait: a file has one writer."""

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

    def __init__(self, work: Work, future: asyncio.Future[Any], decided: Callable[[Any], None] | None = None) -> None:
        self.work = work
        self.future = future
        self.decided = decided
        self.result: Any = None
        self.error: BaseException | None = None

    def tell(self) -> None:
        """Let the caller hear what came of it, if it was not undone; it is not durable yet."""
        if self.decided is not None and self.error is None:
            self.decided(self.result)

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
    async def call(
        self, work: Callable[[apsw.Connection], Result], *, decided: Callable[[Result], None] | None = None
    ) -> Result: ...
    async def settle(self) -> None: ...
    async def close(self) -> None: ...


class MakesDatabases(Protocol):
    """Makes a ``Database``: one with a thread of its own, unless a test has its own idea of threads.

    *is_quick*: its statements are few and short, so that they may run on the caller's
    loop; only the wait for the disk needs the thread.
    """

    def __call__(
        self, connect: Callable[[], apsw.Connection], *, name: str, begin: str, group_max: int, is_quick: bool = False
    ) -> Database: ...


class DatabaseThread:
    """A ``Database`` with a thread of its own.

    All of a group's work runs in the thread, or, if *is_quick*, on the loop, and the
    thread begins at the commit. A statement lets the interpreter's lock go: in a
    thread beside a busy loop, each would wait for its turn anew.

    ``open`` before use, ``close`` after. Only the event loop that opened it may call.
    """

    def __init__(
        self, connect: Callable[[], apsw.Connection], *, name: str, begin: str, group_max: int, is_quick: bool = False
    ) -> None:
        self._connect = connect
        self._begin = begin
        self._group_max = group_max
        self._is_quick = is_quick
        self._waiting: deque[Call] = deque()
        self._is_running = False
        """A group is in the thread, or about to be made."""
        self._steps: queue.SimpleQueue[Callable[[apsw.Connection], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._opened: asyncio.Future[None]
        self._connection: apsw.Connection
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
            self._steps.put(None)
            raise

    async def call(
        self, work: Callable[[apsw.Connection], Result], *, decided: Callable[[Result], None] | None = None
    ) -> Result:
        """Run *work* inside a transaction; return its result once that is durable.

        What *work* raises undoes only what it did. Raises ``StoreUnavailable``: the
        outcome is unknown. A caller that is cancelled does not undo its call. If *is_quick*,
        *decided* is called on the loop with the result as soon as there is one.
        """
        if self._is_closed:
            raise StoreUnavailable("The store is closed.")
        call = Call(work, self._loop.create_future(), decided)
        self._waiting.append(call)
        if not self._is_running:
            self._is_running = True
            self._loop.call_soon(self._next_group)  # what else is called in this pass of the loop comes along
        result: Result = await call.future
        return result

    async def settle(self) -> None:
        """Wait until every call made before this one has its outcome."""
        await self.call(lambda _db: None)

    async def close(self) -> None:
        """Finish the calls that were made, and disconnect. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            if not self._is_running:
                self._steps.put(None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    def _next_group(self) -> None:
        """Run the calls that wait, up to a bound."""
        group = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._group_max))]
        if not group:
            self._is_running = False
            if self._is_closed:
                self._steps.put(None)
            return
        if self._is_quick and self._has_begun():
            work_group(self._connection, group)
            self._steps.put(partial(self._finish, commit_group, group))
            for call in group:
                call.tell()
        else:
            self._steps.put(partial(self._finish, self._run_patiently, group))

    def _has_begun(self) -> bool:
        """Begin a transaction at once; False if another process is in one: the thread waits for it."""
        try:
            self._connection.execute(self._begin)
        except apsw.Error:  # if it is more than that, the thread meets it again and tells
            return False
        return True

    def _ended(self, group: list[Call]) -> None:
        for call in group:
            call.resolve()
        self._loop.call_soon(self._next_group)  # what those who waited call next comes along

    # --- in the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._connection = self._connect()
            self._connection.set_busy_timeout(0)
        except BaseException as error:  # noqa: BLE001  # whoever opens the store hears of it
            self._loop.call_soon_threadsafe(self._opened.set_exception, translated(error))
            return
        self._loop.call_soon_threadsafe(self._opened.set_result, None)
        try:
            while step := self._steps.get():
                step(self._connection)
        finally:
            self._connection.close()

    def _finish(
        self,
        step: Callable[[apsw.Connection, list[Call]], None],
        group: list[Call],
        connection: apsw.Connection,
    ) -> None:
        step(connection, group)
        self._loop.call_soon_threadsafe(self._ended, group)

    def _run_patiently(self, connection: apsw.Connection, group: list[Call]) -> None:
        """Run a group's work and commit it, once whoever holds the file's lock lets it go."""
        connection.set_busy_timeout(BUSY_MS)
        run_group(connection, self._begin, group)
        connection.set_busy_timeout(0)


def run_group(connection: apsw.Connection, begin: str, group: list[Call]) -> None:
    """Run *group* in one transaction. If that fails, every call of it failed."""
    begin_group(connection, begin, group)
    work_group(connection, group)
    commit_group(connection, group)


def begin_group(connection: apsw.Connection, begin: str, group: list[Call]) -> None:
    """Open the transaction of *group*. If that fails, every call of it failed."""
    try:
        connection.execute(begin)
    except BaseException as error:  # noqa: BLE001  # every caller of the group waits for an outcome
        _fail(connection, group, error)


def work_group(connection: apsw.Connection, group: list[Call]) -> None:
    """Run the work of *group* in the open transaction, if it is open. If that ends, every call of it failed."""
    if not connection.in_transaction:
        return
    try:
        if len(group) == 1:  # alone: what it did is undone with the transaction
            group[0].result = group[0].work(connection)
            return
        for call in group:
            _run_call(connection, call)
    except BaseException as error:  # noqa: BLE001  # the same
        _fail(connection, group, error)


def commit_group(connection: apsw.Connection, group: list[Call]) -> None:
    """Make *group* durable, unless its transaction ended before. If that fails, every call of it failed."""
    if not connection.in_transaction:
        return
    try:
        connection.execute("COMMIT")
    except BaseException as error:  # noqa: BLE001  # the same
        _fail(connection, group, error)


def _fail(connection: apsw.Connection, group: list[Call], error: BaseException) -> None:
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
