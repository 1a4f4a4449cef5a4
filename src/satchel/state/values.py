"""What a handler sees of its state: SQL, and a mapping of JSON values. Both end as rows."""

import json
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from typing import Any, Final, TypeVar, overload

import msgspec

from satchel import limits
from satchel.errors import StateMisused
from satchel.state import tables
from satchel.state.changeset import deleted, inserted, table_header, updated
from satchel.state.database import Database, Parameters

T = TypeVar("T")

_GET: Final = f"SELECT value FROM {tables.VALUES} WHERE key = ?"
_PUT: Final = f"INSERT INTO {tables.VALUES} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_DELETE: Final = f"DELETE FROM {tables.VALUES} WHERE key = ?"
_KEYS: Final = f"SELECT key FROM {tables.VALUES} ORDER BY key"
_COUNT: Final = f"SELECT count(*) FROM {tables.VALUES}"
_HEADER: Final = table_header(tables.VALUES, columns=2)


class Row(tuple[Any, ...]):  # noqa: SLOT001  # a tuple with a name for its columns has a dict
    """One row: a tuple that also answers to the names of its columns."""

    _columns: tuple[str, ...]

    @classmethod
    def of(cls, values: Iterable[Any], columns: tuple[str, ...]) -> "Row":
        row = cls(values)
        row._columns = columns
        return row

    def __getitem__(self, key: Any) -> Any:
        """Return a value by position, by slice or by the name of its column."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        try:
            return super().__getitem__(self._columns.index(key))
        except ValueError:
            raise KeyError(key) from None

    def keys(self) -> tuple[str, ...]:
        """Return the column names, so that ``dict(row)`` works."""
        return self._columns


class Rows(Sequence[Row]):
    """All rows of one statement."""

    def __init__(self, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
        self.columns = columns
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [Row.of(row, self.columns) for row in self._rows[index]]
        return Row.of(self._rows[index], self.columns)

    def __iter__(self) -> Iterator[Row]:
        return (Row.of(row, self.columns) for row in self._rows)

    def __repr__(self) -> str:
        return f"Rows({self.columns}, {list(self._rows)})"

    def first(self) -> Row | None:
        """Return the first row; None if there is none."""
        return self[0] if self._rows else None

    def one(self) -> Row:
        """Return the only row. Raises ``StateMisused`` unless there is exactly one."""
        if len(self._rows) != 1:
            raise StateMisused(f"The statement gave {len(self._rows)} rows, not exactly one.", rows=len(self._rows))
        return self[0]

    def scalar(self) -> Any:
        """Return the first value of the only row. Raises ``StateMisused`` unless there is exactly one."""
        return self.one()[0]


class _Held(msgspec.Struct):
    """A value as the handler holds it, and the text its row has."""

    value: Any
    text: str


class State(MutableMapping[str, Any]):
    """A session's state during one turn: ``execute`` for SQL, and a mapping of JSON values by key.

    A value that was read or set is live: what is changed in it in place is written
    before SQL runs a savepoint and at the end of the turn. It is JSON: None,
    bool, int, finite float, str, list, and dict with str keys. A rollback to a
    savepoint takes the mapping back, too; read values again after it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: dict[str, _Held] = {}
        self._before: dict[str, str | None] = {}
        """The text at the turn's begin, of each key that was written since; None: there was none."""
        self._is_open = True
        self._rollbacks = 0

    # --- SQL ---------------------------------------------------------------------------------

    def execute(self, sql: str, params: Parameters = ()) -> Rows:
        """Run SQL and return all rows of its last statement.

        SQL errors are raised as apsw's exceptions (``apsw.ConstraintError``, …).
        Raises ``StateMisused`` for what cannot be carried to another worker
        (transactions, ATTACH, most pragmas, writes to ``_satchel_`` tables) and
        ``StateTooLarge``.
        """
        with self._database.lock:
            self._check_open()
            return Rows(*self._database.run_fenced(sql, params))

    def executemany(self, sql: str, params: Iterable[Parameters]) -> None:
        """Run SQL once for each of *params*. Errors are those of ``execute``."""
        listed = list(params)
        with self._database.lock:
            self._check_open()
            self._database.run_fenced(sql, listed, many=True)

    @property
    def rollbacks(self) -> int:
        """How many rollbacks to a savepoint the turn has had: what was read before the last may be gone."""
        return self._rollbacks

    # --- the mapping -------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        held = self._hold(key)
        if held is None:
            raise KeyError(key)
        return held.value

    @overload
    def get(self, key: str, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    def get(self, key: str, default: T, *, type: type[T]) -> T: ...
    @overload
    def get(self, key: str, default: Any = None) -> Any: ...
    def get(self, key: str, default: Any = None, *, type: Any = None) -> Any:  # noqa: A002  # the word users know
        """Return the value of *key*, or *default*, which is not stored (``setdefault`` stores it).

        With *type* the value is converted to it by msgspec; the result is a copy, so
        assign it to store a change. Raises ``msgspec.ValidationError`` if it does not fit.
        """
        held = self._hold(key)
        if held is None:
            return default
        return held.value if type is None else msgspec.convert(held.value, type)

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise StateMisused(f"A key of the state is a str, not {_kind(key)}.")
        with self._database.lock:
            self._check_open()
            self._put(key, value, _encoded(key, value))

    def __delitem__(self, key: str) -> None:
        with self._database.lock:
            if self._hold(key) is None:
                raise KeyError(key)
            self._note_before(key)
            self._database.run_kept(_DELETE, (key,))
            del self._held[key]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._hold(key) is not None

    def __iter__(self) -> Iterator[str]:
        with self._database.lock:
            self._check_open()
            return iter([key for (key,) in self._database.run_kept(_KEYS)])

    def __len__(self) -> int:
        with self._database.lock:
            self._check_open()
            return int(self._database.run_kept(_COUNT)[0][0])

    def __repr__(self) -> str:
        return f"<State of {len(self)} values>" if self._is_open else "<State of a turn that is over>"

    # --- for the recorder --------------------------------------------------------------------

    def flush(self) -> None:
        """Write the values that were changed in place. Raises ``StateMisused`` for one that is no longer JSON."""
        for key, held in self._held.items():
            if isinstance(held.value, list | dict):
                text = _encoded(key, held.value)
                if text != held.text:
                    self._put(key, held.value, text)

    def changes(self) -> bytes:
        """Return what the turn has changed of the values, once they are flushed, as a changeset."""
        text = self._text if self._database.may_have_rolled_back else self._held_text
        changes = [_change(key, before, text(key)) for key, before in self._before.items()]
        return b"".join((_HEADER, *changes)) if any(changes) else b""

    def forget(self) -> None:
        """Read every value anew: a rollback to a savepoint has changed rows."""
        self._rollbacks += 1
        self._held.clear()

    def close(self) -> None:
        """End the turn, once a use in another thread is over: every later one raises."""
        with self._database.lock:
            self._is_open = False
            self._held.clear()

    def _check_open(self) -> None:
        if not self._is_open:
            raise StateMisused("The turn is over; its state cannot be used any more.")
        self._database.check_transaction()

    def _hold(self, key: str) -> _Held | None:
        with self._database.lock:
            self._check_open()
            held = self._held.get(key)
            if held is None:
                text = self._text(_checked_key(key))
                if text is None:
                    return None
                held = self._held[key] = _Held(json.loads(text), text)
            return held

    def _put(self, key: str, value: Any, text: str) -> None:
        self._note_before(key)
        self._database.run_kept(_PUT, (key, text))
        self._held[key] = _Held(value, text)

    def _note_before(self, key: str) -> None:
        """Keep the text that a key has before the turn's first write to it."""
        if key not in self._before:
            self._before[key] = self._held_text(key) if key in self._held else self._text(key)

    def _text(self, key: str) -> str | None:
        rows = self._database.run_kept(_GET, (key,))
        return rows[0][0] if rows else None

    def _held_text(self, key: str) -> str | None:
        held = self._held.get(key)
        return None if held is None else held.text


def _change(key: str, before: str | None, after: str | None) -> bytes:
    if before == after:
        return b""
    if before is None:
        return inserted((key, after))
    return deleted((key, before)) if after is None else updated((key, before), (key, after))


def _checked_key(key: str) -> str:
    if not isinstance(key, str):
        raise KeyError(key)
    return key


def _encoded(key: str, value: Any) -> str:
    """Return *value* as JSON. Raises ``StateMisused`` that names where it is none."""
    _check_json(value, f"state[{key!r}]", limits.JSON_DEPTH_MAX)
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError as error:
        raise StateMisused(f"state[{key!r}] holds text with half a surrogate pair, which is not Unicode.") from error


def _check_json(value: Any, where: str, depth: int) -> None:
    if value is None or isinstance(value, str | int):
        if type(value) in _SCALARS:
            return
    elif type(value) is float and _is_finite(value):
        return
    elif type(value) is list and depth:
        for index, item in enumerate(value):
            _check_json(item, f"{where}[{index}]", depth - 1)
        return
    elif type(value) is dict and depth:
        for name, item in value.items():
            if type(name) is not str:
                raise StateMisused(f"{where} has the key {name!r}: JSON has text keys only, so use str.")
            _check_json(item, f"{where}[{name!r}]", depth - 1)
        return
    raise StateMisused(f"{where} {_fault(value, depth)}", hint=_ADVICE)


_SCALARS: Final = frozenset({type(None), bool, int, str})
_ADVICE: Final = "Keep None, bool, int, float, str, list and dict; msgspec.to_builtins turns structs into these."


def _is_finite(value: float) -> bool:
    return value - value == 0.0


def _fault(value: Any, depth: int) -> str:
    if not depth and isinstance(value, list | dict):
        return f"is nested more than {limits.JSON_DEPTH_MAX} deep, or holds itself."
    return f"is {value!r}, which JSON does not have." if isinstance(value, float) else f"is a {_kind(value)}, not JSON."


def _kind(value: object) -> str:
    return type(value).__qualname__
