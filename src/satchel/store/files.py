"""The files of an embedded store: where they are, whose they are, and how they are opened.

``x.db`` is the log, ``x.objects.db`` the objects, ``x.db.lock`` names the process
that has them open. The lock is the operating system's and ends with the process.
"""

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Final

import apsw
import msgspec

from satchel.errors import StoreFormatUnknown, StoreInUse, StoreUnavailable
from satchel.model import rfc3339
from satchel.store.statements import schema
from satchel.store.thread import BUSY_MS

FORMAT: Final = 2
"""Rises with every change to the schema. A newer file is refused by name."""

APPLICATION_ID: Final = 0x53744368
"""In the header of both files: ``StCh``."""

_LOG_PAGE_BYTES: Final = 4096
_OBJECTS_PAGE_BYTES: Final = 16384
"""Objects are read and written a megabyte at a time."""


def objects_path(path: Path) -> Path:
    """Return where the objects of the log *path* are: ``x.db`` has ``x.objects.db`` beside it."""
    return path.with_name(f"{path.stem}.objects{path.suffix}")


class _Holder(msgspec.Struct, frozen=True):
    pid: int
    host: str
    since: str
    url: str


class StoreLock:
    """One process's hold on a store's files, until it is released or the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, path: Path, *, holder: str) -> "StoreLock":
        """Lock the store at *path*; *holder* is the URL this process serves, or empty.

        Raises ``StoreInUse``, which names the process that has it, and ``OSError``.
        """
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            content = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            raise _in_use(path, content) from error
        except OSError:  # a file system without locks
            os.close(descriptor)
            raise
        me = _Holder(os.getpid(), socket.gethostname(), rfc3339(time.time_ns() // 1_000_000), holder)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, msgspec.json.encode(me), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let the store go. Idempotent. The file stays: deleting it would let two hold it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _in_use(path: Path, content: bytes) -> StoreInUse:
    hint = "Send requests to that hub, or stop it first. One store file has one hub."
    try:
        holder = msgspec.json.decode(content, type=_Holder)
    except msgspec.DecodeError:  # between its lock and its name
        return StoreInUse(f"{path} is open in another process.", hint=hint, path=str(path))
    at = f" ({holder.url})" if holder.url else ""
    return StoreInUse(
        f"{path} is open in process {holder.pid} on {holder.host}{at} since {holder.since}.",
        hint=hint,
        path=str(path),
        **msgspec.to_builtins(holder),
    )


def connect_log(path: Path) -> apsw.Connection:
    """Open the log for writing; create it if it is new. Raises ``StoreFormatUnknown``."""
    return _connect(path, "log_schema", store_id=os.urandom(16), page_bytes=_LOG_PAGE_BYTES)


def connect_objects(path: Path) -> apsw.Connection:
    """Open the objects of the log *path*, which was opened before; create them for an empty log.

    Raises ``StoreFormatUnknown``, also when the two files do not belong together.
    """
    with contextlib.closing(connect_reader(path)) as log:
        store_id = bytes(log.execute("SELECT store_id FROM meta").get)
        is_empty = log.execute("SELECT NOT EXISTS (SELECT 1 FROM session)").get
    objects = objects_path(path)
    if not is_empty and not objects.exists():
        raise StoreFormatUnknown(
            f"{objects} is missing: the sessions of {path} cannot be read without it.",
            hint="Put back both files of one copy of the store.",
            path=str(objects),
        )
    connection = _connect(objects, "objects_schema", store_id=store_id, page_bytes=_OBJECTS_PAGE_BYTES)
    if connection.execute("SELECT store_id FROM meta").get != store_id:
        connection.close()
        raise StoreFormatUnknown(
            f"{objects} does not belong to {path}.",
            hint="Put back both files of one copy of the store.",
            path=str(objects),
        )
    return connection


def connect_reader(path: Path) -> apsw.Connection:
    """Open a file that exists for reading."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    _tune(connection)
    return connection


def _tune(connection: apsw.Connection) -> None:
    connection.set_busy_timeout(BUSY_MS)
    # Else SQLite prepares a cached statement anew for every value bound where a
    # partial index might apply: ten times the cost of reading a turn.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)


def _connect(path: Path, schema_file: str, *, store_id: bytes, page_bytes: int) -> apsw.Connection:
    try:
        connection = apsw.Connection(str(path))
    except apsw.CantOpenError as error:
        raise StoreUnavailable(f"{path} cannot be opened.", hint="Check the path and its permissions.") from error
    try:
        _tune(connection)
        if _is_new(connection, path):
            _create(connection, schema_file, store_id=store_id, page_bytes=page_bytes)
        _check_format(connection, path)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        connection.pragma("foreign_keys", True)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_new(connection: apsw.Connection, path: Path) -> bool:
    try:
        return bool(connection.execute("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)").get)
    except apsw.NotADBError as error:
        raise _not_ours(path) from error


def _create(connection: apsw.Connection, schema_file: str, *, store_id: bytes, page_bytes: int) -> None:
    connection.pragma("page_size", page_bytes)
    connection.pragma("journal_mode", "wal")
    with connection:
        connection.pragma("application_id", APPLICATION_ID)
        connection.execute(schema(schema_file))
        connection.execute("INSERT INTO meta (id, format, store_id) VALUES (1, ?, ?)", (FORMAT, store_id))


def _check_format(connection: apsw.Connection, path: Path) -> None:
    if connection.pragma("application_id") != APPLICATION_ID:
        raise _not_ours(path)
    found = connection.execute("SELECT format FROM meta").get
    if found != FORMAT:
        raise StoreFormatUnknown(
            f"{path} has format {found}; this Satchel reads format {FORMAT}.",
            path=str(path),
            format=found,
            format_max=FORMAT,
        )


def _not_ours(path: Path) -> StoreFormatUnknown:
    return StoreFormatUnknown(
        f"{path} is not a Satchel store.", hint="Name another file; this one was left as it is.", path=str(path)
    )
