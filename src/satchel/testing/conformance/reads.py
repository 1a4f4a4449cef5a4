"""Clauses of deletion during a read: a reader gets the whole truth or a typed error, never a part.

Each reads over and over while something is published or deleted; whatever moment a
backend's read meets, its answer must be one that was true at some moment.
"""

# ruff: noqa: PLR2004  # a clause is made of assertions about small numbers

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from satchel.errors import CorruptPayload, VersionExpired
from satchel.limits import OBJECT_PIECE_BYTES_MAX
from satchel.model import MessageId, Version
from satchel.store.base import PublishedSnapshot, Store, StoredEvents
from satchel.store.chain import load_chain
from satchel.store.sweep import sweep
from satchel.testing.conformance.script import DELTA, FAR_AHEAD_MS, SNAPSHOT, Script, payload, stored_as_object

Result = TypeVar("Result")


async def reads_during(
    change: Coroutine[Any, Any, object],
    read: Callable[[], Awaitable[Result]],
    refusals: tuple[type[Exception], ...] = (),
) -> list[Result | None]:
    """Read from before *change* is asked for until it is made, and once more; None is one of the *refusals*."""

    async def read_or_refused() -> Result | None:
        try:
            return await read()
        except refusals:
            return None

    first = asyncio.create_task(read_or_refused())
    await asyncio.sleep(0)  # the read has begun
    task = asyncio.create_task(change)
    seen = [await first]
    while not task.done():
        seen.append(await read_or_refused())
    await task
    return [*seen, await read_or_refused()]


class ReadClauses:
    """Deletion while somebody reads."""

    async def test_a_chain_read_while_it_is_trimmed_is_whole_or_expired(self, store: Store) -> None:
        """A base whose deltas are gone would start a worker on an old state."""
        script = await Script.begin(store)
        await script.commit_turns(12, snapshots=(9,))

        for chain in await reads_during(script.trim(retain_versions=1), lambda: script.chain(8), (VersionExpired,)):
            if chain is not None:
                script.assert_whole(8, chain)
        await script.assert_rebuildable(12)

    async def test_a_chain_read_while_its_base_changes_is_whole(self, store: Store) -> None:
        """Compaction moves the base under a version that is always retained: each read stands on one of the two."""
        script = await Script.begin(store)
        await script.commit_turns(12)

        async def compact() -> None:
            await script.publish(10)
            await script.trim(retain_versions=1)

        chains = await reads_during(compact(), lambda: script.chain(12))

        for chain in chains:
            assert chain is not None
            script.assert_whole(12, chain)
        assert len(chains[-1] or []) == 3

    async def test_deltas_read_while_they_are_trimmed_are_all_or_none(self, store: Store) -> None:
        """A catch-up that leaves a version out ends in a conflict at the worker."""
        script = await Script.begin(store)
        await script.commit_turns(12, snapshots=(9,))

        seen = await reads_during(
            script.trim(retain_versions=1), lambda: script.log.deltas(script.key, Version(2), Version(8))
        )

        names = [script.names[Version(version)] for version in range(3, 9)]
        assert all([link.name for link in deltas] == names for deltas in seen if deltas is not None)
        assert seen[-1] is None

    async def test_events_read_while_they_are_trimmed_are_whole_or_gone(self, store: Store) -> None:
        """A replay that ends early looks like an answer that does."""
        script = await Script.begin(store)
        await script.commit_turns(3)

        seen = await reads_during(
            script.trim(retain_versions=100, retain_answers=1), lambda: script.log.events(script.key, MessageId("m1"))
        )

        assert set(seen) <= {StoredEvents(b'{"seq": 1}\n'), None}
        assert seen[-1] is None

    async def test_an_object_read_while_it_is_deleted_is_whole_or_gone(self, store: Store) -> None:
        """Its pieces may go one by one; what is returned never lacks one."""
        data = b"".join(bytes([number]) * OBJECT_PIECE_BYTES_MAX for number in range(4))
        name = await store.objects.put(Script(store).key, data)

        seen = await reads_during(
            store.objects.delete(name, older_than_ms=FAR_AHEAD_MS), lambda: store.objects.get(name), (CorruptPayload,)
        )

        assert all(found == data for found in seen if found is not None)
        assert seen[-1] is None

    async def test_a_state_read_while_it_is_compacted_and_swept_is_whole_or_refused(self, store: Store) -> None:
        """Rows first, bytes then: what the rows named may be gone by now, and is never taken for something else."""
        script = await Script.begin(store)
        stored = await stored_as_object(store, script.key, payload(SNAPSHOT, b"first"))
        await script.commit(script.commit_of(await script.run("m1"), raw=b"first", stored=stored))
        await script.commit_turns(4)
        compacted = await stored_as_object(store, script.key, payload(SNAPSHOT, b"compacted"))

        async def compact() -> None:
            await script.log.publish(PublishedSnapshot(script.key, script.names[Version(3)], compacted, b"d" * 32))
            await script.trim(retain_versions=1)
            await sweep(store, now_ms=FAR_AHEAD_MS)

        seen = await reads_during(compact(), lambda: load_chain(store, script.key, Version(5)), (CorruptPayload,))

        bases = {b"first": 1, b"compacted": 3}
        for links in seen:
            if links is not None:
                versions = range(bases[links[0].payload.data], 6)
                assert [link.name for link in links] == [script.names[Version(version)] for version in versions]
                assert {link.payload.kind for link in links[1:]} == {DELTA}
        assert seen[-1] is not None
        assert seen[-1][0].payload.data == b"compacted"
