"""``satchel sessions``: look at the sessions of a hub, and take one home as a file."""

import asyncio
import contextlib
import shlex
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from satchel.cli.options import DEFAULT_HUB, ApiKey, AsJson, HubUrl
from satchel.cli.plainfile import row_counts
from satchel.cli.turnline import byte_count, printable
from satchel.client.model import MessageRow, SessionRow
from satchel.client.sync import Client
from satchel.errors import InvalidRequest
from satchel.hub.export import snapshot_file
from satchel.limits import PAGE_ITEMS_DEFAULT
from satchel.model import DEFAULT_TENANT, SessionId, SessionKey, Version, checked_id
from satchel.state import tables
from satchel.store.open import open_store, store_path

app = typer.Typer(help="Look at the sessions of a hub.", no_args_is_help=True)

Limit = Annotated[int, typer.Option(help="Rows of the page.")]


@app.command("list")
def list_sessions(
    hub: HubUrl = DEFAULT_HUB,
    agent: Annotated[str | None, typer.Option(help="Sessions of this agent alone.")] = None,
    limit: Limit = PAGE_ITEMS_DEFAULT,
    cursor: Annotated[str | None, typer.Option(help="Where the page begins: what the last one ended with.")] = None,
    as_json: AsJson = False,  # noqa: FBT002  # a flag
    api_key: ApiKey = None,
) -> None:
    """List sessions, a page at a time."""
    with Client(hub, api_key=api_key) as client:
        page = client.sessions(agent=agent, limit=limit, cursor=cursor)
    if as_json:
        _print_json(page)
        return
    if not page.sessions:
        typer.echo("No sessions.")
        return
    _print_table(
        ("session", "agent", "status", "version", "state", "waiting", "updated"),
        [
            (
                row.session_id,
                row.agent,
                row.status,
                f"v{row.head}",
                byte_count(row.state_bytes),
                row.waiting,
                row.updated_at,
            )
            for row in page.sessions
        ],
    )
    if page.next_cursor is not None:
        typer.echo(f"more: --cursor {page.next_cursor}")


@app.command("show")
def show_session(
    session_id: Annotated[str, typer.Argument(help="The session.", metavar="SESSION")],
    hub: HubUrl = DEFAULT_HUB,
    limit: Limit = PAGE_ITEMS_DEFAULT,
    as_json: AsJson = False,  # noqa: FBT002  # a flag
    api_key: ApiKey = None,
) -> None:
    """Show a session and the newest page of its transcript."""
    with Client(hub, api_key=api_key) as client:
        session = client.session(session_id)
        row, page = session.info(), session.messages(limit=limit)
    if as_json:
        _print_json({"session": row, "messages": page.messages, "next_cursor": page.next_cursor})
        return
    for name, value in _facts(row):
        typer.echo(f"{name:<9}{value}")
    typer.echo()
    _print_table(
        ("message", "status", "version", "text", "answer"),
        [
            (
                each.message_id,
                each.status.value,
                "" if each.version is None else f"v{each.version}",
                each.text,
                _end(each),
            )
            for each in page.messages
        ],
    )


