"""The bytes of a changeset, for changes that need no recorder: those of Satchel's own tables.

The format is SQLite's: a header for each table, and behind it its changes. Rows of a
STRICT table are meant, whose values are of the types given.
"""

from collections.abc import Sequence
from typing import Final

import apsw

Value = int | str | bytes | None

_INSERT: Final = bytes((apsw.SQLITE_INSERT, 0))
_UPDATE: Final = bytes((apsw.SQLITE_UPDATE, 0))
_DELETE: Final = bytes((apsw.SQLITE_DELETE, 0))
_UNCHANGED: Final = b"\x00"
_INTEGER: Final = b"\x01"
_TEXT: Final = b"\x03"
_BLOB: Final = b"\x04"
_NULL: Final = b"\x05"
_SHORT: Final = 0x80
_SHORT_TEXTS: Final = tuple(_TEXT + bytes((length,)) for length in range(_SHORT))
"""How a text of each short length begins: most values are one, and a turn has dozens."""


def table_header(name: str, *, columns: int) -> bytes:
    """Return how the changes of a table begin whose key is its first column."""
    return b"T" + bytes((columns, 1)) + bytes(columns - 1) + name.encode() + b"\0"


def inserted(row: Sequence[Value]) -> bytes:
    """Return the insertion of a row."""
    return _INSERT + b"".join(map(encoded, row))


def updated(before: Sequence[Value], after: Sequence[Value]) -> bytes:
    """Return the change of a row, whose key, the first value, stays."""
    olds, news = [encoded(before[0])], [_UNCHANGED]
    for old, new in zip(before[1:], after[1:], strict=True):
        is_same = old == new
        olds.append(_UNCHANGED if is_same else encoded(old))
        news.append(_UNCHANGED if is_same else encoded(new))
    return b"".join((_UPDATE, *olds, *news))


def deleted(row: Sequence[Value]) -> bytes:
    """Return the deletion of a row."""
    return _DELETE + b"".join(map(encoded, row))


def encoded(value: Value) -> bytes:
    """Return a value as a changeset has it. Raises UnicodeEncodeError for text that SQLite would refuse, too."""
    if isinstance(value, str):
        text = value.encode()
        size = len(text)
        return (_SHORT_TEXTS[size] if size < _SHORT else _TEXT + _length(size)) + text
    if isinstance(value, int):
        return _INTEGER + value.to_bytes(8, "big", signed=True)
    return _NULL if value is None else _BLOB + _length(len(value)) + value


def _length(length: int) -> bytes:
    """Return a length as SQLite's varint: groups of seven bits, the highest first."""
    groups = [length & 0x7F]
    while length := length >> 7:
        groups.append(length & 0x7F | 0x80)
    return bytes(reversed(groups))
