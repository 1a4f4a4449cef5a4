"""What the pages tell their readers to save and run is saved and run, as they would do it."""

import ast
import asyncio
import contextlib
import inspect
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.acceptance.processes import PATIENCE_S, Fleet, Process, turn_of, version_of
from tests.docs.pages import blocks, files

README = "README.md"
TUTORIAL = "docs/tutorial/first-agent.md"
DEPLOY = "docs/howto/deploy.md"
EMBED = "docs/howto/embed.md"
FASTAPI = "docs/howto/fastapi.md"
MIGRATE = "docs/howto/migrate.md"
TESTING = "docs/howto/test-an-agent.md"


def save(page: str, folder: Path) -> None:
    """Save the files of a page, as its reader does."""
    for name, text in files(page).items():
        (folder / name).write_text(text)


async def run(*args: str, folder: Path, typed: str = "") -> str:
    """Run a Python program to its end, and return what it printed."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *args,
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE_S):
        output, _ = await child.communicate(typed.encode())
    assert child.returncode == 0, output.decode()
    return output.decode()


async def execute(source: str, **names: Any) -> dict[str, Any]:
    """Run a block that may await at its top level, as in ``python -m asyncio``."""
    namespace = {"__name__": "snippet", **names}
    found = eval(compile(source, "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)  # noqa: S307  # our own page
    if inspect.iscoroutine(found):
        await found
    return namespace


# --- agents and their tests -----------------------------------------------------------------------


@pytest.mark.parametrize(("page", "tests"), [(TUTORIAL, 1), (TESTING, 4)])
async def test_a_pages_tests_pass(page: str, tests: int, tmp_path: Path):
    """A first test that fails is a reader's last."""
    save(page, tmp_path)

    output = await run(
        "-m", "pytest", "-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function", "-q",
        folder=tmp_path,
    )  # fmt: skip

    assert f"{tests} passed" in output


async def test_the_tutorials_chat_says_what_the_page_shows(tmp_path: Path):
    """The first command anybody runs."""
    save(TUTORIAL, tmp_path)

    output = await run(
        "-m", "satchel", "dev", "app.py", folder=tmp_path, typed="Ada\nGrace\n/sql SELECT * FROM booking\n"
    )

    assert re.search(r"Booked\. Visit 1\.\n  v1   new       → 0 B .*booking \+1\n", output), output
    assert re.search(r"Booked\. Visit 2\.\n  v2   warm      → 0 B .*booking \+1\n", output), output
    assert "Ada" in output.partition("v2")[2]


# --- a killed worker ------------------------------------------------------------------------------------


async def test_the_tutorials_killed_worker_is_replaced(tmp_path: Path):
    """The table of events on that page is what a reader sees."""
    save(TUTORIAL, tmp_path)
    slow = (tmp_path / "slow.py").read_text()
    (tmp_path / "slow.py").write_text(
        slow.replace("asyncio.sleep(1)", "asyncio.sleep(0.2)")
    )  # the reader's time to act
    hub = Fleet(tmp_path)
    try:
        await hub.start_hub()
        for _ in range(2):
            await hub.start_worker(str(tmp_path / "slow.py"))
        body = {"text": "walk", "agent": "slow", "message_id": "m1"}
        events = await killed_midway(hub, body)
        again = await hub.http.post(
            f"{hub.url}/v1/sessions/alice/messages", json=body, headers={"Accept": "application/json"}
        )
    finally:
        await hub.stop()

    assert [event["type"] for event in events] == [
        "accepted", "message", "restarted", "message", "message", "complete",
    ]  # fmt: skip
    assert said(events[3]).startswith("Attempt 2, in process ")
    assert said(events[4]) == "Done: 5 steps."
    assert (version_of(events), turn_of(events)["attempts"]) == (1, 2)
    assert again.json()["answer"]["text"] == f"{said(events[3])}\n{said(events[4])}"


