"""satchel dev as a person uses it: piped, and in a terminal."""

import asyncio
import contextlib
import os
import pathlib
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from tests.acceptance.processes import PATIENCE_S, fleet

APP = """
from satchel import Turn, Worker

worker = Worker("echo", schema="CREATE TABLE said (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;")

@worker.on_message
async def reply(turn: Turn) -> None:
    turn.state.execute("INSERT INTO said (text) VALUES (?)", (turn.text,))
    if turn.text == "fail":
        raise ValueError("as asked")
    if turn.text == "hang":
        await turn.say("hanging")
        import asyncio
        await asyncio.Event().wait()
    await turn.say(f"{turn.state.execute('SELECT count(*) FROM said').scalar()} said")
"""


@pytest.fixture
def app(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


async def piped(app: pathlib.Path, *lines: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "satchel", "dev", str(app), cwd=app.parent,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate("".join(f"{line}\n" for line in lines).encode())
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_lines_are_piped_in_and_a_session_goes_on_next_time(app: pathlib.Path):
    """The store it names is the store it keeps."""
    code, output = await piped(
        app, "one", "/sql SELECT text FROM said", "/cold", "two", "/kill", "three", "/new", "one"
    )
    again_code, again = await piped(app, "four")

    assert (code, again_code) == (0, 0), output + again
    assert ".satchel/dev.db and .satchel/dev.objects.db" in output
    assert [*re.findall(r"^  (v\d+ +[a-z]+)", output, re.MULTILINE)] == [
        "v1   new",
        "v2   cold",
        "v3   cold",
        "v1   new",
    ]
    assert re.search(r"^one *$", output, re.MULTILINE), "the row that /sql shows"
    assert "4 said" in again
    assert (app.parent / ".satchel" / "dev.objects.db").exists()


async def test_a_failed_turn_fails_the_pipe_and_shows_its_traceback(app: pathlib.Path):
    code, output = await piped(app, "fail", "one")

    assert code == 1
    assert "TEXT_HANDLER_ERROR" in output
    assert "ValueError: as asked" in output, "the developer sees what a caller must not"
    assert "1 said" in output


async def test_an_app_that_does_not_start_says_why(app: pathlib.Path):
    app.write_text("import nowhere_to_be_found\n")
    code, output = await piped(app, "one")

    assert code == 1
    assert "nowhere_to_be_found" in output
    assert "did not start" in output


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, master: int, process: asyncio.subprocess.Process) -> None:
        self._master = master
        self._grew = asyncio.Event()
        self.process = process
        self.screen = ""
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            self.screen += os.read(self._master, 65536).decode(errors="replace")
        except OSError:  # the program has ended
            asyncio.get_running_loop().remove_reader(self._master)
        self._grew.set()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    async def ends_on(self, key: str) -> int:
        """Type *key* until the program has ended, as a person would: Python's input() can miss a first Ctrl-C."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(OSError):  # the program has closed its end
                    self.type(key)
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(self.process.wait(), timeout=1)

    async def shows(self, pattern: str, *, times: int = 1) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(re.findall(pattern, self.screen)) < times:
                self._grew.clear()
                await self._grew.wait()


@contextlib.asynccontextmanager
async def terminal(*args: str, folder: pathlib.Path) -> AsyncIterator[Terminal]:
    """Run a ``satchel`` command in a terminal of its own while the body runs."""
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "satchel", *args, cwd=folder,
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=_controlling_terminal,
    )  # fmt: skip
    os.close(slave)
    screen = Terminal(master, process)
    try:
        yield screen
    finally:
        asyncio.get_running_loop().remove_reader(master)
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        os.close(master)


def _controlling_terminal() -> None:
    import fcntl  # noqa: PLC0415  # in the child
    import termios  # noqa: PLC0415  # the same

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def test_ctrl_c_cancels_the_turn_and_the_chat_goes_on(app: pathlib.Path):
    """Ctrl-C reaches the chat, not the worker; Ctrl-D leaves."""
    async with terminal("dev", str(app), folder=app.parent) as screen:
        await screen.shows("> ")
        screen.type("hang\n")
        await screen.shows("hanging")
        screen.type("\x03")
        await screen.shows("CANCELLED")
        screen.type("one\n")
        await screen.shows("1 said")
        await screen.shows("> ", times=3)
        assert await screen.ends_on("\x04") == 0


async def test_ctrl_c_at_the_prompt_leaves_and_nothing_stays_behind(app: pathlib.Path):
    """The hub's lock and its port are free, and the worker is gone: the next start is the first."""
    for _ in range(2):
        async with terminal("dev", str(app), folder=app.parent) as screen:
            await screen.shows("> ")
            assert await screen.ends_on("\x03") == 0


async def test_chat_is_a_terminal_of_its_own_beside_hub_and_worker(app: pathlib.Path):
    """Ctrl-C cancels the turn, not the chat, the hub or the worker; at the prompt it leaves."""
    async with fleet(app.parent, workers=0) as hub:
        await hub.start_worker(str(app))
        async with terminal("chat", "--hub", hub.url, "--session", "alice", folder=app.parent) as screen:
            await screen.shows("> ")
            screen.type("hang\n")
            await screen.shows("hanging")
            screen.type("\x03")
            await screen.shows("CANCELLED")
            screen.type("one\n")
            await screen.shows("1 said")
            await screen.shows("> ", times=3)
            assert await screen.ends_on("\x03") == 0
        rows = await hub.transcript("alice")

    assert [row["status"] for row in rows] == ["cancelled", "committed"]


async def test_a_saved_app_is_loaded_anew_and_a_broken_one_is_not(app: pathlib.Path):
    async with terminal("dev", str(app), folder=app.parent) as screen:
        await screen.shows("> ")
        app.write_text(APP.replace("} said", "} heard"))
        await screen.shows("Loaded anew")
        screen.type("one\n")
        await screen.shows("1 heard")
        app.write_text("this is no Python")
        await screen.shows("did not start; the one before it goes on")
        screen.type("two\n")
        await screen.shows("2 heard")
