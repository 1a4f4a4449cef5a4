"""Clauses of ``commit``: the fence, what a commit writes, and what a repeat of it gives."""

# ruff: noqa: PLR2004  # a clause is made of assertions about small numbers

from collections.abc import Awaitable, Callable

import msgspec
import pytest

from satchel.errors import CorruptPayload, Fenced, MessageNotFound
from satchel.model import Epoch, MessageId, StateName, TurnStatus, Version
from satchel.store.base import Commit, Store, StoredEvents, StoredPayload, Turn
from satchel.testing.conformance.script import (
    DELTA,
    FAR_AHEAD_MS,
    SCHEMA,
    SNAPSHOT,
    Script,
    absent,
    in_order_of_calls,
    other,
    payload,
    session_key,
    stored_as_object,
)


async def assert_refused(script: Script, commit: Commit, error: type[Exception] = Fenced) -> None:
    """Assert that *commit* is refused and changes nothing."""
    before = (await script.session(), await script.log.turns(script.key, limit=100, before=None))
    retained = await script.retained()

    with pytest.raises(error):
        await script.log.commit(commit)

    assert (await script.session(), await script.log.turns(script.key, limit=100, before=None)) == before
    assert await script.retained() == retained


class CommitClauses:
    """The store's comparison of head, state ID and epoch is the fence."""

    async def test_a_commit_moves_the_head_and_ends_the_turn(self, store: Store) -> None:
        """One transaction: version, answer, events and session say the same."""
        script = await Script.begin(store)
        commit = script.commit_of(await script.run("m1"), digest=b"d" * 32)

        turn = await script.commit(commit)

        session = await script.session()
        assert turn == await script.turn("m1")
        assert (turn.status, turn.version, turn.answer) == (TurnStatus.COMMITTED, 1, "answer to m1")
        assert (turn.epoch, turn.error, turn.finished_at_ms) == (None, None, 2_000)
        assert (session.head, session.schema, session.digest) == (commit.name, SCHEMA, b"d" * 32)
        assert (session.running_message_id, session.epoch, session.updated_at_ms) == (None, 1, 2_000)
        assert session.state_bytes == 8_192
        assert await script.log.events(script.key, MessageId("m1")) == commit.events
        assert await script.retained() == [1]
        await script.assert_rebuildable(1)

    async def test_versions_rise_by_one(self, store: Store) -> None:
        """Each commit stands on the one before."""
        script = await Script.begin(store)

        await script.commit_turns(5, snapshots=(4,))

        assert await script.retained() == [1, 2, 3, 4, 5]
        for version in range(1, 6):
            await script.assert_rebuildable(version)

    async def test_a_repeated_commit_gives_the_same_turn(self, store: Store) -> None:
        """The reply may have been lost; asking again must be safe, also later."""
        script = await Script.begin(store)
        await script.commit_turn("m1")
        commit = script.commit_of(await script.run("m2"))
        turn = await script.commit(commit)
        again = await script.log.commit(commit)
        await script.commit_turn("m3")

        much_later = await script.log.commit(commit)

        assert again == much_later == turn
        assert await script.retained() == [1, 2, 3]
        assert (await script.session()).head.version == 3

    async def test_a_repeated_commit_at_once_is_one_commit(self, store: Store) -> None:
        """The two may even share a transaction."""
        script = await Script.begin(store)
        commit = script.commit_of(await script.run("m1"))

        first, second = await in_order_of_calls(script.log.commit(commit), script.log.commit(commit))

        assert isinstance(first, Turn)
        assert first == second
        assert await script.retained() == [1]

    async def test_one_of_two_writers_commits(self, store: Store) -> None:
        """Two hubs with results for the same attempt: one is the truth, the other is told."""
        script = await Script.begin(store)
        started = await script.run("m1")
        commits = [script.commit_of(started, raw=raw) for raw in (b"one", b"another")]

        outcomes = await in_order_of_calls(*(script.log.commit(commit) for commit in commits))

        assert [type(outcome) for outcome in outcomes] == [Turn, Fenced]
        assert (await script.session()).head == commits[0].name
        assert (await script.chain(1))[0].stored.payload.data == b"one"

    async def test_a_fenced_out_attempt_cannot_commit(self, store: Store) -> None:
        """Its worker was taken for lost, the turn runs elsewhere: the old result is late, however good."""
        script = await Script.begin(store)
        late = script.commit_of(await script.run("m1"), raw=b"late")
        await script.log.requeue(script.key, MessageId("m1"), late.epoch)
        current = script.commit_of(await script.start("m1"), raw=b"current")

        await assert_refused(script, late)

        assert (await script.commit(current)).version == 1
        await assert_refused(script, late)

    async def test_a_requeued_attempt_cannot_commit(self, store: Store) -> None:
        """It waits to be started again; until then nobody may answer it."""
        script = await Script.begin(store)
        late = script.commit_of(await script.run("m1"))
        await script.log.requeue(script.key, MessageId("m1"), late.epoch)

        await assert_refused(script, late)

    async def test_a_commit_on_another_state_of_the_base_version_is_refused(self, store: Store) -> None:
        """Two attempts can both have made "version 1": the number alone does not tell them apart."""
        script = await Script.begin(store)
        await script.commit_turn("m1")
        commit = script.commit_of(await script.run("m2"))

        await assert_refused(script, msgspec.structs.replace(commit, base=other(commit.base)))

    async def test_a_commit_behind_or_ahead_of_the_head_is_refused(self, store: Store) -> None:
        """No committed turn is lost or forked."""
        script = await Script.begin(store)
        await script.commit_turns(2)
        commit = script.commit_of(await script.run("m3"))
        behind = msgspec.structs.replace(commit, base=script.names[Version(1)], name=other(script.names[Version(2)]))
        ahead = msgspec.structs.replace(commit, base=commit.name, name=StateName(Version(4), commit.name.state_id))

        await assert_refused(script, behind)
        await assert_refused(script, ahead)

    async def test_a_commit_of_another_epoch_is_refused(self, store: Store) -> None:
        """Older or newer: it names another attempt."""
        script = await Script.begin(store)
        commit = script.commit_of(await script.run("m1"))

        for epoch in (0, 2):
            await assert_refused(script, msgspec.structs.replace(commit, epoch=Epoch(epoch)))

    async def test_a_cancelled_turn_cannot_commit(self, store: Store) -> None:
        """Cancel is one write, and it was first."""
        script = await Script.begin(store)
        commit = script.commit_of(await script.run("m1"))
        await script.cancel("m1")

        await assert_refused(script, commit)

    async def test_a_failed_turn_cannot_commit(self, store: Store) -> None:
        """Its caller was told; it is not committed unless it is sent again."""
        script = await Script.begin(store)
        started = await script.run("m1")
        await script.fail("m1", started)

        await assert_refused(script, script.commit_of(started))

    async def test_another_message_cannot_take_the_running_ones_place(self, store: Store) -> None:
        """The epoch is the session's; the turn must be the one that runs."""
        script = await Script.begin(store)
        commit = script.commit_of(await script.run("m1"))
        await script.admit("m2")

        await assert_refused(script, msgspec.structs.replace(commit, message_id=MessageId("m2")))
        await assert_refused(script, msgspec.structs.replace(commit, message_id=MessageId("m3")), MessageNotFound)

    async def test_a_commit_that_skips_a_version_is_refused(self, store: Store) -> None:
        """Versions rise by exactly one."""
        script = await Script.begin(store)
        commit = script.commit_of(await script.run("m1"))
        name = StateName(Version(2), commit.name.state_id)

        await assert_refused(script, msgspec.structs.replace(commit, name=name), CorruptPayload)

    async def test_a_first_version_without_a_snapshot_is_refused(self, store: Store) -> None:
        """A delta with nothing below it could never be rebuilt."""
        script = await Script.begin(store)

        await assert_refused(script, script.commit_of(await script.run("m1"), kind=DELTA), CorruptPayload)

    async def test_a_commit_that_names_a_missing_object_is_refused(self, store: Store) -> None:
        """Bytes are durable before the row that names them."""
        script = await Script.begin(store)
        started = await script.run("m1")
        name = absent(script.key)
        empty = msgspec.structs.replace(payload(SNAPSHOT, b"absent"), data=b"")

        await assert_refused(
            script, script.commit_of(started, stored=StoredPayload(empty, object=name)), CorruptPayload
        )
        await assert_refused(script, script.commit_of(started, events=StoredEvents(b"", object=name)), CorruptPayload)

    async def test_a_commit_that_names_a_deleted_object_is_refused(self, store: Store) -> None:
        """It was there when an earlier commit named it, and the sweep has been since."""
        script = await Script.begin(store)
        stored = await stored_as_object(store, script.key, payload(SNAPSHOT, b"large"))
        await script.commit(script.commit_of(await script.run("m1"), raw=b"large", stored=stored))
        commit = script.commit_of(await script.run("m2"), kind=SNAPSHOT, raw=b"large", stored=stored)
        assert stored.object is not None
        await store.objects.delete(stored.object, older_than_ms=FAR_AHEAD_MS)

        await assert_refused(script, commit, CorruptPayload)

    async def test_a_commit_names_its_objects(self, store: Store) -> None:
        """A large payload and a long event list are read back as the objects that were put."""
        script = await Script.begin(store)
        started = await script.run("m1")
        stored = await stored_as_object(store, script.key, payload(SNAPSHOT, b"large"))
        events = StoredEvents(b"", object=await store.objects.put(script.key, b"long\n"))

        await script.commit(script.commit_of(started, raw=b"large", stored=stored, events=events))

        assert (await script.chain(1))[0].stored == stored
        assert await script.log.events(script.key, MessageId("m1")) == events
        assert (await script.session()).chain_bytes == 5

    async def test_the_chain_is_weighed(self, store: Store) -> None:
        """What a cold start costs, and when compaction is due, is known without reading the chain."""
        script = await Script.begin(store)
        await script.commit(script.commit_of(await script.run("m1"), raw=b"s" * 100))
        for number, size in ((2, 10), (3, 20)):
            await script.commit(script.commit_of(await script.run(f"m{number}"), raw=b"d" * size))

        session = await script.session()
        assert (session.snapshot_version, session.snapshot_bytes) == (1, 100)
        assert (session.chain_bytes, session.chain_deltas) == (130, 2)

    async def test_a_snapshot_starts_a_new_chain(self, store: Store) -> None:
        """What came before it is not needed to rebuild what comes after."""
        script = await Script.begin(store)
        await script.commit_turns(3)
        await script.commit(script.commit_of(await script.run("m4"), kind=SNAPSHOT, raw=b"s" * 50))

        session = await script.session()
        assert (session.snapshot_version, session.snapshot_bytes) == (4, 50)
        assert (session.chain_bytes, session.chain_deltas) == (50, 0)
        assert [link.name.version for link in await script.chain(4)] == [4]

    async def test_the_digest_is_the_heads(self, store: Store) -> None:
        """A version without one must not pass for equal to the one before."""
        script = await Script.begin(store)
        await script.commit_turn("m1", digest=b"d" * 32)
        await script.commit_turn("m2")

        assert (await script.session()).digest is None
        assert [link.digest for link in await script.chain(2)] == [b"d" * 32, None]

    async def test_sessions_that_commit_at_once_do_not_meet(self, store: Store) -> None:
        """Their writes share a transaction and nothing else; one that is refused is refused alone."""
        scripts = [await Script.begin(store, session_key(f"s{number}")) for number in range(8)]
        commits = [script.commit_of(await script.run("m1")) for script in scripts]
        commits[3] = msgspec.structs.replace(commits[3], epoch=Epoch(7))

        outcomes = await in_order_of_calls(*(store.log.commit(commit) for commit in commits))

        assert [type(outcome) for outcome in outcomes] == [Turn, Turn, Turn, Fenced, Turn, Turn, Turn, Turn]
        heads = [(await script.session()).head.version for script in scripts]
        assert heads == [1, 1, 1, 0, 1, 1, 1, 1]

    async def test_what_was_committed_is_there_after_reopening(self, opens: Callable[[], Awaitable[Store]]) -> None:
        """Every row of every kind."""
        store = await opens()
        script = await Script.begin(store)
        await script.commit_turns(2)
        await script.fail("failed", await script.run("failed"))
        await script.run("running")
        await script.admit("queued", metadata={"k": [1]})
        before = (await script.session(), await script.log.turns(script.key, limit=10, before=None))
        await store.close()

        store = await opens()
        try:
            again = Script(store)
            assert (await again.session(), await again.log.turns(again.key, limit=10, before=None)) == before
            assert [turn.message_id for turn in await store.log.unfinished()] == ["running", "queued"]
            again.names, again.raws = script.names, script.raws
            await again.assert_rebuildable(2)
        finally:
            await store.close()
