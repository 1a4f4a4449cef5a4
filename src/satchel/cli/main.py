"""The ``satchel`` command."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from satchel.cli import sessions
from satchel.cli.chat import chat
from satchel.cli.hub import hub
from satchel.cli.worker import worker
from satchel.errors import SatchelError

app = typer.Typer(
    name="satchel",
    help="Carry the state of AI-agent sessions between a durable hub and a fleet of stateless workers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(hub)
app.command()(worker)
app.command()(chat)
app.add_typer(sessions.app, name="sessions")


@app.callback()
def _options(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,  # noqa: FBT002  # a flag
) -> None:
    if show_version:
        typer.echo(version("satchel"))
        raise typer.Exit


def main() -> None:
    """Run the command line; an error of ours is said in two lines, not as a traceback."""
    try:
        app()
    except SatchelError as error:
        typer.echo(f"error: {error.message}", err=True)
        if error.hint:
            typer.echo(f"  {error.hint}", err=True)
        sys.exit(1)
