"""``satchel sessions``: look at the sessions of a hub."""

from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from satchel.cli.options import DEFAULT_HUB, ApiKey, AsJson, HubUrl
from satchel.cli.turnline import byte_count, printable
from satchel.client.model import MessageRow, SessionRow
from satchel.client.sync import Client
from satchel.limits import PAGE_ITEMS_DEFAULT

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
