"""Clauses of a store that is killed: at each step of a turn's life, all of a call is there after reopening, or nothing.

Each call is killed at its first moment, in another session at its second, and so on,
until it returns before the blow. A twin that nobody kills says what all and nothing are.
"""

import contextlib
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

from satchel.errors import CorruptPayload, Fenced, SessionNotFound, VersionExpired
from satchel.limits import OBJECT_PIECE_BYTES_MAX
from satchel.model import MessageId, Version
from satchel.store.base import ChainLink, ObjectName, PublishedSnapshot, Store, StoredEvents
from satchel.store.sweep import sweep
from satchel.testing.conformance.script import (
    ERROR,
    FAR_AHEAD_MS,
    SNAPSHOT,
    Script,
    payload,
    session_key,
    stored_as_object,
)

Opens = Callable[[], Awaitable[Store]]
Call = Callable[[], Awaitable[object]]
Crash = Callable[[Store, Call, int], Awaitable[bool]]
"""``await crash(store, call, moment)`` makes the call and ends the store's process at that moment of it."""

Prepare = Callable[[Script], Awaitable[Call]]
"""Brings a session to where a call can be made, and returns the call: on the script's store of that time."""

LARGE = b"x" * (2 * OBJECT_PIECE_BYTES_MAX + 1)


async def assert_all_or_nothing(opens: Opens, crash: Crash, prepare: Prepare) -> None:
    """Assert that a call that is killed is made or not, and that it can be repeated either way."""
    async with opened(opens) as store:
        twin = await Script.begin(store, session_key("twin"))
        call = await prepare(twin)
        nothing = await picture(twin)
        first = await outcome(twin, call)
        everything = await picture(twin)
        again = await outcome(twin, call)
        assert await picture(twin) == everything != nothing

    for moment in itertools.count():
        store = await opens()
        script = await Script.begin(store, session_key(f"killed-{moment}"))
        call = await prepare(script)
        assert await picture(script) == nothing

        has_returned = await crash(store, call, moment)

        async with opened(opens) as reopened:
            script.store, script.log = reopened, reopened.log
            left = await picture(script)
            if has_returned or left != nothing:
                assert left == everything
            assert await outcome(script, call) == (first if left == nothing else again)
            assert await picture(script) == everything
        if has_returned:
            return


@contextlib.asynccontextmanager
async def opened(opens: Opens) -> AsyncIterator[Store]:
    store = await opens()
    try:
        yield store
    finally:
        await store.close()


async def outcome(script: Script, call: Call) -> str:
    """Return what a call gives, as any session's: a repeat of what can be done once only is fenced."""
    try:
        return as_any_sessions(script, repr(await call()))
    except Fenced:
        return "Fenced"


async def picture(script: Script) -> str:
    """Return all that the store says of a session, in words that are the same for every session."""
    try:
        session = await script.session()
    except SessionNotFound:
        return "no session"
    turns = await script.log.turns(script.key, limit=1_000, before=None)
    events = [await script.log.events(script.key, turn.message_id) for turn in turns]
    chains = [await chain_or_expired(script, version) for version in range(1, session.head.version + 1)]
    named = [each.object for each in events if each] + [link.stored.object for chain in chains for link in chain]
    seen: list[object] = [session, *turns, *events, *chains]
    seen += [turn for turn in await script.log.unfinished() if turn.key == script.key]
    seen += await script.log.versions(script.key, limit=1_000, before=None)
    seen += [await script.store.objects.get(name) for name in named if name is not None]
    seen += sorted(await script.log.named_objects(script.key))
    return as_any_sessions(script, "\n".join(map(repr, seen)))


async def chain_or_expired(script: Script, version: int) -> list[ChainLink]:
    """Return a version's chain; empty if it is no longer kept."""
    try:
        return await script.chain(version)
    except VersionExpired:
        return []


def as_any_sessions(script: Script, text: str) -> str:
    """Leave out what two sessions with the same story do not share: their ID, and the state IDs that follow from it."""
    text = text.replace(repr(script.key), "key")
    for version, name in script.names.items():
        text = text.replace(repr(name.state_id), f"state {version}")
    return text


