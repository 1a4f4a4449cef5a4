"""``satchel hub``: serve a hub."""

import os
import socket
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from satchel.cli import heap, logs
from satchel.cli.options import DEFAULT_PORT, Level, LogLevel, key_from
from satchel.hub.server import HubServer, base_url, listen, running, web_server
from satchel.hub.settings import Keys, check_exposure

DEFAULT_STORE = ".satchel/hub.db"


def hub(
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback both keys are needed.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = DEFAULT_PORT,
    store: Annotated[
        str, typer.Option(help="Where the sessions are: a path, sqlite:///relative or sqlite:////absolute.")
    ] = DEFAULT_STORE,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File that holds the callers' key; else SATCHEL_API_KEY.")
    ] = None,
    worker_key_file: Annotated[
        Path | None, typer.Option(help="File that holds the workers' key; else SATCHEL_WORKER_KEY.")
    ] = None,
    log_level: LogLevel = Level.INFO,
) -> None:
    """Serve a hub.

    It takes messages over HTTP and carries each session's state to a worker.
    The store is created if it is not there. Ctrl-C or SIGTERM stops the hub; turns
    that run are taken up by the next one on the same store.
    """
    logs.configure(log_level)
    keys = Keys(
        api=key_from(os.environ.get("SATCHEL_API_KEY"), api_key_file, name="caller key"),
        worker=key_from(os.environ.get("SATCHEL_WORKER_KEY"), worker_key_file, name="worker key"),
    )
    check_exposure(host, keys)
    listening = listen(host, port)
    uvloop.run(_serve(HubServer(store, keys=keys, url=base_url(listening)), listening, has_keys=keys.api is not None))


async def _serve(hub: HubServer, listening: socket.socket, *, has_keys: bool) -> None:
    url = base_url(listening)

    def started() -> None:
        typer.echo(f"hub    {url}")
        typer.echo(f"store  {hub.location}")
        if not has_keys:
            typer.echo("keys   none: only this machine can call it")
        typer.echo(f"next   satchel worker APP.py --hub {url}")

    heap.settle()
    async with running(hub):
        await web_server(hub, started=started).serve(sockets=[listening])
