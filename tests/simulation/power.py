"""A disk that loses power: only what was synced is sure to be there again.

``PowerLossVfs`` stands between SQLite and the files of one folder. The files are what a
running process sees; the VFS keeps beside them what the disk has, and what it was given
since and not yet told to sync. When the power goes, a seeded part of that survives,
torn at sectors. The same seed and the same calls give the same disk.
"""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import apsw

SECTOR_BYTES: Final = 512

Change = Literal["write", "truncate", "sync", "create", "delete"]

_SYNCS_FOLDER: Final = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
"""A new file of these kinds is synced together with its folder, by SQLite on Unix."""


class _Content:
    """One file, by whatever name: its bytes on the disk, and what has not reached them."""

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = bytearray(durable)
        self.unsynced: list[tuple[int, bytes | None]] = []
        """Writes at an offset, in order; None in place of bytes: cut there."""

    def sync(self) -> None:
        for offset, data in self.unsynced:
            _apply(self.durable, offset, data)
        self.unsynced.clear()

    def survivor(self, chance: random.Random, *, everything: bool) -> bytes:
        """Return what is found after the loss. A file's length may survive without its bytes."""
        found = bytearray(self.durable)
        rate = 1.0 if everything else chance.choice((0.0, 0.5, 0.9, 1.0))
        for offset, data in self.unsynced:
            for start, piece in _sectors(offset, data):
                if everything or chance.random() < rate:
                    _apply(found, start, piece)
        longest = max((offset + len(data) for offset, data in self.unsynced if data is not None), default=0)
        if not everything and chance.random() < 0.25:
            found.extend(bytes(max(0, longest - len(found))))
        return bytes(found)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _sectors(offset: int, data: bytes | None) -> Iterator[tuple[int, bytes | None]]:
    """Yield the parts of a write that survive or do not, each alone."""
    if data is None:
        yield offset, None
        return
    start = 0
    while start < len(data):
        end = min(len(data), start + SECTOR_BYTES - (offset + start) % SECTOR_BYTES)
        yield offset + start, data[start:end]
        start = end


class PowerLossVfs(apsw.VFS):
    """The default VFS while it is open: every connection to a file below *folder* goes through it.

    At ``lose_power`` the processes are dead: what they do to the disk from then on
    raises ``apsw.IOError``. ``restore_power`` lets the next ones begin.
    """

    def __init__(self, name: str, folder: Path, chance: random.Random) -> None:
        self.watch: Callable[[Change], None] = lambda _change: None
        """Called at each change of the disk. It may lose the power: then that write is found whole, in part or
        not at all, and another change is not made."""
        self.losses = 0
        self._folder = f"{folder.resolve()}/"
        self._chance = chance
        self.base: Final = apsw.vfs_names()[0]
        self._contents: dict[str, _Content] = {}
        """What the processes see, by path."""
        self._entries: dict[str, list[_Content | None]] = {}
        """What the folder on the disk may say of a path: what it was at its last sync, and what came since."""
        self._found: dict[str, bytes] | None = None
        self._lock = threading.RLock()
        super().__init__(name, self.base, makedefault=True)

    @property
    def is_lost(self) -> bool:
        return self._found is not None

    def lose_power(self, *, everything: bool = False) -> None:
        """Decide what the disk will be found to have. A second time before ``restore_power``: nothing.

        With *everything* the machine lives and only its processes die, as with
        ``kill -9``: all they wrote is found.
        """
        with self._lock:
            if self._found is not None:
                return
            self.losses += 1
            self._found = {}
            for path, entries in sorted(self._entries.items()):
                content = entries[-1] if everything else self._chance.choice(entries)
                if content is not None:
                    self._found[path] = content.survivor(self._chance, everything=everything)

    def restore_power(self) -> None:
        """Close the connections that the dead left open, and put what was found into the folder.

        No thread is inside a call on one of those connections.
        """
        with self._lock:
            assert self._found is not None, "the power was not lost"
            for connection in apsw.connections():
                if connection.filename.startswith(self._folder):
                    with contextlib.suppress(apsw.IOError):  # it cannot tidy up
                        connection.close(force=True)
            for path in self._entries:
                for each in (path, f"{path}-shm"):
                    Path(each).unlink(missing_ok=True)
            for path, data in self._found.items():
                Path(path).write_bytes(data)
            self._contents = {path: _Content(data) for path, data in self._found.items()}
            self._entries = {path: [content] for path, content in self._contents.items()}
            self._found = None

    def close(self) -> None:
        """Be the default no longer. Every connection was closed before."""
        self.unregister()

    def change(self, change: Change) -> None:
        """Let a change of the disk begin, unless the power is lost by now."""
        with self._lock:
            if self._found is None:
                self.watch(change)
            self._refuse_if_lost()

    def _refuse_if_lost(self) -> None:
        if self._found is not None:
            raise apsw.IOError("The power is lost.")

    def sync_folder(self) -> None:
        """Make durable which files there are."""
        with self._lock:
            self._entries = {path: entries[-1:] for path, entries in self._entries.items() if entries[-1] is not None}

    # --- what SQLite calls: the names are its own ----------------------------------------------

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or not path.startswith(self._folder):
            return apsw.VFSFile(self.base, name, flags)
        with self._lock:
            self._refuse_if_lost()
        existed = Path(path).exists()
        if not existed and flags[0] & apsw.SQLITE_OPEN_CREATE:
            self.change("create")
        return _File(self, name, flags, lambda: self._content(path, existed=existed))

    def _content(self, path: str, *, existed: bool) -> _Content:
        with self._lock:
            if path not in self._contents:
                self._contents[path] = content = _Content(Path(path).read_bytes() if existed else b"")
                self._entries.setdefault(path, [] if existed else [None]).append(content)
            return self._contents[path]

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802, FBT001
        self.change("delete")
        super().xDelete(filename, syncdir)
        with self._lock:
            if self._contents.pop(filename, None) is not None:
                self._entries[filename].append(None)
        if syncdir:
            self.sync_folder()


class _File(apsw.VFSFile):
    """One open file below the folder."""

    def __init__(
        self,
        disk: PowerLossVfs,
        name: str | apsw.URIFilename | None,
        flags: list[int],
        content: Callable[[], _Content],
    ) -> None:
        super().__init__(disk.base, name, flags)
        self._disk = disk
        self._content = content()
        self._syncs_folder = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & _SYNCS_FOLDER)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._content.unsynced.append((offset, data))  # first: a write that is under way may be found, too
        self._disk.change("write")
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._disk.change("truncate")
        self._content.unsynced.append((size, None))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: ARG002, N802  # the disk is ours: the real one need not be waited for
        self._disk.change("sync")
        self._content.sync()
        if self._syncs_folder:
            self._syncs_folder = False
            self._disk.sync_folder()