class CrashClauses:
    """Killed at any moment: what was reported is there, what was not is there whole or not at all."""

    async def test_a_crash_in_admit(self, opens: Opens, crash: Crash) -> None:
        """A session without its first message would have an agent that nobody chose."""

        async def prepare(script: Script) -> Call:
            return lambda: script.admit("m1", metadata={"k": [1]})

        await assert_all_or_nothing(opens, crash, prepare)

    async def test_a_crash_in_admit_and_start(self, opens: Opens, crash: Crash) -> None:
        """A message that is there and does not run is unfinished, not started twice."""

        async def prepare(script: Script) -> Call:
            return lambda: script.admit("m1", start=True)

        await assert_all_or_nothing(opens, crash, prepare)

    async def test_a_crash_in_start(self, opens: Opens, crash: Crash) -> None:
        """Epoch, count and status are one step: an attempt has a name, or there is none."""

        async def prepare(script: Script) -> Call:
            await script.admit("m1")
            return lambda: script.start("m1")

        await assert_all_or_nothing(opens, crash, prepare)

    async def test_a_crash_in_requeue(self, opens: Opens, crash: Crash) -> None:
        """The turn runs or waits; it is never neither."""

        async def prepare(script: Script) -> Call:
            started = await script.run("m1")
            return lambda: script.log.requeue(script.key, MessageId("m1"), started.session.epoch)

        await assert_all_or_nothing(opens, crash, prepare)

    async def test_a_crash_in_wait_for_worker(self, opens: Opens, crash: Crash) -> None:
        """The deadline that a restarted hub finds is the one that was set."""

        async def prepare(script: Script) -> Call:
            await script.admit("m1")
            return lambda: script.log.wait_for_worker(script.key, MessageId("m1"), 31_000)

        await assert_all_or_nothing(opens, crash, prepare)

    async def test_a_crash_in_put(self, opens: Opens, crash: Crash) -> None:
        """An object of several pieces can be read when all of them are there, and put again when they are not."""
        data = LARGE
        digest = hashlib.sha256(data).digest()
        for moment in itertools.count():
            store = await opens()
            name = ObjectName(session_key(f"killed-{moment}"), digest, len(data))

            has_returned = await crash(store, put_of(store, name, data), moment)

            async with opened(opens) as reopened:
                if await is_whole(reopened, name) or has_returned:
                    assert await reopened.objects.get(name) == data
                assert await reopened.objects.put(name.key, data) == name
                assert await reopened.objects.get(name) == data
            if has_returned:
                return

    async def test_a_crash_in_commit(self, opens: Opens, crash: Crash) -> None:
        """Version, head, answer and events: a caller that was answered finds all of them."""

        async def prepare(script: Script) -> Call:
            await script.commit_turn("m1")
            commit = script.commit_of(await script.run("m2"), digest=b"d" * 32)
            script.names[commit.name.version] = commit.name
            return lambda: script.log.commit(commit)

        await assert_all_or_nothing(opens, crash, prepare)

    async def test_a_crash_in_a_commit_of_objects(self, opens: Opens, crash: Crash) -> None:
        """A snapshot and a long event list that the row names are there with the row."""

        async def prepare(script: Script) -> Call:
            started = await script.run("m1")
            stored = await stored_as_object(script.store, script.key, payload(SNAPSHOT, b"state"))
            events = StoredEvents(b"", object=await script.store.objects.put(script.key, b"events\n"))
            commit = script.commit_of(started, raw=b"state", stored=stored, events=events)
            script.names[commit.name.version] = commit.name
            return lambda: script.log.commit(commit)

        await assert_all_or_nothing(opens, crash, prepare)

    async def test_a_crash_in_fail(self, opens: Opens, crash: Crash) -> None:
        """The turn has ended and its attempt is fenced out, or neither."""

        async def prepare(script: Script) -> Call:
            epoch = (await script.run("m1")).session.epoch
            return lambda: script.log.fail(script.key, MessageId("m1"), ERROR, epoch=epoch, now_ms=3_000)

        await assert_all_or_nothing(opens, crash, prepare)

    async def test_a_crash_in_cancel(self, opens: Opens, crash: Crash) -> None:
        """Stop is one write: a cancelled turn whose attempt could still commit would be answered after all."""

        async def prepare(script: Script) -> Call:
            await script.run("m1")
            return lambda: script.cancel("m1")

        await assert_all_or_nothing(opens, crash, prepare)

    async def test_a_crash_in_publish(self, opens: Opens, crash: Crash) -> None:
        """The new base, what stands on it and what the chain weighs say the same."""

        async def prepare(script: Script) -> Call:
            await script.commit_turns(4)
            stored = await stored_as_object(script.store, script.key, payload(SNAPSHOT, b"compacted"))
            snapshot = PublishedSnapshot(script.key, script.names[Version(3)], stored, b"d" * 32)
            return lambda: script.log.publish(snapshot)

        await assert_all_or_nothing(opens, crash, prepare)

    async def test_a_crash_in_trim(self, opens: Opens, crash: Crash) -> None:
        """Chains go whole: a base without its deltas, or an answer without its events, is never left."""

        async def prepare(script: Script) -> Call:
            await script.commit_turns(6, snapshots=(4,))
            return lambda: script.trim(retain_versions=2, retain_answers=2)

        await assert_all_or_nothing(opens, crash, prepare)

    async def test_a_crash_in_the_sweep(self, opens: Opens, crash: Crash) -> None:
        """An object goes with all its pieces, and what a row names stays."""
        for moment in itertools.count():
            store = await opens()
            script = await Script.begin(store, session_key(f"killed-{moment}"))
            stored = await stored_as_object(store, script.key, payload(SNAPSHOT, b"state"))
            await script.commit(script.commit_of(await script.run("m1"), raw=b"state", stored=stored))
            orphan = await store.objects.put(script.key, LARGE)

            has_returned = await crash(store, sweep_of(store), moment)

            async with opened(opens) as reopened:
                is_there = await is_whole(reopened, orphan)
                assert not (is_there and has_returned)
                assert await sweep(reopened, now_ms=FAR_AHEAD_MS) == int(is_there)
                assert not await is_whole(reopened, orphan)
                assert stored.object is not None
                assert await reopened.objects.get(stored.object) == b"state"
            if has_returned:
                return


def put_of(store: Store, name: ObjectName, data: bytes) -> Call:
    return lambda: store.objects.put(name.key, data)


def sweep_of(store: Store) -> Call:
    return lambda: sweep(store, now_ms=FAR_AHEAD_MS)


async def is_whole(store: Store, name: ObjectName) -> bool:
    try:
        await store.objects.get(name)
    except CorruptPayload:
        return False
    return True
