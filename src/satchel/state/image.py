"""A snapshot's image made an open database: checked to be sound, and without holding up what else runs.

SQLite's ``deserialize`` holds Python's lock for as long as it copies, about 1 ms a
megabyte, so a large image is decompressed into a file of no name and copied from there.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import apsw

from satchel import limits
from satchel.errors import CorruptState
from satchel.model import Payload
from satchel.state.database import Database, with_deadline
from satchel.state.payload import unseal, unsealed

FILE_OVER_BYTES: Final = 4 * limits.MIB
"""A larger image goes by way of a file; up to here copying takes a few milliseconds, and a file more."""

_NOT_TEXT: Final = """
SELECT 1 FROM main.sqlite_schema
WHERE (typeof(type), typeof(name), typeof(tbl_name)) <> ('text', 'text', 'text') OR typeof(sql) NOT IN ('text', 'null')
"""
"""SQLite reads its own definitions from blobs as well; nobody else expects that."""
_HEADER_BYTES: Final = 100
_COPIED_PAGES: Final = 1000
"""Pages copied at a time: a few milliseconds."""


def opened_snapshot(payload: Payload) -> Database:
    """Return the database of a snapshot in its envelope, as ``opened_image`` does.

    A large one takes memory for the database alone, beside the envelope's own bytes.
    Raises ``CorruptPayload``, ``CorruptState``.
    """
    if payload.raw_size > FILE_OVER_BYTES:
        try:
            return _opened_by_file(payload)
        except (OSError, apsw.CantOpenError):
            pass  # no room for a file, or no right to make one: then in memory, whatever waits for it
    return opened_image(unseal(payload, raw_size_max=limits.STATE_BYTES_MAX))


def opened_image(image: bytes) -> Database:
    """Return the database of *image*, checked to be sound; triggers, views and foreign keys are off.

    Raises ``CorruptState``. What its rows say is checked by others: the state
    ID, the digest, the schema.
    """
    _check_header(image[:_HEADER_BYTES], len(image))
    with contextlib.closing(apsw.Connection(":memory:")) as source:
        source.deserialize("main", image)
        return _checked_copy(source, image[:_HEADER_BYTES])


def _opened_by_file(payload: Payload) -> Database:
    with _in_file(unsealed(payload, raw_size_max=limits.STATE_BYTES_MAX)) as (header, source):
        _check_header(header, payload.raw_size)
        return _checked_copy(source, header)


@contextlib.contextmanager
def _in_file(pieces: Iterable[bytes | memoryview]) -> Iterator[tuple[bytes, apsw.Connection]]:
    """Write an image to a file that is gone from its directory before it is read; yield its header and a connection."""
    descriptor, name = tempfile.mkstemp(prefix="satchel-")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "w+b", buffering=0) as file:
            file.writelines(pieces)
            file.seek(0)
            header = file.read(_HEADER_BYTES)
        source = apsw.Connection(f"{path.as_uri()}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    finally:
        path.unlink()
    with contextlib.closing(source):
        yield header, source


def _checked_copy(source: apsw.Connection, header: bytes) -> Database:
    """Copy an image into a plain in-memory database, and check the copy.

    A deserialized database serializes as it was at its last commit, and in pieces
    while a transaction is open. A plain in-memory one does not.
    """
    database = Database()
    try:
        database.set_page_size(_page_size(header))
        database.fill(source, pages=_COPIED_PAGES)
        with_deadline(database.connection, lambda: _check(database))
    except (apsw.Error, UnicodeDecodeError) as error:  # a report of damage may name what is not UTF-8
        database.close()
        raise CorruptState(f"The image of a state cannot be opened: {error}") from error
    except BaseException:
        database.close()
        raise
    return database


def _check(database: Database) -> None:
    report = database.run("PRAGMA main.quick_check(1)")
    if report != [("ok",)]:
        raise CorruptState(f"The image of a state is damaged: {report[0][0]}")
    if database.run("PRAGMA main.encoding") != [("UTF-8",)]:
        raise CorruptState("The image of a state is not in UTF-8.")
    if database.run(_NOT_TEXT):
        raise CorruptState("The image of a state has definitions that are not text.")


def _check_header(header: bytes, size: int) -> None:
    page_size = _page_size(header) if len(header) == _HEADER_BYTES else 0
    is_sound = (
        0 < size <= limits.STATE_BYTES_MAX
        and header.startswith(b"SQLite format 3\0")
        and page_size >= 512  # noqa: PLR2004  # SQLite's smallest page
        and page_size & (page_size - 1) == 0
        and size % page_size == 0
        and header[18:20] == b"\x01\x01"  # a WAL file cannot be opened in memory
    )
    if not is_sound:
        raise CorruptState("The image of a state has no sound header.")


def _page_size(header: bytes) -> int:
    size = int.from_bytes(header[16:18], "big")
    return 65536 if size == 1 else size
