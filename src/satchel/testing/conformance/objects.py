"""Clauses of ``put``, ``get``, ``sweepable``, ``delete``, and of the sweep over both contracts."""

# ruff: noqa: PLR2004  # a clause is made of assertions about small numbers

from collections.abc import Awaitable, Callable

import pytest

from satchel.errors import CorruptPayload
from satchel.limits import OBJECT_PIECE_BYTES_MAX
from satchel.model import Tenant
from satchel.store.base import ObjectName, Store, StoredEvents
from satchel.store.sweep import sweep
from satchel.testing.conformance.script import (
    FAR_AHEAD_MS,
    LONG_AGO_MS,
    SNAPSHOT,
    Script,
    absent,
    in_order_of_calls,
    payload,
    session_key,
    stored_as_object,
)


async def sweepable(store: Store, *, older_than_ms: int) -> list[ObjectName]:
    return [name async for name in store.objects.sweepable(older_than_ms=older_than_ms)]


async def newest_touch_ms(store: Store) -> int:
    """Find when the last object was touched, by the store's own clock."""
    total = len(await sweepable(store, older_than_ms=FAR_AHEAD_MS))
    before, after = LONG_AGO_MS, FAR_AHEAD_MS
    while after - before > 1:
        middle = (before + after) // 2
        if len(await sweepable(store, older_than_ms=middle)) < total:
            before = middle
        else:
            after = middle
    return before


class ObjectClauses:
    """Immutable bytes, there before any row names them."""

    async def test_an_object_is_read_back_exactly(self, store: Store) -> None:
        """At every edge of a piece."""
        piece = OBJECT_PIECE_BYTES_MAX
        for size in (0, 1, piece - 1, piece, piece + 1, 3 * piece):
            data = bytes(range(251)) * (size // 251) + bytes(size % 251)

            name = await store.objects.put(session_key(), data)

            assert name.size == size
            assert await store.objects.get(name) == data

    async def test_an_object_is_named_by_its_bytes(self, store: Store) -> None:
        """The same bytes are one object, other bytes another, another session's its own."""
        first = await store.objects.put(session_key("a"), b"bytes")

        assert await store.objects.put(session_key("a"), b"bytes") == first
        assert await store.objects.put(session_key("a"), b"others") != first
        assert await store.objects.put(session_key("b"), b"bytes") != first
        assert len(await sweepable(store, older_than_ms=FAR_AHEAD_MS)) == 3

    async def test_an_object_that_is_not_there_is_refused(self, store: Store) -> None:
        """Whoever named it must hear of it, and never get other bytes."""
        with pytest.raises(CorruptPayload):
            await store.objects.get(absent(session_key()))

    async def test_objects_of_another_session_or_tenant_are_not_there(self, store: Store) -> None:
        """The hash of another's bytes is not a way to read them."""
        name = await store.objects.put(session_key("a"), b"secret")

        for key in (session_key("b"), session_key("a", Tenant("another"))):
            with pytest.raises(CorruptPayload):
                await store.objects.get(ObjectName(key, name.content_hash, name.size))

    async def test_the_same_put_twice_at_once_is_one_object(self, store: Store) -> None:
        """A retry may overtake its first try, piece by piece."""
        data = b"x" * (2 * OBJECT_PIECE_BYTES_MAX + 1)

        first, second = await in_order_of_calls(
            store.objects.put(session_key(), data), store.objects.put(session_key(), data)
        )

        assert isinstance(first, ObjectName)
        assert first == second
        assert await store.objects.get(first) == data

    async def test_an_object_is_durable_when_its_put_returns(self, opens: Callable[[], Awaitable[Store]]) -> None:
        """The row that names it may be written the next moment."""
        store = await opens()
        name = await store.objects.put(session_key(), b"bytes")
        await store.close()

        store = await opens()
        try:
            assert await store.objects.get(name) == b"bytes"
        finally:
            await store.close()

    async def test_only_objects_untouched_for_long_are_sweepable(self, store: Store) -> None:
        """A commit may be about to name a younger one."""
        name = await store.objects.put(session_key(), b"bytes")

        assert await sweepable(store, older_than_ms=LONG_AGO_MS) == []
        assert await sweepable(store, older_than_ms=FAR_AHEAD_MS) == [name]

    async def test_every_object_is_sweepable_once(self, store: Store) -> None:
        """However many there are, also while they are being deleted."""
        names = {await store.objects.put(session_key(f"s{n % 7}"), b"%d" % n) for n in range(600)}

        found = []
        async for name in store.objects.sweepable(older_than_ms=FAR_AHEAD_MS):
            found.append(name)
            assert await store.objects.delete(name, older_than_ms=FAR_AHEAD_MS)

        assert len(found) == len(names)
        assert set(found) == names
        assert await sweepable(store, older_than_ms=FAR_AHEAD_MS) == []

    async def test_a_deleted_object_is_gone(self, store: Store) -> None:
        """And can be put again."""
        name = await store.objects.put(session_key(), b"bytes")

        assert await store.objects.delete(name, older_than_ms=FAR_AHEAD_MS)
        assert not await store.objects.delete(name, older_than_ms=FAR_AHEAD_MS)

        with pytest.raises(CorruptPayload):
            await store.objects.get(name)
        assert await store.objects.get(await store.objects.put(session_key(), b"bytes")) == b"bytes"

    async def test_an_object_that_was_touched_is_not_deleted(self, store: Store) -> None:
        """A put came between the sweep's look and its hand."""
        name = await store.objects.put(session_key(), b"bytes")

        assert not await store.objects.delete(name, older_than_ms=LONG_AGO_MS)

        assert await store.objects.get(name) == b"bytes"

    async def test_a_put_of_bytes_already_there_touches_them(self, store: Store) -> None:
        """Whoever put them again is about to name them."""
        old = await store.objects.put(session_key(), b"bytes")
        young_ms = await newest_touch_ms(store)
        number = 0
        while (now_ms := await newest_touch_ms(store)) == young_ms:
            number += 1
            assert number < 10_000, "the store's clock stands still"
            await store.objects.put(session_key(), b"%d" % number)

        await store.objects.put(session_key(), b"bytes")

        assert not await store.objects.delete(old, older_than_ms=now_ms)
        assert await store.objects.get(old) == b"bytes"

    async def test_the_sweep_deletes_what_no_row_names(self, store: Store) -> None:
        """And nothing else: an object that a row names has no age."""
        script = await Script.begin(store)
        started = await script.run("m1")
        stored = await stored_as_object(store, script.key, payload(SNAPSHOT, b"state"))
        events = StoredEvents(b"", object=await store.objects.put(script.key, b"events\n"))
        orphans = [await store.objects.put(session_key(each), b"orphan") for each in ("s", "another")]
        await script.commit(script.commit_of(started, raw=b"state", stored=stored, events=events))

        assert await sweep(store, now_ms=LONG_AGO_MS) == 0
        assert await sweep(store, now_ms=FAR_AHEAD_MS) == 2

        for orphan in orphans:
            with pytest.raises(CorruptPayload):
                await store.objects.get(orphan)
        for name in (stored.object, events.object):
            assert name is not None
            await store.objects.get(name)
