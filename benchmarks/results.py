"""Results at rest: one JSON file of tables, and their place in the page that shows them.

A page says ``<!-- table: NAME -->`` where a table stands and ``<!-- end -->`` behind it;
what is between is written here, and a test compares it with the file.
"""

import datetime as dt
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from benchmarks.tables import Reach, Table, reach_table

DOCS = pathlib.Path(__file__).parents[1] / "docs" / "explanation"
FILE = DOCS / "performance.json"
PAGE = DOCS / "performance.md"
CHARTS = DOCS / "performance"

_PLACE = re.compile(r"(<!-- table: (?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read(file: pathlib.Path) -> list[Table]:
    """Return the stored tables; none if there is no file."""
    return [_table(**plain) for plain in _load(file)]


def store(file: pathlib.Path, tables: Sequence[Table]) -> list[Table]:
    """Put *tables* in the place of those of the same names, or at the end; return all."""
    today = dt.datetime.now(dt.UTC).date().isoformat()
    stored = {plain["name"]: plain for plain in _load(file)}
    stored |= {table.name: table.plain() | {"measured_on": today} for table in tables}
    file.write_text(json.dumps([*stored.values()], indent=1) + "\n")
    return read(file)


def _load(file: pathlib.Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text()) if file.exists() else []


def _table(*, columns: list[str], reach: list[dict[str, Any]], measured_on: str, **plain: Any) -> Table:
    notes = f"{plain.pop('notes')} Measured on {measured_on}.".strip()
    return Table(columns=tuple(columns), reach=tuple(Reach(**line) for line in reach), notes=notes, **plain)


def page(text: str, tables: Sequence[Table]) -> str:
    """Return a page with each of *tables* in its place; a place without its table stays as it is."""
    shown = {table.name: table.body() for table in [*tables, reach_table(tables)]}

    def filled(place: re.Match[str]) -> str:
        return f"{place[1]}\n{shown[place['name']]}\n{place[3]}" if place["name"] in shown else place[0]

    return _PLACE.sub(filled, text)
