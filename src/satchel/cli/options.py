"""Options that several commands share, and how they are read."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from satchel.errors import InvalidRequest

DEFAULT_PORT = 8700
DEFAULT_HUB = f"http://127.0.0.1:{DEFAULT_PORT}"

HubUrl = Annotated[str, typer.Option("--hub", envvar="SATCHEL_HUB", help="Base URL of the hub.")]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="SATCHEL_API_KEY", help="The hub's caller key.", show_envvar=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class Level(enum.StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LogLevel = Annotated[Level, typer.Option("--log-level", help="From which level on the log is written.")]


def key_from(value: str | None, file: Path | None, *, name: str) -> str | None:
    """Return a key from the environment or from its file. Raises ``InvalidRequest``."""
    if file is None:
        return value or None
    try:
        key = file.read_text().strip()
    except OSError as error:
        raise InvalidRequest(f"The {name} file {file} cannot be read: {error.strerror}.") from error
    if not key:
        raise InvalidRequest(f"The {name} file {file} is empty.")
    return key
