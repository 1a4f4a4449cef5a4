"""Clauses of ``chain``, ``deltas``, ``versions``, ``publish``, ``trim`` and ``named_objects``."""

# ruff: noqa: PLR2004  # a clause is made of assertions about small numbers

import pytest

from satchel.errors import CorruptPayload, Fenced, SessionNotFound, VersionExpired, VersionNotFound
from satchel.model import MessageId, StateName, Version
from satchel.store.base import PublishedSnapshot, Store, StoredEvents, StoredPayload
from satchel.testing.conformance.script import DELTA, SNAPSHOT, Script, absent, payload, stored_as_object


class ChainClauses:
    """What is kept of a session's versions, and how each is rebuilt."""

    async def test_a_chain_begins_at_the_nearest_snapshot(self, store: Store) -> None:
        """A cold start sends as little as the store can give."""
        script = await Script.begin(store)
        await script.commit_turns(6, snapshots=(4,))

        chains = {version: [link.name.version for link in await script.chain(version)] for version in range(1, 7)}

        assert chains == {1: [1], 2: [1, 2], 3: [1, 2, 3], 4: [4], 5: [4, 5], 6: [4, 5, 6]}

    async def test_a_version_that_never_was_is_not_found(self, store: Store) -> None:
        """Version 0 is the empty session: nothing is stored of it."""
        script = await Script.begin(store)
        with pytest.raises(SessionNotFound):
            await script.chain(1)
        await script.commit_turns(2)

        for version in (-1, 0, 3):
            with pytest.raises(VersionNotFound):
                await script.chain(version)

    async def test_deltas_are_given_in_order_or_not_at_all(self, store: Store) -> None:
        """A catch-up with a gap would end in a conflict at the worker."""
        script = await Script.begin(store)
        await script.commit_turns(6, snapshots=(4,))

        between = await script.log.deltas(script.key, Version(1), Version(3))

        assert between is not None
        assert [link.name for link in between] == [script.names[Version(2)], script.names[Version(3)]]
        assert {link.stored.payload.kind for link in between} == {DELTA}
        assert await script.log.deltas(script.key, Version(3), Version(3)) == []
        assert await script.log.deltas(script.key, Version(2), Version(5)) is None
        assert await script.log.deltas(script.key, Version(5), Version(7)) is None
        assert await script.log.deltas(script.key, Version(0), Version(2)) is None

    async def test_versions_are_listed_from_the_newest_oldest_first(self, store: Store) -> None:
        """Each with what it weighs and which message made it."""
        script = await Script.begin(store)
        await script.commit_turns(4)

        last = await script.log.versions(script.key, limit=2, before=None)
        before = await script.log.versions(script.key, limit=10, before=Version(3))

        assert [row.name for row in last] == [script.names[Version(3)], script.names[Version(4)]]
        assert [(row.kind, row.message_id) for row in before] == [(SNAPSHOT, "m1"), (DELTA, "m2")]
        assert [(row.size, row.raw_size) for row in before] == [(len(script.raws[Version(v)]),) * 2 for v in (1, 2)]
        assert {row.committed_at_ms for row in before} == {2_000}

    async def test_a_published_snapshot_is_what_later_deltas_stand_on(self, store: Store) -> None:
        """It changes no version's content, only where its chain begins."""
        script = await Script.begin(store)
        await script.commit_turns(5)

        assert await script.publish(3, raw=b"compacted")

        assert [link.name.version for link in await script.chain(5)] == [3, 4, 5]
        assert (await script.chain(3))[0].stored.payload.data == b"compacted"
        assert [link.name.version for link in await script.chain(2)] == [1, 2]
        for version in range(1, 6):
            await script.assert_rebuildable(version)
        session = await script.session()
        assert (session.head, session.snapshot_version, session.snapshot_bytes) == (script.names[Version(5)], 3, 9)
        assert (session.chain_deltas, session.chain_bytes) == (2, 9 + len(script.raws[Version(4)]) * 2)

    async def test_turns_go_on_from_a_published_snapshot(self, store: Store) -> None:
        """Compaction runs beside the turns."""
        script = await Script.begin(store)
        await script.commit_turns(3)
        commit = script.commit_of(await script.run("m4"))
        await script.publish(3)

        await script.commit(commit)

        assert [link.name.version for link in await script.chain(4)] == [3, 4]
        assert (await script.session()).chain_deltas == 1

    async def test_the_deltas_to_a_published_version_stay_for_catch_up(self, store: Store) -> None:
        """A worker one version behind still gets the delta, not the whole state."""
        script = await Script.begin(store)
        await script.commit_turns(3)
        await script.publish(3)

        assert len(await script.log.deltas(script.key, Version(1), Version(3)) or ()) == 2

    async def test_a_snapshot_of_another_state_is_not_published(self, store: Store) -> None:
        """State ID and digest say whether the rebuilt rows are those that were committed."""
        script = await Script.begin(store)
        await script.commit_turn("m1")
        await script.commit_turn("m2", digest=b"d" * 32)
        true_names = dict(script.names)

        with pytest.raises(Fenced):
            await script.publish(2, digest=b"e" * 32)
        script.names[Version(2)] = script.names[Version(1)]
        script.names[Version(2)] = type(true_names[Version(2)])(Version(2), true_names[Version(1)].state_id)
        with pytest.raises(Fenced):
            await script.publish(2)

        script.names = true_names
        assert (await script.session()).snapshot_version == 1
        await script.assert_rebuildable(2)

    async def test_a_snapshot_at_or_before_the_newest_is_not_published(self, store: Store) -> None:
        """Another compaction, or a turn, was quicker."""
        script = await Script.begin(store)
        await script.commit_turns(4)
        assert await script.publish(3)

        before = await script.session()
        for version in (2, 3):
            assert not await script.publish(version)

        assert await script.session() == before

    async def test_a_snapshot_of_a_version_that_is_not_kept_is_not_published(self, store: Store) -> None:
        """Retention was quicker than compaction, or the version never was."""
        script = await Script.begin(store)
        await script.commit_turns(5, snapshots=(4,))
        await script.trim(retain_versions=1)
        script.names[Version(6)] = StateName(Version(6), script.names[Version(5)].state_id)
        before = await script.session()

        for version in (3, 6):
            assert not await script.publish(version)

        assert await script.session() == before
        assert await script.retained() == [4, 5]

    async def test_a_delta_is_not_published_as_a_snapshot(self, store: Store) -> None:
        """Nothing can stand on it."""
        script = await Script.begin(store)
        await script.commit_turns(2)
        wrong = PublishedSnapshot(
            script.key, script.names[Version(2)], StoredPayload(payload(DELTA, b"delta")), b"d" * 32
        )

        with pytest.raises(CorruptPayload):
            await script.log.publish(wrong)

    async def test_a_published_snapshot_names_an_object_that_is_there(self, store: Store) -> None:
        """Bytes are durable before the row that names them."""
        script = await Script.begin(store)
        await script.commit_turns(2)
        stored = StoredPayload(payload(SNAPSHOT, b""), object=absent(script.key))

        with pytest.raises(CorruptPayload):
            await script.log.publish(PublishedSnapshot(script.key, script.names[Version(2)], stored, b"d" * 32))

        assert (await script.session()).snapshot_version == 1

    async def test_trim_deletes_whole_chains_beyond_retention(self, store: Store) -> None:
        """A chain goes when none of its versions is kept; until then all of it stays readable."""
        script = await Script.begin(store)
        await script.commit_turns(10, snapshots=(4, 7))

        await script.trim(retain_versions=4)
        assert await script.retained() == [4, 5, 6, 7, 8, 9, 10]
        await script.trim(retain_versions=3)

        assert await script.retained() == [7, 8, 9, 10]
        for version in (7, 8, 9, 10):
            await script.assert_rebuildable(version)
        for version in (1, 6):
            with pytest.raises(VersionExpired):
                await script.chain(version)

    async def test_trim_keeps_what_retention_covers(self, store: Store) -> None:
        """At the bound a version is readable; whatever shares its chain is too."""
        script = await Script.begin(store)
        await script.commit_turns(6, snapshots=(3,))

        await script.trim(retain_versions=4)

        assert await script.retained() == [1, 2, 3, 4, 5, 6]

    async def test_trim_after_publish_keeps_the_version_of_the_snapshot(self, store: Store) -> None:
        """The version that compaction made a base of no longer has its delta, and is still whole."""
        script = await Script.begin(store)
        await script.commit_turns(5)
        await script.publish(3)

        await script.trim(retain_versions=1)

        assert await script.retained() == [3, 4, 5]
        for version in (3, 4, 5):
            await script.assert_rebuildable(version)
        assert await script.log.deltas(script.key, Version(2), Version(3)) is None

    async def test_the_head_and_the_version_before_it_always_stay(self, store: Store) -> None:
        """Whatever the policy: a version committed as a snapshot ends no chain until the head is beyond it."""
        script = await Script.begin(store)
        await script.commit_turns(4, snapshots=(4,))

        await script.trim(retain_versions=0)
        await script.assert_rebuildable(4)
        await script.assert_rebuildable(3)
        await script.commit_turns(1)
        await script.trim(retain_versions=0)

        assert await script.retained() == [4, 5]
        await script.assert_rebuildable(5)
        await script.assert_rebuildable(4)

    async def test_a_published_head_keeps_the_chain_before_it(self, store: Store) -> None:
        """A snapshot of the head cannot give the version before it."""
        script = await Script.begin(store)
        await script.commit_turns(4)
        await script.publish(4)

        await script.trim(retain_versions=0)

        await script.assert_rebuildable(4)
        await script.assert_rebuildable(3)

    async def test_trim_of_a_new_session_deletes_nothing(self, store: Store) -> None:
        """There is nothing behind the head."""
        script = await Script.begin(store)
        await script.admit("m1")
        await script.trim(retain_versions=0)
        await script.start("m1")
        await script.log.cancel(script.key, MessageId("m1"), now_ms=3_000)
        await script.commit_turn("m2")

        await script.trim(retain_versions=0)

        assert await script.retained() == [1]

    async def test_an_answer_is_whole_without_the_delta_of_its_turn(self, store: Store) -> None:
        """A backend may keep text once that both hold, as long as both are there."""
        script = await Script.begin(store)
        await script.commit_turn("m1")
        lines = {f"m{number}": b'{"seq": %d, "text": "%s"}\n' % (number, b"said " * 50) for number in range(2, 40)}
        for message_id, line in lines.items():
            started = await script.run(message_id)
            await script.commit(script.commit_of(started, raw=b"held " + line, events=StoredEvents(line)))
        await script.publish(30)

        await script.trim(retain_versions=2)

        assert await script.retained() == [*range(30, 40)]
        turns = await script.log.turns(script.key, limit=100, before=None)
        assert [turn.answer for turn in turns] == [f"answer to m{number}" for number in range(1, 40)]
        for message_id, line in lines.items():
            assert await script.log.events(script.key, MessageId(message_id)) == StoredEvents(line)

    async def test_trim_takes_answers_and_events_but_no_message(self, store: Store) -> None:
        """The last committed ones keep theirs; a message's outcome is kept as long as its session."""
        script = await Script.begin(store)
        await script.commit_turns(3)
        await script.fail("failed", await script.run("failed"))
        await script.admit("queued")

        await script.trim(retain_versions=100, retain_answers=2)

        turns = await script.log.turns(script.key, limit=10, before=None)
        assert [turn.message_id for turn in turns] == ["m1", "m2", "m3", "failed", "queued"]
        assert [turn.answer for turn in turns] == [None, "answer to m2", "answer to m3", None, None]
        assert [turn.version for turn in turns] == [1, 2, 3, None, None]
        kept = [await script.log.events(script.key, turn.message_id) for turn in turns]
        assert kept == [None, *[StoredEvents(b'{"seq": 1}\n')] * 2, None, None]
        assert (await script.admit("m1")).is_repeat

    async def test_events_that_never_were_are_none(self, store: Store) -> None:
        """Of a message or a session that nobody sent, too."""
        script = await Script.begin(store)
        assert await script.log.events(script.key, MessageId("m1")) is None
        await script.commit_turn("m1")

        assert await script.log.events(script.key, MessageId("m2")) is None

    async def test_events_of_a_turn_that_did_not_commit_are_none(self, store: Store) -> None:
        """They were provisional."""
        script = await Script.begin(store)
        await script.fail("m1", await script.run("m1"))

        assert await script.log.events(script.key, MessageId("m1")) is None

    async def test_trim_is_idempotent(self, store: Store) -> None:
        """Nobody counts how often it runs."""
        script = await Script.begin(store)
        await script.commit_turns(6, snapshots=(4,))
        await script.trim(retain_versions=1, retain_answers=2)
        before = (await script.session(), await script.retained(), await script.turn("m1"), await script.chain(6))

        await script.trim(retain_versions=1, retain_answers=2)

        assert (await script.session(), await script.retained(), await script.turn("m1"), await script.chain(6)) == (
            before
        )

    async def test_objects_are_named_until_their_rows_go(self, store: Store) -> None:
        """An object goes only after the row that named it."""
        script = await Script.begin(store)
        names = []
        for number in (1, 2, 3):
            started = await script.run(f"m{number}")
            stored = await stored_as_object(store, script.key, payload(SNAPSHOT, b"state %d" % number))
            events = StoredEvents(b"", object=await store.objects.put(script.key, b"events %d\n" % number))
            commit = script.commit_of(started, kind=SNAPSHOT, raw=b"state %d" % number, stored=stored, events=events)
            await script.commit(commit)
            names.append((stored.object, events.object))
        hashes = [(state.content_hash, lines.content_hash) for state, lines in names if state and lines]
        assert await store.log.named_objects(script.key) == {each for pair in hashes for each in pair}

        await script.trim(retain_versions=1, retain_answers=1)

        assert await store.log.named_objects(script.key) == {hashes[1][0], hashes[2][0], hashes[2][1]}

    async def test_objects_of_deltas_and_of_published_snapshots_are_named(self, store: Store) -> None:
        """Whatever row names an object keeps it from the sweep."""
        script = await Script.begin(store)
        await script.commit_turn("m1")
        delta = await stored_as_object(store, script.key, payload(DELTA, b"large delta"))
        await script.commit(script.commit_of(await script.run("m2"), raw=b"large delta", stored=delta))
        compacted = await stored_as_object(store, script.key, payload(SNAPSHOT, b"compacted"))

        await script.log.publish(PublishedSnapshot(script.key, script.names[Version(2)], compacted, b"d" * 32))

        assert delta.object is not None
        assert compacted.object is not None
        named = await store.log.named_objects(script.key)
        assert named == {delta.object.content_hash, compacted.object.content_hash}
        assert (await script.chain(2))[0].stored == compacted
