"""The conversation as rows: one item a row, in order of insertion, parsed when it is read."""

import functools
from collections.abc import Iterator, Sequence
from typing import Final, overload

import msgspec

from satchel.errors import StateMisused
from satchel.model import AgentHandoff, FunctionCall, FunctionCallOutput, Message, MessageId
from satchel.state import tables
from satchel.state.changeset import encoded, inserted, table_header
from satchel.state.database import Database

HistoryItem = Message | FunctionCall | FunctionCallOutput | AgentHandoff

_TYPES: Final[dict[str, type[HistoryItem]]] = {
    "message": Message,
    "function_call": FunctionCall,
    "function_call_output": FunctionCallOutput,
    "agent_handoff": AgentHandoff,
}
_NAMES: Final = {kind: name for name, kind in _TYPES.items()}
_DECODERS: Final = {name: msgspec.json.Decoder(kind) for name, kind in _TYPES.items()}
_PAGE: Final = 256
"""Rows read at a time when all are wanted; each is parsed when it is asked for."""

_APPEND: Final = f"INSERT INTO {tables.HISTORY} VALUES (?, ?, ?, ?, ?, ?, ?)"
_RANGE: Final = f"SELECT type, content FROM {tables.HISTORY} WHERE position > ? AND position <= ? ORDER BY position"
_LENGTH: Final = f"SELECT max(position) FROM {tables.HISTORY}"
_COUNT: Final = f"SELECT count(*) FROM {tables.HISTORY} WHERE position >= ?"
_HEADER: Final = table_header(tables.HISTORY, columns=7)
_INSERTED: Final = inserted(())
_often_encoded: Final = functools.lru_cache(maxsize=64)(encoded)
"""For types and message IDs, of which many rows have the same."""

_Row = tuple[int, str, str, str | None, str, str, str]
"""As in the table: position, item ID, type, role, message ID, content, time of creation."""


class History(Sequence[HistoryItem]):
    """The conversation so far, oldest first: the users' messages, then what the agent said and called.

    Reading costs what is read: ``history[-1]`` and ``last(20)`` do not grow with
    the conversation, and an item is parsed when it is reached.
    """

    def __init__(self, database: Database, message_id: MessageId, length: int | None = None) -> None:
        self._database = database
        self._message_id = message_id
        self._is_open = True
        self.known_length = length
        """How many items there are, also when the turn is over; None: nobody asked."""
        self._rows: list[_Row] = []
        """Those of this turn, in order."""

    def __len__(self) -> int:
        with self._database.lock:
            self._check_open()
            return self._counted()

    @overload
    def __getitem__(self, index: int) -> HistoryItem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[HistoryItem]: ...
    def __getitem__(self, index: int | slice) -> HistoryItem | Sequence[HistoryItem]:
        if isinstance(index, slice):
            return self._slice(range(len(self))[index])
        return _parsed(self._read(*self._span(index))[0])

    def __iter__(self) -> Iterator[HistoryItem]:
        position = 0
        while position < len(self):
            page = self._read(position, min(position + _PAGE, len(self)))
            yield from map(_parsed, page)
            position += len(page)

    def __repr__(self) -> str:
        return f"<History of {len(self)} items>" if self._is_open else "<History of a turn that is over>"

    def last(self, count: int) -> Sequence[HistoryItem]:
        """Return the newest *count* items, oldest first; fewer if there are fewer."""
        length = len(self)
        rows = self._read(max(length - max(count, 0), 0), length)
        return [_DECODERS[kind].decode(content) for kind, content in rows]

    def append(self, item: HistoryItem) -> None:
        """Record one item of this turn at the end. Raises ``StateTooLarge``."""
        with self._database.lock:
            self._check_open()
            self._database.check_transaction()
            position = self._counted() + 1
            content = msgspec.json.encode(item).decode()
            role = item.role if isinstance(item, Message) else None
            self._insert((position, item.id, _NAMES[type(item)], role, self._message_id, content, item.created_at))

    def _insert(self, row: _Row) -> None:
        self._database.run_kept(_APPEND, row)
        self._rows.append(row)
        self.known_length = row[0]

    # --- for the recorder --------------------------------------------------------------------

    def restore(self) -> None:
        """Write again what a rollback to a savepoint took back: it was said, and the caller has it."""
        self.known_length = None
        kept = len(self)
        rows, self._rows = self._rows, [row for row in self._rows if row[0] <= kept]
        for row in rows[len(self._rows) :]:
            self._insert(row)

    def changes(self) -> bytes:
        """Return what the turn has appended, as a changeset; nothing else ever changes these rows."""
        if not self._rows:
            return b""
        parts = [_HEADER]
        for position, item_id, kind, role, message_id, content, created_at in self._rows:
            parts += (_INSERTED, encoded(position), encoded(item_id))
            parts += (_often_encoded(kind), encoded(role), _often_encoded(message_id))
            parts += (encoded(content), encoded(created_at))
        return b"".join(parts)

    def is_whole(self) -> bool:
        """Whether the table has what ``changes`` says, whatever was rolled back."""
        if not self._rows or not self._database.may_have_rolled_back:
            return True
        return bool(self._database.run_kept(_COUNT, self._rows[0][:1])[0][0] == len(self._rows))

    def close(self) -> None:
        """End the turn, as ``State.close``."""
        with self._database.lock:
            self._is_open = False

    def _span(self, index: int) -> tuple[int, int]:
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError("history index out of range")
        return position, position + 1

    def _slice(self, wanted: range) -> Sequence[HistoryItem]:
        if not wanted:
            return []
        low, high = min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1])
        rows = self._read(low, high + 1)
        return [_parsed(rows[position - low]) for position in wanted]

    def _read(self, after: int, upto: int) -> list[tuple[str, str]]:
        """Return type and content of the items at the positions *after* + 1 … *upto*."""
        with self._database.lock:
            self._check_open()
            return self._database.run_kept(_RANGE, (after, upto))

    def _counted(self) -> int:
        if self.known_length is None:
            # Rows are only ever appended, from 1 on.
            self.known_length = self._database.run_kept(_LENGTH)[0][0] or 0
        return self.known_length

    def _check_open(self) -> None:
        if not self._is_open:
            raise StateMisused("The turn is over; its history cannot be used any more.")


def _parsed(row: tuple[str, str]) -> HistoryItem:
    kind, content = row
    return _DECODERS[kind].decode(content)
