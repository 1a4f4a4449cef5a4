"""What SQL a handler or a declared schema may run: the authorizer, and what it saw of a turn."""

import enum
from typing import Final

import apsw

from satchel.state.tables import is_ours


class Fence(enum.Enum):
    """Whose statements are being prepared."""

    DOWN = enum.auto()
    """Ours: everything goes."""
    SCHEMA = enum.auto()
    """A declared schema or a migration."""
    HANDLER = enum.auto()
    """A handler's, inside the runtime's transaction."""


_READS: Final = frozenset(
    {
        apsw.SQLITE_SELECT,
        apsw.SQLITE_READ,
        apsw.SQLITE_RECURSIVE,
    }
)
_WRITES: Final = frozenset({apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE})
_DEFINITIONS: Final = frozenset(
    {
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_CREATE_TABLE,
        apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_CREATE_VIEW,
        apsw.SQLITE_CREATE_VTABLE,
        apsw.SQLITE_DROP_INDEX,
        apsw.SQLITE_DROP_TABLE,
        apsw.SQLITE_DROP_TRIGGER,
        apsw.SQLITE_DROP_VIEW,
        apsw.SQLITE_DROP_VTABLE,
        apsw.SQLITE_ALTER_TABLE,
        apsw.SQLITE_REINDEX,
        apsw.SQLITE_ANALYZE,
    }
)
_TEMPORARY: Final = frozenset(
    {
        apsw.SQLITE_CREATE_TEMP_INDEX,
        apsw.SQLITE_CREATE_TEMP_TABLE,
        apsw.SQLITE_CREATE_TEMP_TRIGGER,
        apsw.SQLITE_CREATE_TEMP_VIEW,
        apsw.SQLITE_DROP_TEMP_INDEX,
        apsw.SQLITE_DROP_TEMP_TABLE,
        apsw.SQLITE_DROP_TEMP_TRIGGER,
        apsw.SQLITE_DROP_TEMP_VIEW,
    }
)
_READING_PRAGMAS: Final = frozenset(
    # SQLite's own ALTER TABLE, FTS and R-Tree ask some of these, too.
    {
        "table_info",
        "table_xinfo",
        "table_list",
        "index_list",
        "index_info",
        "index_xinfo",
        "foreign_key_list",
        "foreign_key_check",
        "integrity_check",
        "quick_check",
        "function_list",
        "collation_list",
        "compile_options",
    }
)
_READABLE_PRAGMAS: Final = frozenset(
    {
        "application_id",
        "data_version",
        "encoding",
        "foreign_keys",
        "freelist_count",
        "page_count",
        "page_size",
        "schema_version",
        "user_version",
    }
)
"""Read without an argument; with one they would write."""
_REFUSED_FUNCTIONS: Final = frozenset({"load_extension", "fts3_tokenizer"})
_TRANSACTION_ADVICE: Final = "The turn is one transaction, which the runtime opens and ends; use SAVEPOINT."


_DOWN: Final = Fence.DOWN
"""By a name of this module: Python 3.11 takes longer to look up an enum's member than ``check`` takes for the rest."""


class Authorizer:
    """SQLite's authorizer of one connection: ``check`` is called as statements are prepared.

    ``structural`` collects what a changeset cannot carry, also when it is rolled
    back later; ``refusal`` says why the last statement was refused.
    """

    def __init__(self) -> None:
        self.fence = Fence.DOWN
        self.structural: set[str] = set()
        self.refusal = ""

    def check(
        self,
        action: int,
        one: str | None,
        two: str | None,
        _database: str | None,
        _trigger: str | None,
    ) -> int:
        if self.fence is _DOWN or action in _READS:
            return apsw.SQLITE_OK
        refusal = self._refusal(action, one or "", two)
        if refusal:
            self.refusal = refusal
            return apsw.SQLITE_DENY
        if action in _DEFINITIONS:
            self.structural.add(_action_name(action))
        elif action in _WRITES and one is not None and one.lower().startswith("sqlite_"):
            self.structural.add(f"write to {one.lower()}")
        return apsw.SQLITE_OK

    def _refusal(self, action: int, one: str, two: str | None) -> str:  # noqa: PLR0911  # one line a case
        if action in _WRITES:
            return f"Table {one} belongs to Satchel and is written by it alone." if is_ours(one) else ""
        if action in _DEFINITIONS:
            return _definition_refusal(action, one, two)
        if action == apsw.SQLITE_FUNCTION:
            return f"Function {two} is not available." if (two or "").lower() in _REFUSED_FUNCTIONS else ""
        if action == apsw.SQLITE_PRAGMA:
            return _pragma_refusal(one.lower(), two)
        if action == apsw.SQLITE_SAVEPOINT:
            return "" if self.fence is Fence.HANDLER else "A schema runs as a whole; leave savepoints out."
        if action == apsw.SQLITE_TRANSACTION:
            return f"{one} is refused. {_TRANSACTION_ADVICE}"
        if action in {apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH}:
            return "ATTACH, DETACH and VACUUM are refused: the state is one database."
        if action in _TEMPORARY:
            return "Temporary tables, views and triggers are refused: they would not reach another worker."
        return f"{_action_name(action)} is refused."


def _action_name(action: int) -> str:
    name = apsw.mapping_authorizer_function.get(action, action)
    return str(name).removeprefix("SQLITE_").replace("_", " ")


def _definition_refusal(action: int, one: str, two: str | None) -> str:
    if action in {apsw.SQLITE_ANALYZE, apsw.SQLITE_REINDEX}:
        return ""  # without a name they mean every table, and change no row
    # ALTER TABLE names the database first, then the table.
    names = (two or "",) if action == apsw.SQLITE_ALTER_TABLE else (one, two or "")
    if any(is_ours(name) for name in names):
        return "Names that begin with _satchel_ belong to Satchel."
    return ""


def _pragma_refusal(name: str, argument: str | None) -> str:
    if name in _READING_PRAGMAS or name == "defer_foreign_keys" or (name in _READABLE_PRAGMAS and argument is None):
        return ""
    return f"PRAGMA {name} is refused: what it sets would not reach another worker."
