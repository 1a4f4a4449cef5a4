"""Thousands of turns on bounded storage: counted in rows and bytes."""

import asyncio
from pathlib import Path

import apsw

from satchel.hub.compaction import is_due
from satchel.limits import COMPACT_DELTAS_MIN
from satchel.model import PayloadKind
from satchel.store.base import PublishedSnapshot, Store
from satchel.store.open import open_store
from satchel.store.sqlite import SqliteLog
from satchel.store.sweep import sweep
from satchel.testing.conformance.script import FAR_AHEAD_MS, Script, payload, session_key, stored_as_object

SESSIONS = 8
RETAIN_VERSIONS, RETAIN_ANSWERS = 20, 10
DELTA_BYTES, SNAPSHOT_BYTES = 400, 8_000


async def live(script: Script, turns: int) -> None:
    """Commit *turns* more versions as a hub does: compaction when it is due, then retention."""
    for _ in range(turns):
        number = max(script.names) + 1
        started = await script.run(f"m{number}")
        raw = b"%d" % number * 1000
        await script.commit(script.commit_of(started, raw=raw[:DELTA_BYTES] if number > 1 else raw[:SNAPSHOT_BYTES]))
        session = await script.session()
        if is_due(session):
            data = payload(PayloadKind.SNAPSHOT, (b"%d" % number * SNAPSHOT_BYTES)[:SNAPSHOT_BYTES])
            stored = await stored_as_object(script.store, script.key, data)
            assert await script.log.publish(PublishedSnapshot(script.key, session.head, stored, b"d" * 32))
            await script.trim(retain_versions=RETAIN_VERSIONS, retain_answers=RETAIN_ANSWERS)


async def weigh(store: Store) -> dict[str, int]:
    """Return what the store holds beside its transcript."""

    def work(db: apsw.Connection) -> dict[str, int]:
        return {
            "versions": db.execute("SELECT max(n) FROM (SELECT count(*) AS n FROM version GROUP BY session_id)").get,
            "snapshots": db.execute("SELECT max(n) FROM (SELECT count(*) AS n FROM snapshot GROUP BY session_id)").get,
            "events": db.execute("SELECT max(n) FROM (SELECT count(*) AS n FROM events GROUP BY session_id)").get,
        }

    assert isinstance(store.log, SqliteLog)
    counted = await store.log._reader.call(work)
    counted["object_bytes"] = sum([name.size async for name in store.objects.sweepable(older_than_ms=FAR_AHEAD_MS)])
    return counted


async def test_storage_does_not_grow_with_the_number_of_turns(tmp_path: Path):
    """A session that lives for years must cost what its state costs, not what it ever did."""
    store = await open_store(str(tmp_path / "x.db"))
    scripts = [await Script.begin(store, session_key(f"s{number}")) for number in range(SESSIONS)]
    for _ in range(5):
        await asyncio.gather(*(live(script, 50) for script in scripts))
        await sweep(store, now_ms=FAR_AHEAD_MS)
        weight = await weigh(store)

        # The newest chain, and older ones while one of their versions is retained.
        assert weight["versions"] <= 2 * COMPACT_DELTAS_MIN + RETAIN_VERSIONS
        assert weight["snapshots"] <= 3
        assert weight["events"] <= RETAIN_ANSWERS + COMPACT_DELTAS_MIN
        assert weight["object_bytes"] <= SESSIONS * 3 * SNAPSHOT_BYTES

    for script in scripts:
        await script.assert_rebuildable(250)
        await script.assert_rebuildable(249)
        assert len(await script.log.turns(script.key, limit=1000, before=None)) == 250
    await store.close()
