"""Chains with their bytes, also while compaction and the sweep are at work."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from satchel.errors import CorruptPayload
from satchel.model import Version
from satchel.store.base import PublishedSnapshot, Store
from satchel.store.chain import load_chain, load_deltas
from satchel.store.open import open_store
from satchel.testing.conformance.script import FAR_AHEAD_MS, SNAPSHOT, Script, payload, stored_as_object


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(str(tmp_path / "x.db"))
    yield store
    await store.close()


async def script_on_an_object(store: Store) -> Script:
    """Return a session whose first version rests as an object, with two deltas after it."""
    script = await Script.begin(store)
    started = await script.run("m1")
    stored = await stored_as_object(store, script.key, payload(SNAPSHOT, b"state"))
    await script.commit(script.commit_of(started, raw=b"state", stored=stored))
    await script.commit_turns(2)
    return script


async def test_a_loaded_chain_has_all_its_bytes(store: Store):
    """It goes to a worker as it is: inline or object makes no difference there."""
    script = await script_on_an_object(store)

    links = await load_chain(store, script.key, Version(3))

    assert [link.payload.data for link in links] == [b"state", script.raws[Version(2)], script.raws[Version(3)]]
    assert links[1:] == await load_deltas(store, script.key, Version(1), Version(3))
    assert await load_deltas(store, script.key, Version(0), Version(3)) is None


async def test_a_chain_whose_object_is_gone_is_refused(store: Store):
    """The hub must ask a worker for the state instead."""
    script = await script_on_an_object(store)
    [name] = [each async for each in store.objects.sweepable(older_than_ms=FAR_AHEAD_MS)]
    await store.objects.delete(name, older_than_ms=FAR_AHEAD_MS)

    with pytest.raises(CorruptPayload):
        await load_chain(store, script.key, Version(3))


async def test_a_chain_that_compaction_replaced_while_it_was_read_is_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    """The old base may be swept between its row and its bytes; the new one is as good."""
    script = await script_on_an_object(store)
    [old] = [each async for each in store.objects.sweepable(older_than_ms=FAR_AHEAD_MS)]
    get = store.objects.get

    async def compact_first(name):
        monkeypatch.setattr(store.objects, "get", get)
        stored = await stored_as_object(store, script.key, payload(SNAPSHOT, b"compacted"))
        await script.log.publish(PublishedSnapshot(script.key, script.names[Version(2)], stored, b"d" * 32))
        await store.objects.delete(old, older_than_ms=FAR_AHEAD_MS)
        return await get(name)

    monkeypatch.setattr(store.objects, "get", compact_first)

    links = await load_chain(store, script.key, Version(3))

    assert [link.payload.data for link in links] == [b"compacted", script.raws[Version(3)]]
