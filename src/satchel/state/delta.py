"""Deltas: what a recorded turn changed, whether a changeset is the delta of one turn, and how it is applied."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import apsw
import msgspec

from satchel import limits
from satchel.errors import ApplyConflict, CorruptPayload
from satchel.model import Epoch, StateName, Version
from satchel.state import tables
from satchel.state.changeset import table_header
from satchel.state.database import Database, with_deadline
from satchel.state.schema import Facts, Shape

Counts = dict[str, tuple[int, int, int]]
"""Rows inserted, updated and deleted, by table."""

COMBINED_BYTES_MAX: Final = limits.MIB
"""Deltas are combined up to this size: larger ones take their time for rows, and would stand in memory twice."""

_OPERATIONS: Final = {apsw.SQLITE_INSERT: 0, apsw.SQLITE_UPDATE: 1, apsw.SQLITE_DELETE: 2}
_CONFLICTS: Final = {
    apsw.SQLITE_CHANGESET_DATA: "a row has other values",
    apsw.SQLITE_CHANGESET_NOTFOUND: "a row is not there",
    apsw.SQLITE_CHANGESET_CONFLICT: "a row is there already",
    apsw.SQLITE_CHANGESET_CONSTRAINT: "a constraint is broken",
    apsw.SQLITE_CHANGESET_FOREIGN_KEY: "a foreign key is broken",
}
TURN_HEADER: Final = table_header(tables.TURN, columns=len(tables.TURN_COLUMNS))
"""How the changes of ``_satchel_turn`` begin."""


class TurnMark(msgspec.Struct, frozen=True, array_like=True):
    """What the last change of a delta says: the new values of the one row of ``_satchel_turn``; None: unchanged."""

    session_id: str | None
    version: int | None
    epoch: int | None
    base_state_id: bytes | None
    schema_number: int | None


class Changes(msgspec.Struct):
    """What one pass over a changeset finds."""

    counts: dict[str, list[int]]
    largest_keys: dict[str, int]
    """The largest key inserted into each AUTOINCREMENT table."""
    mark: TurnMark | None
    """None: the changeset does not end with one change of ``_satchel_turn``."""


def changes(raw: bytes, autoincrement: frozenset[str] = frozenset()) -> Changes:
    """Return what a changeset changes. Raises apsw.Error if it is malformed."""
    counts: dict[str, list[int]] = {}
    largest: dict[str, int] = {}
    last = None
    for change in apsw.Changeset.iter(raw):
        name, operation = change.name, change.opcode
        if name not in counts:
            counts[name] = [0, 0, 0]
        counts[name][_OPERATIONS[operation]] += 1
        if name in autoincrement and operation == apsw.SQLITE_INSERT:
            key = _inserted_key(change)
            largest[name] = max(largest.get(name, key), key)
        last = _mark(change) if name == tables.TURN else None
    is_marked = last is not None and counts[tables.TURN] == [0, 1, 0]
    return Changes(counts, largest, last if is_marked else None)


def _inserted_key(change: apsw.TableChange) -> int:
    assert change.new is not None, "an INSERT has new values"
    (index,) = change.pk_columns
    key = change.new[index]
    assert isinstance(key, int), "an AUTOINCREMENT key is an integer"
    return key


def _mark(change: apsw.TableChange) -> TurnMark | None:
    if change.opcode != apsw.SQLITE_UPDATE or change.column_count != len(tables.TURN_COLUMNS) or change.new is None:
        return None
    try:
        return msgspec.convert([None if value is apsw.no_change else value for value in change.new[1:]], TurnMark)
    except msgspec.ValidationError:
        return None


def check_mark(
    mark: TurnMark | None, *, session_id: str, version: Version, epoch: Epoch | None, base: StateName
) -> None:
    """Raise ``CorruptPayload`` unless *mark* is that of the turn that made *version* from *base*.

    An *epoch* of None is not compared: the chain's state IDs cover it.
    """
    if mark is None:
        raise CorruptPayload("A delta does not end with the mark of its turn.")
    is_right = (
        mark.session_id in {None, session_id}
        and version == base.version + 1 == mark.version
        and (epoch is None or mark.epoch == epoch)
        and mark.base_state_id == base.state_id
    )
    if not is_right:
        raise CorruptPayload(
            f"A delta is marked as version {mark.version} of epoch {mark.epoch}, not as version {version} of {epoch}.",
            version=version,
            marked_version=mark.version,
        )


def check_turn_mark(raw: bytes, *, session_id: str, version: Version, epoch: Epoch, base: StateName) -> None:
    """Check the end of a delta without a database: what the hub does before it commits one.

    Only the last table's changes are read, whatever the size of the rest. Raises
    ``CorruptPayload`` unless that is ``_satchel_turn`` with one UPDATE to these values.
    """
    start = raw.rfind(TURN_HEADER)
    try:
        mark = changes(raw[start:]).mark if start >= 0 else None
    except (apsw.Error, ValueError) as error:
        raise CorruptPayload("A delta ends with bytes that are no changeset.") from error
    check_mark(mark, session_id=session_id, version=version, epoch=epoch, base=base)


def check_delta(raw: bytes, shapes: Mapping[str, Shape], *, session_id: str, version: Version, base: StateName) -> None:
    """Raise ``CorruptPayload`` unless *raw* is the delta of the turn that made *version* from *base*.

    Every table is compared, because SQLite skips one that is missing or of another shape
    without an error. The epoch is not: the chain's state IDs cover it.
    """
    try:
        mark = _checked(raw, shapes)
    except (apsw.Error, ValueError) as error:
        raise _malformed(version, error) from error
    check_mark(mark, session_id=session_id, version=version, epoch=None, base=base)


def apply_deltas(database: Database, deltas: Iterable[tuple[Version, bytes]], facts: Facts) -> None:
    """Apply checked deltas, each made on the one before, to a quiet database inside the open transaction.

    Small ones are combined, but not where a table has AUTOINCREMENT: a row that came with
    one and went with another leaves its number in ``sqlite_sequence``. Raises
    ``ApplyConflict`` (they do not fit these rows) and ``CorruptPayload``; the database is
    then to be dropped.
    """
    for run in _runs(deltas, bytes_max=0 if facts.autoincrement else COMBINED_BYTES_MAX):
        if len(run) == 1 or not _apply_as_one(database, run):
            for version, raw in run:
                _apply(database, raw, version)


def _runs(deltas: Iterable[tuple[Version, bytes]], *, bytes_max: int) -> Iterator[list[tuple[Version, bytes]]]:
    """Divide deltas into runs of at most so many bytes, or of one."""
    run: list[tuple[Version, bytes]] = []
    size = 0
    for version, raw in deltas:
        if run and size + len(raw) > bytes_max:
            yield run
            run, size = [], 0
        run.append((version, raw))
        size += len(raw)
    if run:
        yield run


def _apply_as_one(database: Database, run: Sequence[tuple[Version, bytes]]) -> bool:
    """Combine deltas and apply them; False if they do not fit so, and nothing is changed.

    SQLite learns about every table anew for each changeset that it applies, which takes
    longer than a few rows do.
    """
    last = run[-1][0]
    try:
        with contextlib.closing(apsw.ChangesetBuilder()) as builder:  # type: ignore[no-untyped-call]  # apsw's stub says no types
            for _, raw in run:
                builder.add(raw)
            combined = builder.output()
    except apsw.Error as error:
        raise _malformed(last, error) from error
    try:
        _apply(database, combined, last)
    except ApplyConflict:
        return False  # one by one it shows which of them it is
    return True


def _apply(database: Database, raw: bytes, version: Version) -> None:
    """Apply one changeset, all or nothing.

    What SQLite skips all the same, such as a table whose key is numbered in another
    way, is counted.
    """
    reasons: list[str] = []
    tried = 0

    def on_change(_change: apsw.TableChange) -> bool:
        nonlocal tried
        tried += 1
        return True

    def on_conflict(reason: int, change: apsw.TableChange) -> int:
        reasons.append(f"{_CONFLICTS.get(reason, reason)} in table {change.name if change is not None else '?'}")
        return apsw.SQLITE_CHANGESET_ABORT

    def work() -> None:
        with database.shadow_tables_writable():
            apsw.Changeset.apply(
                raw,
                database.connection,
                filter_change=on_change,
                conflict=on_conflict,
                flags=apsw.SQLITE_CHANGESETAPPLY_FKNOACTION,
            )
        if tried != sum(1 for _ in apsw.Changeset.iter(raw)):
            raise CorruptPayload(f"The delta of version {version} has changes that SQLite skips.", version=version)

    try:
        with_deadline(database.connection, work)
    except apsw.AbortError as error:
        raise ApplyConflict(
            f"The delta of version {version} does not fit: {', '.join(reasons)}.", version=version
        ) from error
    except (apsw.Error, ValueError) as error:
        raise _malformed(version, error) from error


def _malformed(version: Version, error: Exception) -> CorruptPayload:
    return CorruptPayload(f"The delta of version {version} is malformed: {error}", version=version)


def _checked(raw: bytes, shapes: Mapping[str, Shape]) -> TurnMark | None:
    """Compare every change with the table it names; return the mark at the end."""
    last = None
    marks = 0
    for change in apsw.Changeset.iter(raw):
        shape = shapes.get(change.name)
        if shape is None or change.column_count != shape.columns or change.pk_columns != shape.key:
            raise CorruptPayload(f"A delta changes table {change.name}, which this state does not have in that shape.")
        last = None
        if change.name == tables.TURN:
            last = _mark(change)
            marks += 1
    return last if marks == 1 else None
