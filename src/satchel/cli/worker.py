"""``satchel worker``: serve an app's agents to a hub."""

import os
from pathlib import Path
from typing import Annotated

import typer

from satchel.cli import heap, logs
from satchel.cli.options import DEFAULT_HUB, Level, LogLevel, key_from
from satchel.limits import SLOTS_DEFAULT
from satchel.state.database import trim_connections
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
    log_level: LogLevel = Level.INFO,
) -> None:
    """Serve the agents of APP.

    It dials the hub, keeps sessions warm and runs their turns.
    A lost link is dialled again and ends no turn. Ctrl-C or SIGTERM stops the worker.
    """
    logs.configure(log_level)
    key = key_from(os.environ.get("SATCHEL_WORKER_KEY"), key_file, name="worker key")
    dial = websocket_dial(hub, key=key)
    trim_connections()
    workers = load_app(app)
    heap.settle()
    serve_until_signalled(workers, dial=dial, slots=slots)
