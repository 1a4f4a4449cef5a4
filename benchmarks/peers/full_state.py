"""Full-state shipping: a worker that keeps nothing is sent the whole state, and sends all of it back.

The state is JSON under zstd-3, by the fastest libraries at hand; each turn inserts it as one row, durably.
"""

import contextlib
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import zstandard

from benchmarks.peers.conversation import Item, as_json
from benchmarks.peers.peer import LocalPeer

_LEVEL: Final = 3
_TABLE: Final = "CREATE TABLE state (session_id TEXT, version INTEGER, data BLOB, PRIMARY KEY (session_id, version))"


class FullState(LocalPeer):
    """The conversation as one blob a turn."""

    async def open(self) -> None:
        self._shipped_bytes = 0
        self._db = self._connected()
        self._db.execute(_TABLE)

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.folder / "states.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    async def close(self) -> None:
        self._db.close()

    async def fill(self, session_id: str, items: Sequence[Item]) -> None:
        self._session_id, self._version = session_id, 0
        self._data = _packed([])
        self._run(items)

    async def turn(self, items: Sequence[Item]) -> None:
        self._run(items)

    def _run(self, items: Sequence[Item]) -> None:
        state = _unpacked(self._data)
        state += [as_json(item, f"msg_{number:06}") for number, item in enumerate(items, start=len(state))]
        sent, self._data = self._data, _packed(state)
        self._version += 1
        self._db.execute("INSERT INTO state VALUES (?, ?, ?)", (self._session_id, self._version, self._data))
        self._shipped_bytes += len(sent) + len(self._data)

    async def cold_load(self) -> int:
        newest = "SELECT data FROM state WHERE session_id = ? ORDER BY version DESC LIMIT 1"
        with contextlib.closing(self._connected()) as connection:
            (data,) = connection.execute(newest, (self._session_id,)).fetchone()
        return len(_unpacked(data))

    def wire_bytes(self) -> int:
        return self._shipped_bytes


def _packed(state: list[Any]) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(msgspec.json.encode(state))


def _unpacked(data: bytes) -> list[Any]:
    return list(msgspec.json.decode(zstandard.ZstdDecompressor().decompress(data)))
