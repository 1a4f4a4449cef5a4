"""The helper process: the right image comes back, and whatever happens in it stays in it."""

import asyncio
import os
import signal

import msgspec
import pytest

from satchel import limits
from satchel.errors import CorruptPayload, CorruptState
from satchel.model import Link, PayloadKind
from satchel.state.payload import seal
from satchel.state.rebuild import Rebuilder, RebuildJob, rebuild
from satchel.state.session import OpenSession
from tests.differential.dumps import dump
from tests.unit.state.sessions import KEY, Recording

SCHEMA = "CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE VIRTUAL TABLE f USING fts5(a)"


@pytest.fixture
def recording():
    with Recording(SCHEMA) as recording:
        for number in range(5):
            recording.turn(
                f"INSERT INTO t VALUES ({number}, zeroblob(9000)); INSERT INTO f VALUES ('w');"
                f"DELETE FROM t WHERE a = {number - 2}"
            )
        yield recording


def job(recording: Recording) -> RebuildJob:
    session = recording.session
    return RebuildJob(KEY.session_id, tuple(recording.chain), session.name, session.schema, recording.digest)


async def test_a_chain_comes_back_as_one_vacuumed_snapshot(recording: Recording):
    """It opens at the same version, and from there a turn goes on."""
    rebuilt = await rebuild(job(recording))

    link = Link(recording.session.name, seal(PayloadKind.SNAPSHOT, rebuilt.image))
    copy = OpenSession.from_chain(
        KEY.session_id, [link], base=link.name, schema=recording.session.schema, digest=recording.digest
    )
    recording.copies.append(copy)
    assert rebuilt.digest == recording.digest
    assert dump(copy) == dump(recording.session)
    assert len(rebuilt.image) < recording.session.state_bytes


async def test_what_is_wrong_with_a_chain_comes_back_by_name(recording: Recording):
    """The hub decides by the class what to do."""
    good = job(recording)

    with pytest.raises(CorruptState, match="digest"):
        await rebuild(msgspec.structs.replace(good, digest=bytes(32)))
    with pytest.raises(CorruptPayload, match="state ID"):
        await rebuild(msgspec.structs.replace(good, links=good.links[:1] + good.links[2:]))


async def test_a_helper_that_dies_is_a_corrupt_state(recording: Recording, monkeypatch: pytest.MonkeyPatch):
    """Whatever killed it, memory, CPU or a fault in SQLite, the hub goes on."""
    start = asyncio.create_subprocess_exec

    async def start_and_kill(*arguments: str, **options: int) -> asyncio.subprocess.Process:
        process = await start(*arguments, **options)  # type: ignore[arg-type]  # passed on as they are
        os.kill(process.pid, signal.SIGSEGV)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_and_kill)

    with pytest.raises(CorruptState, match="ended with -11"):
        await rebuild(job(recording))


async def test_a_kept_helper_does_job_after_job(recording: Recording, monkeypatch: pytest.MonkeyPatch):
    """A start of Python costs more than the turns between two compactions; what one job finds ends no other."""
    start, starts = asyncio.create_subprocess_exec, 0

    async def start_and_count(*arguments: str, **options: int) -> asyncio.subprocess.Process:
        nonlocal starts
        starts += 1
        return await start(*arguments, **options)  # type: ignore[arg-type]  # passed on as they are

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_and_count)
    rebuilder, good = Rebuilder(), job(recording)

    first = await rebuilder.rebuild(good)
    with pytest.raises(CorruptState, match="digest"):
        await rebuilder.rebuild(msgspec.structs.replace(good, digest=bytes(32)))
    second, third = await asyncio.gather(rebuilder.rebuild(good), rebuilder.rebuild(good))
    await rebuilder.close()

    assert first.digest == second.digest == third.digest == recording.digest
    assert starts == 1


async def test_a_job_that_kills_its_process_does_not_take_the_next_one_along(recording: Recording):
    """One session's damage must not stop the compaction of all others."""
    rebuilder = Rebuilder()

    with pytest.raises(CorruptState, match="ended with 1"):
        await rebuilder._answer(b"no job", [])
    rebuilt = await rebuilder.rebuild(job(recording))
    await rebuilder.close()

    assert rebuilt.digest == recording.digest


async def test_a_helper_ends_with_its_hub(recording: Recording):
    """A hub that is killed leaves no process behind: the pipe that it held is closed."""
    rebuilder = Rebuilder()
    await rebuilder.rebuild(job(recording))
    process = rebuilder._process
    assert process is not None
    assert process.stdin is not None

    process.stdin.close()

    assert await process.wait() == 0
    await rebuilder.close()


async def test_a_helper_that_does_not_end_is_killed(recording: Recording, monkeypatch: pytest.MonkeyPatch):
    """The wall limit holds whatever the process waits for."""
    monkeypatch.setattr(limits, "REBUILD_DEADLINE_S", 0.0)

    with pytest.raises(CorruptState, match="within 0 s"):
        await rebuild(job(recording))


async def test_cancelling_kills_the_helper(recording: Recording, monkeypatch: pytest.MonkeyPatch):
    """A hub that stops leaves no process behind."""
    processes: list[asyncio.subprocess.Process] = []
    started = asyncio.Event()
    start = asyncio.create_subprocess_exec

    async def start_and_tell(*arguments: str, **options: int) -> asyncio.subprocess.Process:
        process = await start(*arguments, **options)  # type: ignore[arg-type]  # passed on as they are
        processes.append(process)
        started.set()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_and_tell)
    task = asyncio.create_task(rebuild(job(recording)))
    await started.wait()

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert processes[0].returncode == -signal.SIGKILL
