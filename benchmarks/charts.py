"""The charts of the docs, drawn from tables: SVG, the same bytes for the same figures."""

import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.tables import Reach, Table

OURS, OTHERS = "#0b5fff", ("#d9480f", "#2b8a3e", "#862e9c", "#868e96", "#e67700", "#0c8599")
FAMILIES = ("LangGraph", "OpenAI Agents", "Google ADK", "full state")
STYLES = ("-", "--", ":", "-.")
WITHIN, BEYOND = "#2b8a3e", "#d9480f"
SETTINGS: Any = {  # the keys' own type is a list of all of them
    "svg.fonttype": "none",
    "svg.hashsalt": "satchel",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",  # pages are read on dark ground, too
}


def draw(folder: pathlib.Path, tables: Sequence[Table]) -> list[pathlib.Path]:
    """Write every chart that *tables* have the figures of; return the files."""
    folder.mkdir(exist_ok=True)
    named = {table.name: table for table in tables}
    lines = [line for table in tables for line in table.reach]
    files = []
    with mpl.rc_context(SETTINGS):
        if lines:
            files.append(_saved(folder / "reach.svg", _reach(lines)))
        if "peers" in named:
            time = _over_items(named["peers"], "wall ms", "milliseconds of a turn")
            size = _over_items(named["peers"], "stored bytes", "bytes that a turn leaves in the store")
            files += [_saved(folder / "peers-time.svg", time), _saved(folder / "peers-bytes.svg", size)]
    return files


def _saved(file: pathlib.Path, figure: Figure) -> pathlib.Path:
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    file.write_text("".join(f"{line.rstrip()}\n" for line in file.read_text().splitlines()))
    return file


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _reach(lines: Sequence[Reach]) -> Figure:
    """Draw each line's share of its limit; what is left of 1 is reached."""
    figure, axes = _axes(7, 0.32 * len(lines) + 0.8)
    places = range(len(lines), 0, -1)
    shares = [max(line.share, 0.02) for line in lines]
    axes.barh(places, shares, color=[WITHIN if line.is_reached else BEYOND for line in lines], height=0.62)
    axes.set_yticks(places, [line.name for line in lines])
    axes.margins(y=0.01)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("measured, in units of its limit: left of 1 is reached")
    return figure


def _over_items(table: Table, column: str, what: str) -> Figure:
    """Draw *column* over the items of the conversation, a line for each peer, the last legend entry the lowest."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in table.rows:
        value = row.get(column)
        if isinstance(value, float | int) and value > 0:
            points.setdefault(str(row["peer"]), []).append((float(row["items"] or 0), float(value)))
    figure, axes = _axes(6, 4.4)
    seen: dict[str, int] = {}
    for peer, line in sorted(points.items(), key=lambda each: -max(each[1])[1]):
        color, number = _look(peer, seen)
        is_ours = color == OURS
        axes.plot(
            *zip(*sorted(line), strict=True),
            STYLES[number % len(STYLES)],
            color=color,
            label=peer,
            linewidth=2.4 if is_ours else 1.3,
            marker="o",
            markersize=4 if is_ours else 3,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("items in the conversation")
    axes.set_ylabel(what)
    axes.grid(visible=True, which="major", color="#e9ecef")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    return figure


def _look(peer: str, seen: dict[str, int]) -> tuple[str, int]:
    """Return a peer's color, its family's, and its number in it."""
    family = next((name for name in FAMILIES if peer.startswith(name)), "Satchel" if "Satchel" in peer else peer)
    seen[family] = seen.get(family, -1) + 1
    color = OURS if family == "Satchel" else OTHERS[FAMILIES.index(family) if family in FAMILIES else -1]
    return color, seen[family]
