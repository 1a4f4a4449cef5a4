"""The objects over one SQLite file, in a thread of its own, a piece a transaction."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import apsw

from satchel.errors import CorruptPayload
from satchel.limits import OBJECT_PIECE_BYTES_MAX
from satchel.model import SessionId, SessionKey, Tenant
from satchel.store.base import ObjectName
from satchel.store.files import connect_objects, connect_reader, objects_path
from satchel.store.rows import Bindings, Row, key_bindings
from satchel.store.statements import statements
from satchel.store.thread import MakesDatabases

_PAGE: Final = 256
"""Names read at once while sweeping."""


class SqliteObjects:
    """Immutable bytes over one SQLite file. See ``satchel.store.base.Objects``."""

    def __init__(
        self,
        path: Path,
        database: MakesDatabases,
        *,
        now_ms: Callable[[], int],
        settle_log: Callable[[], Awaitable[None]],
    ) -> None:
        """*path* is the log's: the objects lie beside it, and the log is opened first.

        *settle_log* waits for the log's writes that were asked for before it.
        """
        self._sql = statements("objects")
        self._now_ms = now_ms
        self._settle_log = settle_log
        self._path = objects_path(path)
        # One call a transaction: a large object is many of them, and small ones go between.
        self._writer = database(
            lambda: connect_objects(path), name="satchel-objects-writer", begin="BEGIN IMMEDIATE", group_max=1
        )
        self._reader = database(
            lambda: connect_reader(self._path), name="satchel-objects-reader", begin="BEGIN", group_max=1
        )

    async def open(self) -> None:
        await self._writer.open()
        await self._reader.open()

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()  # last, as the log's

    async def put(self, key: SessionKey, data: bytes) -> ObjectName:
        content_hash = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
        name = ObjectName(key, content_hash, len(data))
        bindings: Bindings = {**_bindings(name), "now_ms": self._now_ms(), "size": len(data)}
        if await self._writer.call(lambda db: db.execute(self._sql["begin_object"], bindings).get):
            return name
        for number, offset in enumerate(range(0, len(data), OBJECT_PIECE_BYTES_MAX)):
            await self._settle_log()  # the disk is one: a turn that waits for it goes before the next piece
            await self._put_piece(name, number, data[offset : offset + OBJECT_PIECE_BYTES_MAX])
        await self._finish(name)
        return name

    async def _put_piece(self, name: ObjectName, number: int, piece: bytes) -> None:
        bindings: Bindings = {**_bindings(name), "number": number, "data": piece}
        await self._writer.call(lambda db: db.execute(self._sql["put_piece"], bindings).fetchall())

    async def _finish(self, name: ObjectName) -> None:
        bindings: Bindings = {**_bindings(name), "now_ms": self._now_ms()}
        await self._writer.call(lambda db: db.execute(self._sql["finish_object"], bindings).fetchall())

    async def get(self, name: ObjectName) -> bytes:
        def work(db: apsw.Connection) -> bytes:
            data, content_hash = io.BytesIO(), hashlib.sha256()  # gives its bytes up without a second copy of them
            for (piece,) in db.execute(self._sql["pieces"], _bindings(name)):
                data.write(piece)
                content_hash.update(piece)
            if content_hash.digest() != name.content_hash:
                raise CorruptPayload("The object is gone or damaged.", content_hash=name.content_hash.hex())
            return data.getvalue()

        return await self._reader.call(work)

    async def sweepable(self, *, older_than_ms: int) -> AsyncIterator[ObjectName]:
        after = ObjectName(SessionKey(Tenant(""), SessionId("")), b"", 0)
        while page := await self._untouched(after, older_than_ms):
            for name in page:
                yield name
            after = page[-1]

    async def _untouched(self, after: ObjectName, older_than_ms: int) -> list[ObjectName]:
        bindings: Bindings = {**_bindings(after), "older_than_ms": older_than_ms, "limit": _PAGE}

        def work(db: apsw.Connection) -> list[Row]:
            return db.execute(self._sql["untouched"], bindings).fetchall()

        return [
            ObjectName(SessionKey(Tenant(tenant), SessionId(session_id)), content_hash, size)
            for tenant, session_id, content_hash, size in await self._reader.call(work)
        ]

    async def delete(self, name: ObjectName, *, older_than_ms: int) -> bool:
        bindings: Bindings = {**_bindings(name), "older_than_ms": older_than_ms}
        return bool(await self._writer.call(lambda db: db.execute(self._sql["delete_object"], bindings).fetchall()))


class ObjectWitness:
    """Tells the log's writer, in its thread, which objects are durable."""

    def __init__(self, path: Path) -> None:
        """*path* is the log's. The objects are opened at the first question."""
        self._path = objects_path(path)
        self._sql = statements("objects")
        self._connection: apsw.Connection | None = None

    def holds(self, name: ObjectName) -> bool:
        """Tell whether an object is whole and durable."""
        if self._connection is None:
            self._connection = connect_reader(self._path)
        return bool(self._connection.execute(self._sql["is_whole"], _bindings(name)).fetchall())

    def close(self) -> None:
        """Once the writer has ended. Idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _bindings(name: ObjectName) -> Bindings:
    return {**key_bindings(name.key), "content_hash": name.content_hash}