async def killed_midway(hub: Fleet, body: dict[str, str]) -> list[dict[str, Any]]:
    """Send a message, kill the process that its first event names, and return all events."""
    events = []
    async with hub.http.stream("POST", f"{hub.url}/v1/sessions/alice/messages", json=body) as response:
        async for line in response.aiter_lines():
            if line:
                events.append(msgspec.json.decode(line))
            if len(events) == 2 and line:
                await hub.kill_worker(int(said(events[1]).rstrip(".").rpartition(" ")[2]))
    return events


def said(event: dict[str, Any]) -> str:
    return str(event["message"]["content"][0]["text"])


# --- how-tos ----------------------------------------------------------------------------------------


async def test_a_backup_made_under_a_running_hub_can_be_started_on(tmp_path: Path):
    """A backup that was never restored is none."""
    save(TUTORIAL, tmp_path)
    save(DEPLOY, tmp_path)
    hub = Fleet(tmp_path)
    try:
        await hub.start_hub()
        await hub.start_worker(str(tmp_path / "app.py"))
        for guest in ("Ada", "Grace"):
            await hub.post("alice", guest, agent="concierge")
        await run("backup.py", "hub.db", "backup", folder=tmp_path)
        await hub.post("alice", "Edsger", agent="concierge")
    finally:
        await hub.stop()
    restored_folder = tmp_path / "restored"
    shutil.copytree(tmp_path / "backup", restored_folder)
    restored = Fleet(restored_folder)
    try:
        await restored.start_hub()
        await restored.start_worker(str(tmp_path / "app.py"))
        answer = await restored.post("alice", "Niklaus", agent="concierge")
        rows = await restored.transcript("alice")
    finally:
        await restored.stop()

    assert [row["text"] for row in rows] == ["Ada", "Grace", "Niklaus"]
    assert answer.json()["answer"] == {"text": "Booked. Visit 3."}


async def test_an_embedded_hub_streams_to_a_web_page(tmp_path: Path):
    """One process, one file: a route of the app's own, and the API below the mount."""
    save(EMBED, tmp_path)
    async with uvicorn_of(tmp_path) as url, httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
        streams = [await http.post("/chat", content="Ada", headers={"x-user": "7"}) for _ in range(2)]
        sessions = (await http.get("/satchel/v1/sessions")).json()["sessions"]

    assert streams[0].headers["content-type"].startswith("text/event-stream")
    assert [re.findall(r"Ada: visit (\d)", stream.text) for stream in streams] == [["1"], ["2"]]
    assert [re.findall(r"^event: (\w+)$", stream.text, re.MULTILINE) for stream in streams] == [
        ["accepted", "message", "complete"]
    ] * 2
    assert [(session["session_id"], session["head"]) for session in sessions] == [("user-7", 2)]


LOGIN = """
import dataclasses
from typing import Annotated
from fastapi import Header, HTTPException

@dataclasses.dataclass
class User:
    id: int

def current_user(x_token: Annotated[str, Header()] = "") -> User:
    if x_token not in {"ada", "grace"}:
        raise HTTPException(401)
    return User(len(x_token))
"""
"""What the page's reader has already: two users, 3 and 5."""


async def test_a_hub_in_a_fastapi_app_streams_follows_and_stops(tmp_path: Path):
    """The page's routes as they stand, between a reader's own login and a reader's own agent."""
    save(FASTAPI, tmp_path)
    (tmp_path / "login.py").write_text(LOGIN)
    (tmp_path / "agent.py").write_text(files(TUTORIAL)["app.py"])
    message = {"message_id": "m1", "text": "Ada"}
    async with uvicorn_of(tmp_path) as url, httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
        ada, grace = {"x-token": "ada"}, {"x-token": "grace"}
        stranger = await http.post("/chat", json=message)
        sent = [await http.post("/chat", json=message, headers=ada) for _ in range(2)]
        cursors = re.findall(r"^id: (\d+)$", sent[0].text, re.MULTILINE)
        rest = await http.get("/chat/m1", headers={**ada, "Last-Event-ID": cursors[-2]})
        stopped = [await http.post("/chat/m1/stop", headers=headers) for headers in (ada, grace)]
        no_id = await http.post("/chat", json={**message, "message_id": "no ID"}, headers=ada)

    assert stranger.status_code == 401
    assert [re.findall(r"Booked\. Visit (\d)", stream.text)[-1] for stream in sent] == ["1", "1"]
    assert re.findall(r"^id: (\d+)$", rest.text, re.MULTILINE) == cursors[-1:]
    assert [answer.status_code for answer in stopped] == [200, 404]
    assert (stopped[0].json(), stopped[1].json()["error"]["code"]) == ({"status": "committed"}, "SESSION_NOT_FOUND")
    assert (no_id.status_code, no_id.json()["error"]["code"]) == (400, "INVALID_REQUEST")


