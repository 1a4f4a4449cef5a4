"""Reads the ``.sql`` files: named statements with a line of description, and schemas."""

import importlib.resources
import re
from typing import Final

_STATEMENT: Final = re.compile(r"^-- name: (\w+)\n-- (.+)\n((?:.+\n)+)", re.MULTILINE)


def schema(file: str) -> str:
    """Return the text of ``sql/<file>.sql``."""
    return importlib.resources.files("satchel.store").joinpath("sql", f"{file}.sql").read_text(encoding="utf-8")


def statements(file: str) -> dict[str, str]:
    """Return the statements of ``sql/<file>.sql`` by name."""
    return {name: text for name, _description, text in _STATEMENT.findall(schema(file))}
