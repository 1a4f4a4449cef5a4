"""What a peer is: one way to keep a conversation, and the counters of what that costs."""

import contextlib
import ctypes
import os
import pathlib
import socket
import sqlite3
import stat
import sys
import time
from collections.abc import Sequence
from typing import Final, Protocol

from benchmarks.peers.conversation import Item

PAGE_PRAGMAS: Final = ("page_count", "freelist_count", "page_size")

_libc: Final = ctypes.CDLL(None, use_errno=True)
_PIDFD_GETFD: Final = 438
_TCP_INFO_BYTES: Final = 256
_SENT, _RECEIVED = 200, 128
"""Where Linux's ``tcp_info`` has ``tcpi_bytes_sent`` and ``tcpi_bytes_received``."""


class Peer(Protocol):
    """One way to keep a conversation, in this process, on files of its own.

    ``fill`` begins another conversation; ``turn`` and ``cold_load`` are about the one begun last.
    The counters rise for ever: what something costs is the difference of two readings.
    """

    async def open(self) -> None: ...

    async def fill(self, session_id: str, items: Sequence[Item]) -> None:
        """Begin a conversation with *items*, the quickest way that the peer's own interface has."""

    async def arrive(self, items: Sequence[Item]) -> None:
        """Do what comes before a turn's state work; measured apart."""

    async def turn(self, items: Sequence[Item]) -> None:
        """Do the state work of one turn with *items*: obtain what the peer obtains, keep what is new."""

    async def forget(self) -> None:
        """Have ``cold_load`` find nothing in memory, if it would."""

    async def cold_load(self) -> int:
        """Read the conversation as a process does that never saw it; return how many items it has."""

    async def close(self) -> None: ...

    def cpu_s(self) -> float:
        """Seconds of processor time of every process that does the peer's work."""

    def stored_bytes(self) -> int:
        """Bytes at rest: pages in use of every database."""

    def written_bytes(self) -> int:
        """Bytes given to write(2); of PostgreSQL, bytes of WAL."""

    def wire_bytes(self) -> int:
        """Bytes on the sockets between what runs the turn and what keeps it, both ways."""


class LocalPeer:
    """A peer that works in this process alone, on SQLite files in *folder*."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    async def open(self) -> None:
        pass

    async def arrive(self, items: Sequence[Item]) -> None:
        pass

    async def forget(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def cpu_s(self) -> float:
        return time.process_time()

    def stored_bytes(self) -> int:
        return sum(used_bytes(path) for path in self.folder.glob("*.db"))

    def written_bytes(self) -> int:
        return written_bytes_of(os.getpid())

    def wire_bytes(self) -> int:
        return 0


def used_bytes(path: pathlib.Path) -> int:
    """Return the pages in use of the SQLite database at *path*, as this process's ``sqlite3`` sees them, in bytes."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        pages, free, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in PAGE_PRAGMAS)
    return int(pages - free) * int(size)


def written_bytes_of(pid: int) -> int:
    """Return the bytes that a process gave to write(2) and its like."""
    fields = dict(line.split(": ") for line in pathlib.Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["wchar"])


def cpu_s_of(pid: int) -> float:
    """Return the seconds of processor time of a process, all its threads, without its children."""
    return time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid makes it


def tcp_bytes(pid: int, port: int) -> int:
    """Return the bytes that went both ways on a process's open TCP connections to *port*."""
    pidfd = os.pidfd_open(pid)
    try:
        numbers = [int(path.name) for path in pathlib.Path(f"/proc/{pid}/fd").iterdir()]
        return sum(_connection_bytes(pidfd, number, port) for number in numbers)
    finally:
        os.close(pidfd)


def _connection_bytes(pidfd: int, number: int, port: int) -> int:
    descriptor = _libc.syscall(_PIDFD_GETFD, pidfd, number, 0)  # another process's descriptor, as one of ours
    if descriptor < 0:
        return 0  # it was closed since it was listed
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return 0
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(OSError):  # one that is not connected
        if connection.family == socket.AF_INET and connection.getpeername()[1] == port:
            return connection_bytes(connection)
    return 0


def connection_bytes(connection: socket.socket) -> int:
    """Return the bytes that went both ways on a TCP connection."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return sum(int.from_bytes(info[offset : offset + 8], sys.byteorder) for offset in (_SENT, _RECEIVED))
