"""Chat and sessions as programs: what stands on the screen, and how they leave."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import msgspec
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from satchel.cli import sessions
from satchel.cli.chat import chat
from satchel.errors import HubUnreachable, SessionNotFound
from satchel.model import Restarted, TextDelta
from tests.unit.client.fake_hub import ACCEPTED, COMMITTED, FAILED, FakeHub, events_of, said

PROGRAM = """
import sys, typer
from satchel.cli.chat import chat
app = typer.Typer()
app.command()(chat)
app(sys.argv[1:])
"""
LINE = "  v12  warm      → 0 B      ← 212 B      0 ms (handler 0 ms)   booking +1 ~2\n"


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture
def url(hub: FakeHub) -> Iterator[str]:
    with hub.serving() as url:
        yield url


def satchel(*args: str, typed: str = "") -> Result:
    app = typer.Typer()
    app.command()(chat)
    app.add_typer(sessions.app, name="sessions")
    return CliRunner().invoke(app, args, input=typed, env={"COLUMNS": "200"})


def test_each_piped_line_is_a_message(hub: FakeHub, url: str):
    done = satchel("chat", "--hub", url, "--agent", "concierge", "--session", "alice", typed="a room\n\nand one more\n")

    assert done.stdout == ("Booked.\n" + LINE) * 2
    assert done.stderr == "session alice\n"
    assert done.exit_code == 0
    assert [(body["text"], body["agent"]) for body in hub.bodies] == [
        ("a room", "concierge"),
        ("and one more", "concierge"),
    ]


def test_a_failed_turn_shows_its_error_and_fails_the_pipe(hub: FakeHub, url: str):
    hub.lines = events_of(ACCEPTED, said("I"), FAILED)

    done = satchel("chat", "--hub", url, "--session", "alice", typed="a room\n")

    assert done.stdout == "I\n  --  TEXT_HANDLER_ERROR  The handler raised ValueError.\n"
    assert done.exit_code == 1


def test_a_restart_is_shown_where_it_happened(hub: FakeHub, url: str):
    hub.lines = events_of(ACCEPTED, TextDelta("i1", "Bo"), Restarted("worker lost"), said("Booked."), COMMITTED)

    done = satchel("chat", "--hub", url, "--session", "alice", typed="a room\n")

    assert done.stdout == "Bo\n  · from the beginning: worker lost\nBooked.\n" + LINE


def test_a_refused_message_does_not_end_the_chat(hub: FakeHub, url: str):
    hub.refusals = [(429, {"code": "QUEUE_FULL", "message": "Too many."})]

    done = satchel("chat", "--hub", url, "--session", "alice", typed="one\ntwo\n")

    assert done.stdout == "  --  QUEUE_FULL  Too many.\nBooked.\n" + LINE
    assert done.exit_code == 1


def test_a_hub_that_is_not_there_is_said_first():
    done = satchel("chat", "--hub", "http://127.0.0.1:1", typed="a room\n")

    assert isinstance(done.exception, HubUnreachable)
    assert "http://127.0.0.1:1 cannot be reached" in str(done.exception)
    assert done.stdout == ""


@contextlib.contextmanager
def chatting(hub: FakeHub, url: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run chat at a terminal until a turn is half-way; yield the program and the terminal."""
    hub.lines = events_of(ACCEPTED, TextDelta("i1", "Boo"), FAILED)
    hub.gates[2] = threading.Event()
    outer, inner = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--hub", url, "--session", "alice"], stdin=inner, stdout=inner, stderr=inner
    )
    os.close(inner)
    try:
        _read_until(outer, "> ")
        os.write(outer, b"a room\n")
        _read_until(outer, "Boo")
        yield program, outer
    finally:
        program.kill()
        program.wait()
        os.close(outer)


def test_ctrl_c_cancels_the_turn_and_the_chat_goes_on(hub: FakeHub, url: str):
    """As a person sees it, at a terminal."""
    with chatting(hub, url) as (program, terminal):
        program.send_signal(signal.SIGINT)
        seen = _read_until(terminal, "> ")
        os.write(terminal, b"\x04")  # Ctrl-D
        status = program.wait()

    assert hub.cancelled == [hub.bodies[0]["message_id"]]
    assert "\r\n  --  TEXT_HANDLER_ERROR  The handler raised ValueError.\r\n> " in seen
    assert status == 0


def test_a_second_ctrl_c_leaves(hub: FakeHub, url: str):
    """A turn that does not stop must not hold the terminal."""
    hub.cancel_ends = False
    with chatting(hub, url) as (program, _):
        program.send_signal(signal.SIGINT)
        hub.has_cancelled.wait()
        program.send_signal(signal.SIGINT)
        status = program.wait()

    assert status == 0


def _read_until(terminal: int, text: str) -> str:
    seen = ""
    while text not in seen:
        seen += os.read(terminal, 4096).decode()
    return seen


def test_sessions_are_listed_for_people_and_programs(url: str):
    shown = satchel("sessions", "list", "--hub", url)
    listed = satchel("sessions", "list", "--hub", url, "--json")

    assert shown.stdout.splitlines()[1].split() == [
        "alice", "concierge", "idle", "v12", "8.0", "KB", "0", "2026-01-31T09:30:00.125Z",
    ]  # fmt: skip
    page = msgspec.json.decode(listed.stdout)
    assert page["sessions"][0]["state_bytes"] == 8192
    assert page["next_cursor"] is None


def test_a_session_is_shown_with_its_transcript(url: str):
    shown = satchel("sessions", "show", "alice", "--hub", url)
    listed = msgspec.json.decode(satchel("sessions", "show", "alice", "--hub", url, "--json").stdout)

    assert "state    8.0 KB, stored as 900 B" in shown.stdout
    assert shown.stdout.splitlines()[-1].split() == ["m1", "committed", "v12", "a", "room", "Booked."]
    assert listed["session"]["head"] == 12
    assert listed["messages"][0]["answer"] == {"text": "Booked."}


def test_a_session_that_is_not_there_is_an_error(url: str):
    done = satchel("sessions", "show", "nobody", "--hub", url)

    assert isinstance(done.exception, SessionNotFound)
    assert done.stdout == ""
