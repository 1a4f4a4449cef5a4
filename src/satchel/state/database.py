"""One open SQLite database, hardened and fenced: every connection in this package is made and asked here."""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import apsw

from satchel import limits
from satchel.errors import StateMisused, StateTooLarge
from satchel.state.fence import Authorizer, Fence

Parameters = Sequence[Any] | Mapping[str, Any]

_LIMITS: Final = {
    apsw.SQLITE_LIMIT_LENGTH: limits.VALUE_BYTES_MAX,
    apsw.SQLITE_LIMIT_SQL_LENGTH: limits.SQL_BYTES_MAX,
    apsw.SQLITE_LIMIT_VDBE_OP: limits.SQLITE_STEPS_MAX,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: limits.TRIGGER_DEPTH_MAX,
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_ALWAYS: Final = {
    apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA: 0,
    apsw.SQLITE_DBCONFIG_DEFENSIVE: 1,
    apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION: 0,
    apsw.SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE: 0,
    apsw.SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE: 0,
    # A mistyped name in double quotes is an error, not a text.
    apsw.SQLITE_DBCONFIG_DQS_DDL: 0,
    apsw.SQLITE_DBCONFIG_DQS_DML: 0,
}
_LIVELY: Final = (
    apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER,
    apsw.SQLITE_DBCONFIG_ENABLE_VIEW,
    apsw.SQLITE_DBCONFIG_ENABLE_FKEY,
)
_SAVEPOINT: Final = re.compile(r"(?:\s|\ufeff|;|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$))*(savepoint|rollback)\b", re.DOTALL)


PAGE_BYTES: Final = 4096
"""A new session's page: compressed, a small state weighs the same whatever its page."""

_STATEMENTS_KEPT: Final = 40
"""Prepared statements that a copy keeps, each 1 to 4 KB: ours are a dozen, the rest are the handler's."""
_OURS: Final = apsw.SQLITE_PREPARE_PERSISTENT
"""Statements are cached by their text and these flags, which a handler's never have."""


class Database:
    """A connection that is never handed out.

    ``run`` and ``run_kept`` are for our own statements, ``run_fenced`` for a handler's, who
    holds ``lock`` then. Everything else may be used from any thread, but from one at a time.
    """

    def __init__(self) -> None:
        # A handler's tools may run in threads of their framework, several at once.
        self.lock: Final = threading.RLock()
        self.connection = apsw.Connection(":memory:", statementcachesize=_STATEMENTS_KEPT)
        # While any session exists, no DELETE is prepared with the truncate
        # optimisation, which a later session would not see. This one watches nothing.
        self._sentinel = apsw.Session(self.connection, "main")
        self.authorizer = Authorizer()
        self._cursor: Final = self.connection.cursor()
        self._page_size = PAGE_BYTES
        self._is_ending = False
        self.is_lost = False
        """The turn's transaction ended without us: an OR ROLLBACK conflict, a failed write."""
        self.before_statements: Callable[[], None] = _nothing
        """Called before a handler's statements are run, which may change any row."""
        self.may_have_rolled_back = False
        """Whether a handler's statement of this transaction said ROLLBACK, the only way back to a savepoint."""
        self.before_savepoint: Callable[[], None] = _nothing
        self.after_rollback: Callable[[], None] = _nothing
        self.expire_statements()
        self._harden()

    def expire_statements(self) -> None:
        """Have every statement prepared anew, and so met by the authorizer again."""
        self.connection.authorizer = self.authorizer.check

    def _harden(self) -> None:
        for option, value in _ALWAYS.items():
            self.connection.config(option, value)
        for limit, value in _LIMITS.items():
            self.connection.limit(limit, value)
        self.connection.set_rollback_hook(self._rolled_back)
        self.set_quiet(quiet=True)

    def set_page_size(self, page_size: int) -> None:
        """Set the bytes of a page, before there is any, and what follows from it."""
        self._page_size = page_size
        pages = limits.STATE_BYTES_MAX // page_size
        for pragma in (f"page_size={page_size}", f"max_page_count={pages}", "secure_delete=1", "cell_size_check=1"):
            self.run(f"PRAGMA main.{pragma}")

    def fill(self, source: apsw.Connection, *, pages: int) -> None:
        """Copy what *source* has committed into this empty database, *pages* at a time; others run between."""
        with self.connection.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(pages)

    def set_quiet(self, *, quiet: bool) -> None:
        """Switch triggers, views and foreign keys off (checks, deltas) or on (handlers)."""
        for option in _LIVELY:
            self.connection.config(option, 0 if quiet else 1)

    @property
    def schema_version(self) -> int:
        """SQLite's count of definitions made; a copy has a count of its own."""
        return int(self.run_kept("PRAGMA main.schema_version")[0][0])

    @property
    def size(self) -> int:
        """Bytes of the database, pages x page size, with what is uncommitted."""
        return int(self.run_kept("PRAGMA main.page_count")[0][0]) * self._page_size

    # --- transactions ----------------------------------------------------------------------

    def begin(self) -> None:
        assert not self.connection.in_transaction, "a transaction is open"
        self.is_lost = self.may_have_rolled_back = False
        self.run_kept("BEGIN")

    def commit(self) -> None:
        self.run_kept("COMMIT")

    def rollback(self) -> None:
        if self.connection.in_transaction:
            self._is_ending = True
            try:
                self.run("ROLLBACK")
            finally:
                self._is_ending = False

    def _rolled_back(self) -> None:
        self.is_lost = self.is_lost or not self._is_ending

    def check_transaction(self) -> None:
        """Raise ``StateMisused`` if the turn's transaction is no longer the one we opened."""
        if self.is_lost or not self.connection.in_transaction:
            self.is_lost = True
            raise StateMisused(
                "The turn's transaction was rolled back by one of its statements (OR ROLLBACK, RAISE(ROLLBACK))."
            )

    # --- statements ------------------------------------------------------------------------

    def run(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Run one statement of ours and return all its rows."""
        return self._run(sql, parameters, False)

    def run_kept(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Run one statement that every turn runs, as ``run``: it is kept prepared."""
        return self._run(sql, parameters, True)

    def _run(self, sql: str, parameters: Parameters, can_cache: bool) -> list[tuple[Any, ...]]:  # noqa: FBT001  # every turn, a dozen times
        with self.lock:
            try:
                # A handler that sends the same text must meet the authorizer: hence the flags.
                return self._cursor.execute(sql, parameters, can_cache=can_cache, prepare_flags=_OURS).fetchall()
            except apsw.TooBigError as error:
                raise _too_big() from error
            except apsw.FullError as error:
                raise _too_large() from error

    def run_fenced(
        self, sql: str, parameters: Parameters | Sequence[Parameters], *, many: bool = False
    ) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Run a handler's statements; return column names and all rows of the last one.

        SQL errors are apsw's own. Raises ``StateMisused`` for what is refused and
        for a lost transaction, ``StateTooLarge`` at the bound of the state.
        """
        self.check_transaction()
        self.before_statements()
        cursor = self.connection.cursor()
        last = _Last(self)
        cursor.exec_trace = last
        self.authorizer.fence = Fence.HANDLER
        try:
            rows = cursor.executemany(sql, parameters) if many else cursor.execute(sql, parameters)
            for row in rows:
                last.rows.append(row)
        except apsw.AuthError as error:
            raise StateMisused(self.authorizer.refusal or str(error)) from None  # it says no more than ours
        except apsw.TooBigError as error:
            raise _too_big() from error
        except apsw.FullError as error:
            raise _too_large() from error
        finally:
            self.authorizer.fence = Fence.DOWN
            cursor.close(True)
            if last.saw_rollback:
                self.after_rollback()
        return last.columns, last.rows

    @contextlib.contextmanager
    def trusted(self) -> Iterator[None]:
        """Do without the authorizer for a while, in which no statement is a handler's.

        It is asked about every column of every statement that applies a delta.
        """
        self.connection.authorizer = None
        try:
            yield
        finally:
            self.expire_statements()

    @contextlib.contextmanager
    def shadow_tables_writable(self) -> Iterator[None]:
        """Let a checked delta write the tables of FTS and R-Tree; nothing else may."""
        self.connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        try:
            yield
        finally:
            self.connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)

    def image(self) -> bytes:
        """Return the whole database, with what is uncommitted."""
        return self.connection.serialize("main")

    def forget_schema(self) -> None:
        """Have the schema read anew, outside a transaction: full-text tables remember pages that a delta changed."""
        self.run("PRAGMA main.writable_schema=RESET")

    def vacuumed(self) -> bytes:
        """Rewrite the database without free pages, outside a transaction, and return it."""
        # VACUUM attaches a database of its own for as long as it runs.
        self.connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 1)
        try:
            self.run("VACUUM main")
        finally:
            self.connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
        return self.image()

    def close(self) -> None:
        """Close; an open transaction is gone. Idempotent."""
        self._sentinel.close()
        self.connection.close(True)


class _Last:
    """Keeps the rows of the last of a handler's statements, and watches for savepoints."""

    def __init__(self, database: Database) -> None:
        self.columns: tuple[str, ...] = ()
        self.rows: list[tuple[Any, ...]] = []
        self.saw_rollback = False
        self._database = database

    def __call__(self, cursor: apsw.Cursor, sql: str, _bindings: object) -> bool:
        self.columns = tuple(column[0] for column in cursor.get_description())
        self.rows = []
        text = sql.lower()
        if "rollback" in text:
            self._database.may_have_rolled_back = True
        if ("rollback" in text or "savepoint" in text) and (found := _SAVEPOINT.match(text)):
            self.saw_rollback = self.saw_rollback or found[1] == "rollback"
            if not self.saw_rollback:
                self._work_between()
        return True

    def _work_between(self) -> None:
        """Let statements of ours run between those of the handler."""
        authorizer = self._database.authorizer
        authorizer.fence = Fence.DOWN
        try:
            self._database.before_savepoint()
        finally:
            authorizer.fence = Fence.HANDLER


def trim_connections() -> None:
    """Have the connections of this process begin with 28 KB for small allocations instead of SQLite's 47.

    For a process that is ours and keeps thousands: it is a setting of the whole process,
    and left as it is where a connection is open already. One in fifteen of a turn's small
    allocations finds no room there.
    """
    if not apsw.connections():
        apsw.shutdown()
        apsw.config(apsw.SQLITE_CONFIG_LOOKASIDE, 1200, 24)
        apsw.initialize()


def empty_database() -> Database:
    """Return a database without tables, its triggers, views and foreign keys off."""
    database = Database()
    database.set_page_size(PAGE_BYTES)
    return database


def with_deadline(connection: apsw.Connection, work: Callable[[], None]) -> None:
    """Do *work* on a connection; SQLite stops after ``OPEN_DEADLINE_S`` with apsw.InterruptError."""
    end = time.monotonic() + limits.OPEN_DEADLINE_S
    connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    try:
        work()
    finally:
        connection.set_progress_handler(None)


def _nothing() -> None:
    """Do nothing: no turn runs."""


def _too_big() -> StateMisused:
    return StateMisused(
        f"A value has at most {limits.VALUE_BYTES_MAX} bytes.",
        hint="Keep files elsewhere and their names in the state.",
    )


def _too_large() -> StateTooLarge:
    return StateTooLarge(
        f"The session's state would be over its bound of {limits.STATE_BYTES_MAX} bytes.",
        state_bytes_max=limits.STATE_BYTES_MAX,
    )
