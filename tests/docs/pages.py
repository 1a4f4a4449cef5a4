"""Reading the documentation: pages, headings, tables, fenced blocks, links."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_FENCE = re.compile(r"^```(?P<kind>\w*) ?(?P<name>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^(?P<level>#+) (?P<title>.+)$", re.MULTILINE)


class Block(msgspec.Struct, frozen=True):
    """One fenced block: what it is written in, the file it is to be saved as, its text."""

    kind: str
    name: str
    text: str
    page: str
    line: int

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def title_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(page: str) -> str:
    """Return a page by its path below the root."""
    return (ROOT / page).read_text()


def blocks(page: str) -> list[Block]:
    text = read(page)
    return [
        Block(match["kind"], match["name"].strip(), match["text"], page, text.count("\n", 0, match.start()) + 1)
        for match in _FENCE.finditer(text)
    ]


def prose(page: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", read(page))


def files(page: str) -> dict[str, str]:
    """Return the files that a page asks its reader to save."""
    return {block.name: block.text for block in blocks(page) if block.name}


def links(page: str) -> Iterator[str]:
    """Yield the targets of a page's links within the repository."""
    for match in _LINK.finditer(prose(page)):
        if "://" not in match["target"]:
            yield match["target"]


def anchors(page: str) -> set[str]:
    """Return what a link may name after ``#``, as GitHub makes it of the headings."""
    titles = (match["title"].lower() for match in _HEADING.finditer(prose(page)))
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in titles}


def section(page: str, title: str) -> str:
    """Return what stands below a heading, up to the next of its level or a higher one. Raises ``KeyError``."""
    text = read(page)
    for match in _HEADING.finditer(text):
        if match["title"] == title:
            rest = text[match.end() :]
            following = re.search(rf"^#{{1,{len(match['level'])}}} ", rest, re.MULTILINE)
            return rest[: following.start()] if following else rest
    raise KeyError(f"{page} has no heading {title!r}")


def rows(text: str) -> list[tuple[str, ...]]:
    """Return the rows of all tables in *text*, cells without blanks around them."""
    lines = (line.strip() for line in text.splitlines())
    cells = (line.strip("|").split("|") for line in lines if line.startswith("|"))
    return [tuple(cell.strip() for cell in row) for row in cells]


def code(text: str) -> set[str]:
    """Return every ```code``` span of *text*."""
    return set(re.findall(r"`([^`\n]+)`", text))
