"""``satchel dev``: a hub, a worker and a chat in one command.

The hub runs in a thread of this process, the worker in a process of its own, so
that ``/kill`` is a real crash and a saved file a fresh start.
"""

import asyncio
import logging
import shlex
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated

import apsw
import apsw.ext
import typer
import uvicorn
import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from satchel.cli import logs
from satchel.cli.chat import INTERRUPTED, read_lines, run_turn
from satchel.cli.devworker import DevWorker
from satchel.cli.options import DEFAULT_PORT, Level, LogLevel
from satchel.client.sync import Client, Session
from satchel.errors import InvalidRequest, SatchelError
from satchel.hub.server import HubServer, base_url, listen, running, web_server
from satchel.model import DEFAULT_TENANT, SessionId, SessionKey

HOST = "127.0.0.1"
STORE = ".satchel/dev.db"

HELP = """\
  /new           begin another session
  /session ID    go on with a session
  /sql QUERY     query the state as of the last turn
  /cold          drop the worker's copy: the next turn is sent a snapshot
  /kill          kill the worker with SIGKILL and start another
  /help          this
  Ctrl-C cancels a running turn; at the prompt it leaves, as Ctrl-D does."""


def dev(
    app: Annotated[Path, typer.Argument(metavar="APP", help="Python file that makes a satchel.Worker.")],
    agent: Annotated[str | None, typer.Option(help="Agent to talk to, if APP has several.")] = None,
    session: Annotated[
        str | None, typer.Option(help="Session to go on with; if left out, the one named like the agent.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help=f"Port of the hub; {DEFAULT_PORT}, or a free one if that is taken."),
    ] = None,
    store: Annotated[str, typer.Option(help="Where the sessions are kept.")] = STORE,
    log_level: LogLevel = Level.WARNING,
) -> None:
    """Run APP with a hub and talk to it here.

    APP is loaded anew when a Python file beside it is saved.
    Lines can be piped in, too; the exit status is then 1 if a turn failed.
    """
    logs.configure(log_level)
    logging.getLogger("satchel.hub").setLevel(max(logging.WARNING, logging.getLogger("satchel").level))
    if not app.is_file():
        raise InvalidRequest(f"{app} is not a file.", hint="Give the Python file that makes a satchel.Worker.")
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    hub = _HubThread(store, _listening(port))
    try:
        hub.start()
        with Client(hub.url) as client, DevWorker(app, hub.url, client, log_level=log_level) as worker:
            name = _agent(worker.agents, agent)
            _greet(name, hub, session or name)
            succeeded = _Chat(client, hub, worker, agent=name).run(session or name)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        hub.stop()
    if not succeeded:
        raise typer.Exit(1)


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _listening(port: int | None) -> socket.socket:
    if port is not None:
        return listen(HOST, port)
    try:
        return listen(HOST, DEFAULT_PORT)
    except InvalidRequest:
        return listen(HOST, 0)


def _agent(agents: tuple[str, ...], wanted: str | None) -> str:
    if wanted is not None and wanted not in agents:
        raise InvalidRequest(f"The app has no agent {wanted!r}.", hint=f"It has {', '.join(agents)}.")
    return wanted or agents[0]


def _greet(agent: str, hub: "_HubThread", session: str) -> None:
    log, objects = hub.files
    typer.echo(f"agent    {agent}", err=True)
    typer.echo(f"hub      {hub.url}", err=True)
    typer.echo(f"store    {log} and {objects}", err=True)
    typer.echo(f"session  {session}   (/help lists what else you can type)\n", err=True)


class _Chat:
    """What is typed: messages to the session, and commands about it."""

    def __init__(self, client: Client, hub: "_HubThread", worker: DevWorker, *, agent: str) -> None:
        self._client = client
        self._hub = hub
        self._worker = worker
        self._agent = agent
        self._session: Session
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: typer.echo(HELP),
            "/new": lambda _: self._go_on(f"{self._agent}-{uuid.uuid4().hex[:6]}"),
            "/session": self._go_on,
            "/sql": self._query,
            "/cold": self._cool,
            "/kill": lambda _: self._worker.kill(),
        }

    def run(self, session: str) -> bool:
        """Serve lines until there are no more; return whether every turn was committed."""
        self._session = self._client.session(session, agent=self._agent)
        is_terminal = sys.stdin.isatty()
        try:
            ends = [self._line(line) for line in read_lines(is_terminal=is_terminal)]
        except KeyboardInterrupt:
            typer.echo()
            return True
        return is_terminal or all(ends)

    def _line(self, line: str) -> bool:
        name, _, rest = line.strip().partition(" ")
        if not name.startswith("/"):
            return run_turn(self._session, line)
        command = self._commands.get(name)
        if command is None:
            typer.echo(f"  There is no {name}. /help lists what there is.")
            return False
        try:
            command(rest.strip())
        except SatchelError as error:
            typer.echo(f"  {error}")
            return False
        return True

    def _go_on(self, session: str) -> None:
        if not session:
            typer.echo(f"  This is {self._session.session_id}. /session ID goes on with another.")
            return
        self._session = self._client.session(session, agent=self._agent)
        typer.echo(f"  session {session}")

    def _query(self, sql: str) -> None:
        if not sql:
            typer.echo("  Give a query: /sql SELECT name FROM sqlite_schema")
            return
        head = self._session.info().head
        if not head:
            typer.echo("  This session has no committed turn yet.")
            return
        database = apsw.Connection(":memory:")
        database.deserialize("main", self._session.snapshot(head))
        try:
            names = [name for name, _type in apsw.ext.query_info(database, sql).description]
            rows = database.execute(sql).fetchall()
        except apsw.Error as error:
            typer.echo(f"  {error}")
            return
        finally:
            database.close()
        table = Table(box=None, pad_edge=False)
        for name in names:
            table.add_column(Text(name))
        for row in rows:
            table.add_row(*(Text("NULL" if value is None else str(value)) for value in row))
        Console().print(table)

    def _cool(self, _rest: str) -> None:
        self._hub.release(self._session.session_id)
        typer.echo("  The worker's copy is dropped.")


class _HubThread:
    """A hub that serves from a thread of its own."""

    def __init__(self, store: str, listening: socket.socket) -> None:
        self.url = base_url(listening)
        self._listening = listening
        self._hub = HubServer(store, url=self.url)
        self._loop: asyncio.AbstractEventLoop
        self._server: uvicorn.Server
        self._is_up = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="satchel-hub", daemon=True)

    @property
    def files(self) -> tuple[str, str]:
        """The store's two files, as short as they can be said."""
        log = Path(self._hub.location)
        objects = log.with_suffix(f".objects{log.suffix}")
        return _short(log), _short(objects)

    def start(self) -> None:
        """Return once the hub accepts connections. Raises what its start raises."""
        self._thread.start()
        self._is_up.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End the hub and close its store. Idempotent."""
        if self._thread.is_alive() and self._is_up.is_set():
            self._server.should_exit = True
            self._thread.join()

    def release(self, session_id: str) -> None:
        """Have the worker drop its copy of a session."""
        key = SessionKey(DEFAULT_TENANT, SessionId(session_id))
        self._loop.call_soon_threadsafe(lambda: self._hub.coordinator().release(key))

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # whoever started the thread hears of it
            self._failure = error
            self._is_up.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with running(self._hub):
            self._server = web_server(self._hub, started=self._is_up.set)
            await self._server.serve(sockets=[self._listening])


def _short(path: Path) -> str:
    try:
        return shlex.quote(str(path.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(path))
