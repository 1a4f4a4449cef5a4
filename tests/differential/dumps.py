"""An exact dump of a session's database, by other means than the digest."""

from typing import Any

from satchel.state.session import OpenSession
from satchel.state.tables import quoted

_UNSEEN = {"sqlite_schema", "sqlite_stat1", "sqlite_stat4"}


def dump(session: OpenSession) -> dict[str, Any]:
    """Return definitions and rows; types and row IDs are exact, -0.0 is 0.0."""
    run = session._database.run
    found: dict[str, Any] = {"definitions": run("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2")}
    for name, kind, without_rowid in run("SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main'"):
        if kind in {"table", "shadow"} and name not in _UNSEEN:
            # FTS4 finds its segments by level and index; their row IDs are nobody's.
            row_id = [] if without_rowid or kind == "shadow" else ["rowid"]
            names = run("SELECT name FROM pragma_table_xinfo(?)", (name,))
            columns = row_id + [_exact(column) for (column,) in names]
            found[name] = sorted(map(repr, run(f"SELECT {', '.join(columns)} FROM {quoted(name)}")))
    return found


def _exact(column: str) -> str:
    name = quoted(column)
    return f"CASE typeof({name}) WHEN 'text' THEN 't' || hex({name}) WHEN 'real' THEN {name} + 0.0 ELSE {name} END"
