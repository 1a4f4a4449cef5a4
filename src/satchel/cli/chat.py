"""``satchel chat``: talk to an agent from a terminal, or from a pipe."""

import contextlib
import sys
import uuid
from collections.abc import Iterator
from typing import Annotated

import typer

from satchel.cli.options import DEFAULT_HUB, ApiKey, HubUrl
from satchel.cli.turnline import printable, turn_line
from satchel.client.sync import Client, Session
from satchel.errors import SatchelError
from satchel.model import TurnEvent

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended."""


def chat(
    hub: HubUrl = DEFAULT_HUB,
    agent: Annotated[str | None, typer.Option(help="Agent to talk to; not needed if the hub knows only one.")] = None,
    session: Annotated[str | None, typer.Option(help="Session to go on with; a new one if left out.")] = None,
    api_key: ApiKey = None,
) -> None:
    """Talk to an agent.

    One line is one message; what it costs stands below each answer.
    Ctrl-C cancels the running turn, a second one leaves; so do Ctrl-D and the end of a pipe.
    """
    with Client(hub, api_key=api_key) as client:
        client.workers()  # a hub that does not answer is said before the first message is typed
        talk = client.session(session or f"chat-{uuid.uuid4().hex[:8]}", agent=agent)
        typer.echo(f"session {talk.session_id}", err=True)
        is_terminal = sys.stdin.isatty()
        try:
            ends = [run_turn(talk, text) for text in read_lines(is_terminal=is_terminal)]
        except KeyboardInterrupt:
            typer.echo()
            raise typer.Exit(0 if is_terminal else INTERRUPTED) from None
    if not is_terminal and not all(ends):
        raise typer.Exit(1)


def read_lines(*, is_terminal: bool) -> Iterator[str]:
    """Yield what is typed or piped, without blank lines."""
    if is_terminal:
        with contextlib.suppress(ImportError):  # a Python without it has no line editing
            import readline  # noqa: F401, PLC0415  # input() edits lines once it is imported, and only here is a terminal
    while True:
        try:
            line = input("> " if is_terminal else "")
        except EOFError:
            if is_terminal:
                typer.echo()
            return
        if line.strip():
            yield line


def run_turn(session: Session, text: str) -> bool:
    """Send *text* and show the turn; return whether it was committed.

    Ctrl-C cancels it and goes on to show its end; another is raised.
    """
    screen = _Screen()
    is_cancelled = False
    try:
        reply = session.send(text)
        while True:
            try:
                for event in reply:
                    screen.show(event)
                return True
            except KeyboardInterrupt:
                if is_cancelled:
                    raise
                is_cancelled = True
                session.cancel(reply.message_id)
    except SatchelError as error:
        if not screen.has_ended:
            screen.say(f"  --  {error.code}  {error}")
        return False


class _Screen:
    """One turn's events as text, each once."""

    def __init__(self) -> None:
        self.has_ended = False
        self._cursor = -1
        self._streamed_id: str | None = None
        self._is_mid_line = False

    def show(self, event: TurnEvent) -> None:
        if event.seq <= self._cursor:
            return
        self._cursor = event.seq
        if event.text_delta is not None:
            self._stream(event.text_delta.item_id, event.text_delta.text)
        elif event.message is not None:
            self._whole(event.message.id, event.message.text)
        elif event.function_call is not None:
            self.say(f"  · {event.function_call.name} {event.function_call.arguments}")
        elif event.function_call_output is not None:
            self.say(f"  · {event.function_call_output.name} → {event.function_call_output.output}")
        elif event.agent_handoff is not None:
            self.say(f"  · now {event.agent_handoff.new_agent_id}")
        elif event.restarted is not None:
            self._streamed_id = None  # the next attempt may give its items the same IDs
            self.say(f"  · from the beginning: {event.restarted.reason}")
        elif event.complete is not None:
            self.has_ended = True
            self.say(turn_line(event.complete))

    def say(self, text: str) -> None:
        """Print *text* on lines of its own."""
        typer.echo(("\n" if self._is_mid_line else "") + printable(text))
        self._is_mid_line = False

    def _stream(self, item_id: str, text: str) -> None:
        if self._is_mid_line and item_id != self._streamed_id:
            typer.echo()
        self._streamed_id = item_id
        self._is_mid_line = True
        typer.echo(printable(text), nl=False)
        sys.stdout.flush()

    def _whole(self, item_id: str, text: str) -> None:
        if item_id != self._streamed_id:
            self.say(text)
        elif self._is_mid_line:
            typer.echo()
            self._is_mid_line = False