@app.command("export")
def export_session(
    context: typer.Context,
    session_id: Annotated[str, typer.Argument(help="The session.", metavar="SESSION")],
    version: Annotated[int | None, typer.Option(min=1, help="The version; the head if left out.")] = None,
    output: Annotated[Path | None, typer.Option(help="The file to write; SESSION-vVERSION.sqlite if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,  # noqa: FBT002  # a flag
    store: Annotated[
        str | None, typer.Option(help="Read this store, which no hub has open, instead of asking a hub.")
    ] = None,
    hub: HubUrl = DEFAULT_HUB,
    api_key: ApiKey = None,
) -> None:
    """Write a version of a session as a plain SQLite file."""
    source = context.get_parameter_source("hub")
    if store is not None and source is not None and source.name == "COMMANDLINE":  # not by SATCHEL_HUB
        raise InvalidRequest("--store and --hub name two places.", hint="Give the one that has the session.")
    if output is not None and not force:
        _check_absent(output)
    if store is not None:
        version, image = asyncio.run(_from_store(store, checked_id(session_id, "session_id"), version))
    else:
        version, image = _from_hub(hub, session_id, version, api_key=api_key)
    path = output or Path(f"{session_id}-v{version}.sqlite")
    _write(path, image, force=force)
    _tell_exported(path, version)


def _from_hub(hub: str, session_id: str, version: int | None, *, api_key: str | None) -> tuple[int, bytes]:
    with Client(hub, api_key=api_key) as client:
        session = client.session(session_id)
        version = session.info().head if version is None else version
        return version, session.snapshot(version)


async def _from_store(url: str, session_id: str, version: int | None) -> tuple[int, bytes]:
    """Read a version from a store. No hub is started: it would take up the store's unfinished turns."""
    path = store_path(url)
    if not path.is_file():
        raise InvalidRequest(f"There is no store {path}.", hint="Give the path that the hub was given.")
    key = SessionKey(DEFAULT_TENANT, SessionId(session_id))
    opened = await open_store(url)
    try:
        version = (await opened.log.session(key)).head.version if version is None else version
        return version, await snapshot_file(opened, key, Version(version))
    finally:
        await opened.close()


def _check_absent(path: Path) -> None:
    if path.exists():
        raise _there(path)


def _there(path: Path) -> InvalidRequest:
    return InvalidRequest(f"{path} is there already.", hint="Name another file with --output, or give --force.")


def _write(path: Path, image: bytes, *, force: bool) -> None:
    """Write *image*; a file that is there is left alone unless *force*, and a part of one is never left."""
    try:
        with path.open("wb" if force else "xb") as file:
            try:
                file.write(image)
                file.flush()
            except OSError:
                with contextlib.suppress(OSError):
                    path.unlink()
                raise
    except FileExistsError as error:
        raise _there(path) from error
    except OSError as error:
        raise InvalidRequest(
            f"{path} cannot be written: {error.strerror}.", hint="Name another with --output."
        ) from error


def _tell_exported(path: Path, version: int) -> None:
    """Say what was written and how to look at it."""
    counts = row_counts(path)
    typer.echo(f"{path}  v{version}  {byte_count(path.stat().st_size)}")
    typer.echo()
    _print_table(("table", "rows"), sorted(counts.items(), key=lambda row: (tables.is_ours(row[0]), row[0])))
    typer.echo()
    own = sorted(name for name in counts if not tables.is_ours(name))
    table = own[0] if own else tables.HISTORY
    query = f"SELECT * FROM {tables.quoted(table)}" if not table.isidentifier() else f"SELECT * FROM {table}"
    typer.echo(f"Any SQLite program opens it: sqlite3 -box {shlex.quote(str(path))} {shlex.quote(query)}")


def _facts(row: SessionRow) -> list[tuple[str, str]]:
    return [
        ("session", row.session_id),
        ("agent", row.agent),
        ("status", row.status if row.running_message_id is None else f"{row.status} {row.running_message_id}"),
        ("version", f"v{row.head}"),
        ("state", f"{byte_count(row.state_bytes)}, stored as {byte_count(row.chain_bytes)}"),
        ("waiting", str(row.waiting)),
        ("warm on", row.worker_id or "no worker"),
        ("created", row.created_at),
        ("updated", row.updated_at),
    ]


def _end(row: MessageRow) -> str:
    """Return what a message came to: its answer or its error's code."""
    if row.error is not None:
        return row.error.code
    return "" if row.answer is None else row.answer.text


def _print_json(value: Any) -> None:  # any of the client's structs
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _print_table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(printable(str(cell)) for cell in row))
    Console(markup=False, highlight=False).print(table)
