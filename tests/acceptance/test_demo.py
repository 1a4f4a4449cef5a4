"""``satchel demo`` from end to end, and ``satchel sessions export``, whose command it ends with."""

import asyncio
import contextlib
import pathlib
import re
import signal
import sqlite3
import sys

import pytest

from tests.acceptance.processes import Fleet, Process, run, until

FAULTS_S = 150.0
"""How long a short demo may take: a freeze alone lasts until the hub has missed its pings."""


def processes_in(folder: pathlib.Path) -> list[int]:
    """Return every process that works in *folder*: what a demo starts inherits it."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if (process / "cwd").readlink() == folder:
                found.append(int(process.name))
    return found


@pytest.mark.timeout(240)
async def test_nothing_is_lost_whatever_breaks_and_the_last_line_opens_a_session(tmp_path: pathlib.Path):
    """The whole proof, smaller: each kind of fault happens, the audit is clean, the pasted command works."""
    folder = tmp_path / "demo"
    options = ("--seed", "7", "--minutes", "0.2", "--sessions", "24", "--workers", "2", "--folder", str(folder))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "satchel", "demo", *options, cwd=tmp_path,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(FAULTS_S):
        output = (await child.communicate())[0].decode()

    assert child.returncode == 0, output
    assert "lost 0   doubled 0   gaps 0   mismatches 0   unanswered 0" in output
    for done in (
        "1 x worker killed with -9",
        "1 x worker frozen past its heartbeats",
        "1 x hub killed with -9 and restarted",
        "1 x schema change rolled through the fleet, 24 sessions migrated",
    ):
        assert done in output
    match = re.search(r"versions +([\d,]+) committed, ([\d,]+) acknowledged", output)
    assert match is not None
    assert match[1] == match[2]
    assert "\x1b" not in output, "a pipe gets plain lines"
    assert processes_in(tmp_path) == []

    command = output.splitlines()[-1].strip()
    pasted = await asyncio.create_subprocess_shell(
        command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    told = (await pasted.communicate())[0].decode()
    assert pasted.returncode == 0, told
    (file,) = tmp_path.glob("s-*-v*.sqlite")
    version = int(file.stem.rpartition("-v")[2])
    with contextlib.closing(sqlite3.connect(file)) as state:
        assert state.execute("SELECT count(*) FROM note").fetchone() == (version,)
    assert re.search(rf"^note +{version}", told, re.MULTILINE), told


@pytest.mark.timeout(120)
async def test_ctrl_c_ends_the_load_audits_and_leaves_no_process(tmp_path: pathlib.Path):
    """In the middle of a freeze: what was acknowledged is still audited, and the frozen worker is not left behind."""
    folder = tmp_path / "demo"
    demo = Process(
        "demo",
        "--seed",
        "7",
        "--minutes",
        "0.3",
        "--sessions",
        "12",
        "--workers",
        "2",
        "--folder",
        str(folder),
        cwd=tmp_path,
    )
    await demo.start()
    await demo.saw(r"freeze worker-\d")
    await demo.saw(r"\d turns")
    assert len(processes_in(tmp_path)) >= 4, "the demo, its hub and its workers"

    assert demo.child is not None
    demo.child.send_signal(signal.SIGINT)
    code = await demo.ended()

    assert code == 130, demo.output
    assert "lost 0   doubled 0   gaps 0   mismatches 0   unanswered 0" in demo.output
    assert "sessions export" in demo.output.splitlines()[-1]
    assert processes_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_demo_that_is_ended_while_it_starts_leaves_no_process(tmp_path: pathlib.Path, number: signal.Signals):
    """There is nothing to audit yet."""
    folder = tmp_path / "demo"
    demo = Process("demo", "--sessions", "2", "--workers", "16", "--folder", str(folder), cwd=tmp_path)
    await demo.start()
    await demo.saw("starting a hub")

    async def is_half_way() -> bool:
        return len(processes_in(tmp_path)) >= 4

    await until(is_half_way)

    assert await demo.stop(number) == 128 + number, demo.output
    assert "nothing is known about the sessions" in demo.output
    assert processes_in(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--minutes", "0", "--minutes is a number above 0, not 0.0."),
        ("--minutes", "nan", "Invalid value for '--minutes'"),
        ("--minutes", "31", "Invalid value for '--minutes'"),
        ("--sessions", "0", "Invalid value for '--sessions'"),
        ("--workers", "1", "Invalid value for '--workers'"),
        ("--seed", "x", "Invalid value for '--seed'"),
        ("--folder", "/proc/nowhere", "/proc/nowhere cannot be used"),
    ],
)
async def test_an_option_that_makes_no_sense_is_refused(option: str, value: str, said: str):
    """Before anything starts."""
    code, output, errors = await run("demo", option, value)

    assert code != 0
    assert said in errors
    assert "Traceback" not in errors
    assert output == ""


# --- sessions export ------------------------------------------------------------------------------


@pytest.fixture
async def talked(one: Fleet) -> Fleet:
    """A hub whose session alice has two versions."""
    for text in ("add one", "add two"):
        await one.send("alice", text)
    return one


def notes(path: pathlib.Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as state:
        return [text for (text,) in state.execute("SELECT text FROM note ORDER BY id")]


async def test_a_version_is_exported_from_a_hub(talked: Fleet, tmp_path: pathlib.Path):
    """The head unless a version is named; the file says itself which one it is."""
    head, first = tmp_path / "head.sqlite", tmp_path / "first.sqlite"

    code, output, errors = await run("sessions", "export", "alice", "--hub", talked.url, "--output", str(head))
    await run("sessions", "export", "alice", "--hub", talked.url, "--version", "1", "--output", str(first))

    assert (code, errors) == (0, "")
    assert re.match(rf"{head}  v2  \d+ KB\n\ntable +rows\nnote +2\s", output), output
    assert f"sqlite3 -box {head} 'SELECT * FROM note'" in output
    assert (notes(head), notes(first)) == (["one", "two"], ["one"])


async def test_a_version_is_exported_from_a_store_without_a_hub(talked: Fleet, tmp_path: pathlib.Path):
    """A backup is a file: nobody must start a server, which would run what waits in it, to look inside."""
    store = str(talked.folder / "hub.db")
    refused = await run("sessions", "export", "alice", "--store", store)
    await talked.stop()
    path = tmp_path / "alice.sqlite"
    code, _, errors = await run("sessions", "export", "alice", "--store", store, "--output", str(path))

    assert refused[0] == 1
    assert "One store file has one hub" in refused[2]
    assert (code, errors) == (0, "")
    assert notes(path) == ["one", "two"]


async def test_an_export_leaves_a_stores_waiting_turns_as_they_are(one: Fleet, tmp_path: pathlib.Path):
    """Whoever looks into a store must not use up the time that a message may wait for a worker."""
    await one.send("alice", "add one")
    await one.workers.pop().kill()
    await one.post("alice", "add two", headers={"Prefer": "respond-async"}, message_id="m2")
    assert one.hub is not None
    await one.hub.kill()
    store = one.folder / "hub.db"

    def waiting() -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(store)) as file:
            return file.execute("SELECT * FROM turn ORDER BY message_id").fetchall()

    before = waiting()
    path = tmp_path / "alice.sqlite"
    code, _, errors = await run("sessions", "export", "alice", "--store", str(store), "--output", str(path))

    assert (code, errors) == (0, "")
    assert notes(path) == ["one"]
    assert waiting() == before


async def test_a_file_that_is_there_is_kept_unless_forced(talked: Fleet, tmp_path: pathlib.Path):
    path = tmp_path / "mine.sqlite"
    path.write_text("mine")
    export = ("sessions", "export", "alice", "--hub", talked.url, "--output", str(path))

    code, output, errors = await run(*export)
    kept = path.read_text()
    forced = await run(*export, "--force")

    assert (code, output, kept) == (1, "", "mine")
    assert errors == f"error: {path} is there already.\n  Name another file with --output, or give --force.\n"
    assert forced[0] == 0
    assert notes(path) == ["one", "two"]


async def test_an_export_that_cannot_be_made_says_why(talked: Fleet, tmp_path: pathlib.Path):
    """Two lines, status 1, no file."""
    hub = ("--hub", talked.url)
    path = str(tmp_path / "alice.sqlite")
    for args, said in (
        (("nobody", *hub), "error: There is no session 'nobody'."),
        (("alice", *hub, "--version", "9"), "error: The session has no version 9."),
        (("alice", *hub, "--output", "/nowhere/a"), "error: /nowhere/a cannot be written: No such file"),
        (("alice", "--store", "/nowhere/hub.db"), "error: There is no store /nowhere/hub.db.\n  Give the path"),
        (("alice", "--store", "postgresql://there"), "error: This release keeps its store in SQLite files."),
        (("alice", *hub, "--store", "hub.db"), "error: --store and --hub name two places."),
    ):
        code, output, errors = await run("sessions", "export", "--output", path, *args)

        assert (code, output) == (1, ""), args
        assert errors.startswith(said), errors
    assert not pathlib.Path(path).exists()
