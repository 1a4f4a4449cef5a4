"""What a suite returns: tables, and the lines of the reach table that they prove.

A suite is a module with ``def measure(*, quick: bool) -> list[Table]``, listed in
``__main__.py``. A column's name ends with its unit ("wall ms"); a cell is a number, a
text, or ``None`` where nothing was measured.
"""

import dataclasses
from collections.abc import Iterable, Sequence

Cell = float | str | None


@dataclasses.dataclass(frozen=True)
class Reach:
    """One thing that Satchel is to reach: a measured value beside its limit."""

    name: str
    """The row of the reach table, the same in every run: ``warm turn, wall``."""
    what: str
    """What the value is, with its unit: ``times the floor``, ``us of hub CPU a token``."""
    value: float
    limit: float
    at_least: bool = False
    """The value must be no less than the limit; else no more."""

    @property
    def share(self) -> float:
        """The value in units of its limit, turned so that 1 or less is reached."""
        return self.limit / self.value if self.at_least else self.value / self.limit

    @property
    def is_reached(self) -> bool:
        return self.share <= 1


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under named columns; a row may lack a column."""

    name: str
    """The key in the JSON file: ``peers-time``. No two tables of a run share it."""
    title: str
    columns: tuple[str, ...]
    rows: list[dict[str, Cell]]
    notes: str = ""
    """What a reader must know: how it was measured, what differs between the rows."""
    reach: tuple[Reach, ...] = ()
    """What these rows prove; ``reach_table`` lists them."""

    def text(self) -> str:
        """Return the table under its title, as Markdown whose columns also line up in a terminal."""
        return f"### {self.title}\n\n{self.body()}"

    def body(self) -> str:
        """Return the same without the title."""
        lines = [list(self.columns), *([_shown(row.get(column)) for column in self.columns] for row in self.rows)]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        sides = ["<" if any(isinstance(row.get(column), str) for row in self.rows) else ">" for column in self.columns]
        ruler = ["-" * (width - 1) + ("-" if side == "<" else ":") for width, side in zip(widths, sides, strict=True)]
        shown = [_lined_up(line, widths, sides) for line in (lines[0], ruler, *lines[1:])]
        return "\n".join([*shown, *(["", self.notes] if self.notes else []), ""])

    def plain(self) -> dict[str, object]:
        """Return the table as what JSON can hold."""
        return dataclasses.asdict(self)


def reach_table(tables: Iterable[Table]) -> Table:
    """Return what *tables* prove, one line each, in their order."""
    return Table(
        name="reach",
        title="What is to be reached",
        columns=("what", "measured", "limit", "unit", "reached"),
        rows=[
            {
                "what": line.name,
                "measured": line.value,
                "limit": f"{'≥' if line.at_least else '≤'} {_shown(line.limit)}",
                "unit": line.what,
                "reached": "yes" if line.is_reached else "no",
            }
            for table in tables
            for line in table.reach
        ],
    )


def _lined_up(cells: Sequence[str], widths: Sequence[int], sides: Sequence[str]) -> str:
    padded = (f"{cell:{side}{width}}" for cell, width, side in zip(cells, widths, sides, strict=True))
    return f"| {' | '.join(padded)} |"


def _shown(cell: Cell) -> str:
    """Return a cell as text: three digits that count, thousands apart."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if cell == int(cell) or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.3g}"
