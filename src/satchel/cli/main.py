"""The ``satchel`` command: finds the command that is asked for, and says errors in two lines."""

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from satchel.errors import SatchelError

COMMANDS = ("dev", "hub", "worker", "chat", "sessions", "demo")
"""Each is a module beside this one. Only the one that runs is imported: a worker needs no server."""


def command_line(wanted: Sequence[str] = COMMANDS) -> typer.Typer:
    """Return the command line with the *wanted* commands."""
    app = typer.Typer(
        name="satchel",
        help="Carry the state of AI-agent sessions between a durable hub and a fleet of stateless workers.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        callback=_options,
    )
    for name in wanted:
        module = importlib.import_module(f"satchel.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, name))
    return app


def _print_version(is_asked: bool) -> None:  # noqa: FBT001  # typer calls it by position
    if is_asked:
        typer.echo(version("satchel"))
        raise typer.Exit


def _options(
    *,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Carry the state of AI-agent sessions between a durable hub and a fleet of stateless workers."""


def main() -> None:
    """Run the command line; an error of ours is said in two lines, not as a traceback."""
    asked = sys.argv[1:2]
    try:
        command_line(asked if asked and asked[0] in COMMANDS else COMMANDS)()
    except SatchelError as error:
        typer.echo(f"error: {error.message}", err=True)
        if error.hint:
            typer.echo(f"  {error.hint}", err=True)
        sys.exit(1)