@contextlib.asynccontextmanager
async def uvicorn_of(folder: Path) -> AsyncIterator[str]:
    """Serve ``app:app`` of a folder while the body runs; yield its base URL. It must end in order."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "app:app", "--port", "0",
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield await listening(child)
    finally:
        child.terminate()
        output, _ = await child.communicate()
    assert b"Application shutdown complete" in output, output.decode()


async def listening(child: asyncio.subprocess.Process) -> str:
    """Wait for uvicorn's line, and return the base URL."""
    assert child.stdout is not None
    output = ""
    async with asyncio.timeout(PATIENCE_S):
        while not (match := re.search(r"running on (http://\S+)", output)):
            line = await child.stdout.readline()
            assert line, output
            output += line.decode()
    return match[1]


async def test_a_migration_runs_at_the_next_turn_and_an_edited_schema_is_refused(tmp_path: Path):
    """The page's promise, and the error that it says you get otherwise."""
    save(MIGRATE, tmp_path)
    new = (tmp_path / "app.py").read_text()
    old = re.sub(r"    migrations=\[.*?\],\n", "", new, flags=re.DOTALL).replace(
        "(guest, nights) VALUES (?, 2)", "(guest) VALUES (?)"
    )
    (tmp_path / "old.py").write_text(old)
    (tmp_path / "edited.py").write_text(old.replace("guest TEXT NOT NULL", "guest TEXT NOT NULL, room INTEGER"))
    hub = Fleet(tmp_path)
    try:
        await hub.start_hub()
        first = await hub.start_worker(str(tmp_path / "old.py"))
        await hub.post("alice", "Ada", agent="concierge")
        before = await hub.get("/sessions/alice")
        edited = Process("worker", str(tmp_path / "edited.py"), "--hub", hub.url)
        await edited.start()
        assert edited.child is not None
        refused = await edited.child.wait()
        await edited.stop()
        await first.stop()
        await hub.start_worker(str(tmp_path / "app.py"))
        answer = await hub.post("alice", "Grace", agent="concierge")
        after = await hub.get("/sessions/alice")
    finally:
        await hub.stop()

    assert refused == 1
    assert "known with other tables under schema number 1" in edited.output
    assert answer.status_code == 200, answer.text
    assert (before["schema_number"], after["schema_number"]) == (1, 3)
    assert (before["head"], after["head"]) == (1, 2)


# --- the README, and the reference's short programs -----------------------------------------------------


@pytest.mark.parametrize("page", [README, "docs/reference/python.md"])
async def test_a_pages_client_talks_to_its_agent(page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The two programs of the README are the whole product in small."""
    python = [block.text for block in blocks(page) if block.kind == "python"]
    agent = next(text for text in [*python, files(TUTORIAL)["app.py"]] if "on_message" in text and "concierge" in text)
    client = next(text for text in python if "AsyncClient(" in text)
    (tmp_path / "agent.py").write_text(agent)
    hub = Fleet(tmp_path)
    try:
        await hub.start_hub()
        await hub.start_worker(str(tmp_path / "agent.py"))
        names = await execute(client.replace("http://127.0.0.1:8700", hub.url))
    finally:
        await hub.stop()

    assert names["answer"].text == "Booked. Visit 1."
    assert names["answer"].version == 1
    assert capsys.readouterr().out.splitlines()[-1] in {"Booked. Visit 1. 1", "complete"}


async def test_the_references_test_passes():
    """The shortest test of an agent, as the page shows it."""
    source = next(block.text for block in blocks("docs/reference/python.md") if "test_echo" in block.text)

    await (await execute(source))["test_echo"]()
