"""``satchel chat`` and ``satchel sessions`` beside a hub and a worker: what scripts build on."""

import asyncio
import re

import msgspec
import pytest

from tests.acceptance.processes import Fleet, run

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOWHERE = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""


async def test_lines_are_piped_through_a_session_that_goes_on(shared: Fleet):
    """A cron job and a person share a session: each line is a turn, and the next program goes on where it ended."""
    there = ("chat", "--hub", shared.url, "--agent", "probe", "--session", "piped")
    code, output, errors = await run(*there, typed="add one\n\nadd two\n")
    again = await run(*there, typed="add three\n")

    assert (code, errors) == (0, "session piped\n")
    assert re.findall(r"^(\d notes|  v\d +\S+)", output, re.MULTILINE) == [
        "1 notes",
        "  v1   new",
        "2 notes",
        "  v2   warm",
    ]
    assert (again[0], "3 notes" in again[1]) == (0, True)


async def test_a_failed_turn_shows_in_the_exit_status_and_the_rest_is_said(shared: Fleet):
    """``set -e`` must see it; the lines after it are still said."""
    code, output, errors = await run(
        "chat", "--hub", shared.url, "--agent", "probe", typed="refuse no dogs\nraise x\nadd one\n"
    )

    assert code == 1
    assert "TURN_REFUSED  no dogs" in output
    assert "TEXT_HANDLER_ERROR" in output
    assert "1 notes" in output
    assert "secret" not in output + errors


async def test_sessions_are_listed_for_people_and_for_programs(shared: Fleet):
    """JSON is the API's own, page by page; the table holds the same."""
    for session in ("s1", "s2", "s3"):
        await shared.send(session, "add one")

    first = await run("sessions", "list", "--hub", shared.url, "--json", "--limit", "2")
    page = msgspec.json.decode(first[1])
    rest, table = await asyncio.gather(
        run("sessions", "list", "--hub", shared.url, "--json", "--cursor", page["next_cursor"]),
        run("sessions", "list", "--hub", shared.url, "--agent", "probe"),
    )

    listed = page["sessions"] + msgspec.json.decode(rest[1])["sessions"]
    assert listed == (await shared.get("/sessions"))["sessions"]
    assert all(re.search(rf"^{session} +probe +idle +v1 ", table[1], re.MULTILINE) for session in ("s1", "s2", "s3"))
    assert [first[0], rest[0], table[0]] == [0, 0, 0]
    assert [first[2], rest[2], table[2]] == ["", "", ""]


async def test_a_session_is_shown_with_its_transcript(shared: Fleet):
    await shared.send("shown", "add one", message_id="m1")
    await shared.post("shown", "raise x", message_id="m2")

    as_json, as_text = await asyncio.gather(
        run("sessions", "show", "shown", "--hub", shared.url, "--json"),
        run("sessions", "show", "shown", "--hub", shared.url),
    )

    shown = msgspec.json.decode(as_json[1])
    assert shown["session"] == await shared.get("/sessions/shown")
    assert shown["messages"] == await shared.transcript("shown")
    assert re.search(r"^m1 +committed +v1 +add one +1 notes", as_text[1], re.MULTILINE), as_text[1]
    assert re.search(r"^m2 +failed +raise x +TEXT_HANDLER_ERROR", as_text[1], re.MULTILINE)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("sessions", "show", "nobody"), "error: There is no session 'nobody'.\n  A session begins with its first"),
        (("sessions", "list", "--hub", NOWHERE), f"error: The hub at {NOWHERE} cannot be reached"),
        (("chat", "--hub", NOWHERE), f"error: The hub at {NOWHERE} cannot be reached"),
        (("dev", "nothing.py"), "error: nothing.py is not a file.\n  Give the Python file"),
        (("hub", "--store", "mysql://there"), "error: The store's URL is not understood.\n  Give a path"),
    ],
)
async def test_a_command_that_cannot_do_it_says_why_and_what_to_do(shared: Fleet, args: tuple[str, ...], said: str):
    """Two lines, status 1, and no traceback: what a person reads first is what helps."""
    hub = () if "--hub" in args or args[0] in {"dev", "hub"} else ("--hub", shared.url)
    port = ("--port", "0") if args[0] == "hub" else ()

    code, output, errors = await run(*args, *hub, *port)

    assert (code, output) == (1, "")
    assert errors.startswith(said), errors
    assert "Traceback" not in errors
