"""A state of a hundred megabytes on a link that others use: it arrives, they do not wait for it, memory is bounded."""

import asyncio
import contextlib
import pathlib
import sys
from collections.abc import AsyncIterator

import pytest

from tests.acceptance.processes import Fleet, Process, fleet, texts_of, turn_of, version_of

MEGABYTES = 100
STATE_BYTES = MEGABYTES * 1_000_000


@contextlib.asynccontextmanager
async def hoarders(folder: pathlib.Path) -> AsyncIterator[Fleet]:
    async with fleet(folder, workers=0) as running:
        await running.start_worker("hoard.py")
        yield running


async def say(hub: Fleet, session: str, text: str) -> list[dict]:
    return await hub.send(session, text, agent="hoard")


def peak_bytes(process: Process) -> int:
    """Return the most memory that a process has had."""
    status = pathlib.Path(f"/proc/{process.child.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


async def restarted(hub: Fleet) -> Process:
    """Have one fresh hub and one fresh worker on the store; return the worker."""
    await hub.workers.pop().stop()
    await hub.hub.stop()
    await hub.start_hub()
    return await hub.start_worker("hoard.py")


async def turns_until(hub: Fleet, session: str, over: asyncio.Event) -> list[list[dict]]:
    """Have turns one after the other until *over*; return those that ended before."""
    ended = []
    while not over.is_set():
        events = await say(hub, session, "visit")
        if not over.is_set():
            ended.append(events)
    return ended


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
async def test_a_cold_start_of_a_hundred_megabytes_leaves_the_link_to_others(tmp_path: pathlib.Path):
    """One session's past must not be paid by whoever shares its worker, nor by the hub's memory."""
    async with hoarders(tmp_path) as hub:
        kept = await say(hub, "large", f"keep {MEGABYTES}")
        worker = await restarted(hub)
        await say(hub, "small", "visit")
        before = {process: peak_bytes(process) for process in (hub.hub, worker)}
        over = asyncio.Event()

        others = asyncio.create_task(turns_until(hub, "small", over))
        cold = await say(hub, "large", "visit")
        over.set()
        beside = await others
        warm = await say(hub, "large", "visit")
        grown = {process: peak_bytes(process) - before[process] for process in before}
        exported = await hub.http.get(f"{hub.url}/v1/sessions/large/versions/3/snapshot")

    assert turn_of(kept)["received_bytes"] > STATE_BYTES, "the snapshot came in chunks"
    assert (turn_of(cold)["start"], turn_of(warm)["start"]) == ("cold", "warm")
    assert turn_of(cold)["sent_bytes"] > STATE_BYTES
    assert texts_of(cold) == [f"{MEGABYTES} things, 2 visits"]
    assert version_of(warm) == 3
    assert len(beside) > 1, "others had turns meanwhile"
    assert {turn_of(events)["start"] for events in beside} == {"warm"}
    assert grown[hub.hub] < 1.5 * STATE_BYTES, "the encoded bytes alone"
    assert exported.content.startswith(b"SQLite format 3")
    assert len(exported.content) > STATE_BYTES, "and as a whole file, rebuilt in a helper process with limits"
    assert max(grown.values()) < 2.5 * STATE_BYTES, "the state and its encoded bytes, and what turns take beside them"
