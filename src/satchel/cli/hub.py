"""``satchel hub``: serve a hub."""

from pathlib import Path
from typing import Annotated

import typer
import uvloop

from satchel.cli import logs
from satchel.cli.options import DEFAULT_PORT, LogLevel, key_from
from satchel.errors import InvalidRequest
from satchel.hub.server import HubServer, running, web_server
from satchel.hub.settings import Keys

DEFAULT_STORE = ".satchel/hub.db"


def hub(
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback both keys are needed.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = DEFAULT_PORT,
    store: Annotated[
        str, typer.Option(help="Where the sessions are: a path, sqlite:///relative or sqlite:////absolute.")
    ] = DEFAULT_STORE,
    api_key: Annotated[str | None, typer.Option(envvar="SATCHEL_API_KEY", help="Key that callers present.")] = None,
    worker_key: Annotated[
        str | None, typer.Option(envvar="SATCHEL_WORKER_KEY", help="Key that workers present.")
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File that holds the callers' key.")] = None,
    worker_key_file: Annotated[Path | None, typer.Option(help="File that holds the workers' key.")] = None,
    log_level: LogLevel = "info",
) -> None:
    """Serve a hub: it takes messages over HTTP and carries each session's state to a worker.

    The store is created if it is not there. Ctrl-C or SIGTERM stops the hub; turns
    that run are taken up by the next one on the same store.
    """
    logs.configure(log_level)
    keys = Keys(
        api=key_from(api_key, api_key_file, name="caller key"),
        worker=key_from(worker_key, worker_key_file, name="worker key"),
    )
    uvloop.run(_serve(host, port, store, keys))


async def _serve(host: str, port: int, store: str, keys: Keys) -> None:
    hub = HubServer(store, keys=keys, url=f"http://{host}:{port}")

    def started(url: str) -> None:
        typer.echo(f"hub    {url}")
        typer.echo(f"store  {hub.location}")
        if keys.api is None:
            typer.echo("keys   none: only this machine can call it")
        typer.echo(f"next   satchel worker APP.py --hub {url}")

    server = web_server(hub, host=host, port=port, keys=keys, started=started)
    async with running(hub):
        try:
            await server.serve()
        except SystemExit as error:  # uvicorn's way of saying that it could not listen
            raise InvalidRequest(
                f"Port {port} on {host} cannot be listened on.",
                hint="Another hub may run there; choose another with --port.",
            ) from error
