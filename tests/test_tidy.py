"""What the tree promises about itself: imports point one way, nothing is left over."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from satchel.cli.main import COMMANDS

SOURCE = Path(__file__).parents[1] / "src" / "satchel"
FILES = sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_pb2.py"))

BASE = {"model", "errors", "limits", "clock"}
MAY_IMPORT = {
    "clock": set(),
    "limits": set(),
    "errors": {"limits"},
    "model": {"errors", "limits"},
    "protocol": {*BASE, "protocol"},
    "state": {*BASE, "state"},
    "store": {*BASE, "state", "store"},
    "client": {*BASE, "client", "protocol", "state", "store"},
    "worker": {*BASE, "worker", "protocol", "state", "store"},
    "hub": {*BASE, "hub", "protocol", "state", "store"},
    "adapters": {*BASE, "state", "worker"},
    "embedded": {*BASE, "client", "embedded", "hub", "protocol", "state", "store", "worker"},
    "demo": {*BASE, "client", "demo", "worker"},
    "cli": {*BASE, "cli", "client", "demo", "embedded", "hub", "protocol", "state", "store", "worker"},
    "testing": {*BASE, "client", "embedded", "hub", "protocol", "state", "store", "testing", "worker"},
    "__init__": {*BASE, "client", "embedded", "state", "testing", "worker"},
    "__main__": {"cli"},
}
"""Who may import whom, by the first name below ``satchel``."""

SQLITE3_FILES = {"cli/plainfile.py", "demo/exported.py"}
"""What reads an exported file as its owner will: the product must not vouch for itself."""

APSW = {"state", "store"}
APSW_FILES = {"cli/dev.py"}
"""Beyond state and store: what opens an exported file."""


def part(path: Path) -> str:
    """Return the first name below ``satchel``: a package, or a module of its root."""
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def named(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Yield every module that *path* imports, wherever in the file; ``from a import b`` as ``a`` and ``a.b``.

    A module that is loaded by its name in a string counts, too.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(path)} has a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and is_module(node.value):
            yield node.value


def is_module(value: object) -> bool:
    """Whether *value* is the full name of one of our files."""
    if not isinstance(value, str) or not value.startswith("satchel."):
        return False
    return (SOURCE.parent / Path(*value.split("."))).with_suffix(".py").is_file()


def imported_parts(path: Path) -> set[str]:
    """Return the parts of Satchel that *path* imports; the root package counts as what it is told to give."""
    names = (name.split(".") for name in imports(path) if name.startswith("satchel."))
    return {name[1] for name in names}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_point_one_way(path: Path):
    """A part can be read, tested and replaced without the parts above it."""
    allowed = MAY_IMPORT[part(path)]

    assert imported_parts(path) <= allowed, f"{part(path)} may import only {sorted(allowed)}"


def test_only_embedded_joins_hub_and_worker():
    """They meet in the protocol: else a socket between them would change the semantics."""
    joined = {named(path) for path in FILES if {"hub", "worker"} <= imported_parts(path)}

    assert joined <= {"embedded.py"}


def test_apsw_stays_with_state_and_store():
    """SQLite's corners are known in two packages."""
    users = {path for path in FILES if any(name.split(".")[0] == "apsw" for name in imports(path))}

    assert {named(path) for path in users if part(path) not in APSW} <= APSW_FILES


@pytest.mark.parametrize("module", ["sqlite3", "pickle", "cPickle", "dill", "marshal", "shelve"])
def test_some_modules_are_imported_nowhere(module: str):
    """The stdlib's SQLite has no session extension; a pickle runs what it holds."""
    assert {named(path) for path in FILES if any(name.split(".")[0] == module for name in imports(path))} <= (
        SQLITE3_FILES if module == "sqlite3" else set()
    )


def test_what_is_optional_to_users_is_not_imported_by_the_package():
    """pytest belongs to those who test a backend, hypothesis and livekit to our own tests."""
    outside = [path for path in FILES if "testing/conformance" not in named(path)]
    found = {
        named(path): name
        for path in outside
        for name in imports(path)
        if name.split(".")[0] in {"pytest", "hypothesis", "livekit"}
    }

    assert found == {}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_module_says_its_job(path: Path):
    """Its first screen is enough to know whether this is the file one looks for."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))

    assert docstring is not None


@pytest.mark.parametrize("path", FILES, ids=named)
def test_nothing_is_left_over(path: Path):
    """No reminders, no prints: what is unfinished is not here, what is said is logged or echoed."""
    text = path.read_text()
    prints = [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"print", "breakpoint"}
    ]

    assert re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b", text) == []
    assert prints == []


FRAMEWORKS = {
    "agents": "openai_agents",
    "google.adk": "google_adk",
    "google.genai": "google_adk",
    "langgraph": "langgraph",
    "openai": "openai_agents",
    "pydantic_ai": "pydantic_ai",
}
"""Whose modules may be imported, by which adapter alone."""


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_framework_is_imported_by_its_adapter_alone(path: Path):
    """Who uses one framework does not install another, and who uses none installs none."""
    names = {".".join(name.split(".")[:length]) for name in imports(path) for length in (1, 2)}
    found = {FRAMEWORKS[name] for name in names if name in FRAMEWORKS}

    assert found <= ({path.stem} if part(path) == "adapters" else set())


def test_every_file_is_used():
    """A file that nothing imports and nobody runs is dead."""
    entered = {"satchel", "satchel.__main__", "satchel.cli.main", "satchel.state.rebuild", "satchel.testing"}
    reached = entered | {f"satchel.cli.{name}" for name in COMMANDS}
    for path in FILES:
        reached.update(name for name in imports(path) if name.startswith("satchel."))

    modules = {path: module_name(path) for path in FILES}
    dead = {named(path) for path, name in modules.items() if name not in reached and not is_offered(path)}
    assert dead == set()


def is_offered(path: Path) -> bool:
    """Whether users import *path* themselves, or it is a package that only holds files."""
    return part(path) in {"adapters", "testing"} or path.name == "__init__.py"


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


def test_every_statement_file_is_read():
    """SQL files are loaded by name: one that no name leads to is dead."""
    python = "".join(path.read_text() for path in (SOURCE / "store").rglob("*.py"))

    assert [path.name for path in SOURCE.rglob("*.sql") if f'"{path.stem}"' not in python] == []


def test_every_bound_is_used():
    """A bound that nothing checks promises something that does not hold."""
    others = "".join(path.read_text() for path in FILES if path.name != "limits.py")
    text = (SOURCE / "limits.py").read_text()
    names = re.findall(r"^([A-Z][A-Z0-9_]+): Final", text, re.MULTILINE)
    unused = [
        name for name in names if not re.search(rf"\b{name}\b", others) and len(re.findall(rf"\b{name}\b", text)) < 2
    ]

    assert names
    assert unused == []
