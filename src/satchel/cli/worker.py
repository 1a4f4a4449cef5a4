"""``satchel worker``: serve an app's agents to a hub."""

import os
from pathlib import Path
from typing import Annotated

import typer

from satchel.cli import logs
from satchel.cli.options import DEFAULT_HUB, LogLevel, key_from
from satchel.limits import SLOTS_DEFAULT
from satchel.protocol.messages import Registered
from satchel.worker.dial import websocket_dial
from satchel.worker.load import load_app
from satchel.worker.process import serve_until_signalled


def worker(
    app: Annotated[Path, typer.Argument(metavar="APP", help="Python file that makes a satchel.Worker.")],
    hub: Annotated[
        str, typer.Option("--hub", envvar="SATCHEL_HUB", help="Base URL of the hub, http(s) or ws(s).")
    ] = DEFAULT_HUB,
    slots: Annotated[int, typer.Option(min=1, help="Turns that run at once.")] = SLOTS_DEFAULT,
    key_file: Annotated[
        Path | None, typer.Option(help="File that holds the worker key; else SATCHEL_WORKER_KEY.")
    ] = None,
    log_level: LogLevel = "info",
) -> None:
    """Serve every Worker of APP: dial the hub, keep sessions warm, run their turns.

    A lost link is dialled again and ends no turn. Ctrl-C or SIGTERM stops the worker.
    """
    logs.configure(log_level)
    key = key_from(os.environ.get("SATCHEL_WORKER_KEY"), key_file, name="worker key")
    dial = websocket_dial(hub, key=key)
    workers = load_app(app)
    names = ", ".join(each.name for each in workers)
    has_told = False

    def registered(_frame: Registered) -> None:
        nonlocal has_told
        if not has_told:  # a link that was lost and found again is the log's
            has_told = True
            typer.echo(f"worker {names} registered at {hub}, {slots} slots")

    serve_until_signalled(workers, dial=dial, slots=slots, registered=registered)
