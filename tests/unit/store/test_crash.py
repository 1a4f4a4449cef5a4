"""kill -9 in the middle of a stream of commits: what was acknowledged is there, and nothing is half there."""

import asyncio
import itertools
import sys
from pathlib import Path

import pytest

from satchel.model import TurnStatus, Version, first_state_id, next_state_id
from satchel.store.base import Session, Store
from satchel.store.chain import load_chain
from satchel.store.events import load_events
from satchel.store.open import open_store
from satchel.testing.conformance.script import DELTA, SNAPSHOT, Script, session_key

CHILD = Path(__file__).with_name("crash_child.py")

Acknowledged = tuple[str, int, str, str]


async def commits_before_the_kill(path: Path, *, count: int) -> list[Acknowledged]:
    """Run the child until it has acknowledged *count* commits, kill it, and return all it acknowledged."""
    child = await asyncio.create_subprocess_exec(sys.executable, str(CHILD), str(path), stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    try:
        lines = [await child.stdout.readline() for _ in range(count)]
    finally:
        child.kill()
    lines += (await child.stdout.read()).splitlines(keepends=True)
    await child.wait()
    words = [line.decode().split() for line in lines if line.endswith(b"\n")]  # the last may be cut
    return [(session_id, int(version), state_id, message_id) for session_id, version, state_id, message_id in words]


async def assert_gapless(store: Store, session: Session) -> None:
    """Assert that versions 1..head are there, each a step from the one before, with answer and events."""
    rows = await store.log.versions(session.key, limit=10_000, before=None)
    assert [row.name.version for row in rows] == list(range(1, session.head.version + 1))
    assert rows[-1].name == session.head
    chain = await load_chain(store, session.key, session.head.version)
    for before, link in itertools.pairwise(chain):
        assert link.name.state_id == next_state_id(before.name.state_id, link.name.version, DELTA, link.payload.data)
    for row in rows:
        turn = await store.log.turn(session.key, row.message_id)
        assert (turn.status, turn.version) == (TurnStatus.COMMITTED, row.name.version)
        assert await load_events(store, turn)


@pytest.mark.parametrize("count", [1, 7, 40, 130])
async def test_a_killed_store_keeps_every_acknowledged_commit(tmp_path: Path, count: int):
    """The caller was told: it must be so, whatever else was going on, at whatever moment."""
    path = tmp_path / "x.db"

    acknowledged = await commits_before_the_kill(path, count=count)

    assert len(acknowledged) >= count
    store = await open_store(str(path))
    try:
        for session_id, version, state_id, message_id in acknowledged:
            key = session_key(session_id)
            [row] = await store.log.versions(key, limit=1, before=Version(version + 1))
            assert (row.name.version, row.name.state_id.hex(), row.message_id) == (version, state_id, message_id)
        for session in await store.log.sessions(session_key().tenant, agent=None, limit=100, after=None):
            if session.head.version:
                await assert_gapless(store, session)
            else:
                assert session.head.state_id == first_state_id(session.key)
    finally:
        await store.close()


async def test_a_killed_store_goes_on_where_it_was(tmp_path: Path):
    """The next hub takes up what was running, and versions rise from where they were."""
    path = tmp_path / "x.db"
    first = await commits_before_the_kill(path, count=20)
    store = await open_store(str(path))
    for turn in await store.log.unfinished():
        await store.log.cancel(turn.key, turn.message_id, now_ms=1)
    for session_id in {line[0] for line in first}:
        script = Script(store, session_key(session_id))
        head = (await script.session()).head

        committed = await script.commit_turn("after", kind=SNAPSHOT)

        assert committed.version == head.version + 1
    await store.close()
