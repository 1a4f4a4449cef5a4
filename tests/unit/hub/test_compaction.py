"""When compaction is due, and what it publishes of real states."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satchel.errors import CorruptPayload, CorruptState
from satchel.hub.compaction import compact, is_due
from satchel.limits import CHAIN_BYTES_MAX, COMPACT_DELTAS_MIN, COMPACT_WEIGHT, MIB
from satchel.model import EMPTY, PayloadKind, SessionKey, StateName, Version, first_state_id
from satchel.state.payload import seal
from satchel.state.session import OpenSession
from satchel.store.base import Session, Store, StoredPayload
from satchel.store.chain import load_chain, read_chain
from satchel.store.open import open_store
from satchel.store.sweep import sweep
from satchel.testing.conformance.script import FAR_AHEAD_MS, Script, session_key
from tests.unit.state.sessions import KEY, Recording

SCHEMA = "CREATE TABLE room (id INTEGER PRIMARY KEY, guest TEXT NOT NULL) STRICT;"


# --- the decision --------------------------------------------------------------------------------


def session(*, snapshot_bytes: int, delta_bytes: int, deltas: int) -> Session:
    key = session_key()
    return Session(
        key=key,
        agent="clerk",
        epoch=0,
        head=StateName(Version(deltas + 1), first_state_id(key)),
        schema=None,
        state_bytes=0,
        chain_bytes=snapshot_bytes + delta_bytes,
        chain_deltas=deltas,
        snapshot_version=Version(1),
        digest=None,
        waiting=0,
        running_message_id=None,
        metadata=None,
        created_at_ms=0,
        updated_at_ms=0,
        snapshot_bytes=snapshot_bytes,
    )


def test_many_light_deltas_are_left_alone():
    """Rewriting a large state for a few small changes would cost more than it saves."""
    assert not is_due(session(snapshot_bytes=100_000, delta_bytes=49_999, deltas=1_000))


def test_few_heavy_deltas_are_left_alone():
    """A short chain is quick to apply, whatever it weighs."""
    assert not is_due(session(snapshot_bytes=1_000, delta_bytes=100_000, deltas=COMPACT_DELTAS_MIN - 1))


def test_compaction_is_due_at_both_bounds():
    """At the bound it is; one below either it is not."""
    weight = int(100_000 * COMPACT_WEIGHT)

    assert is_due(session(snapshot_bytes=100_000, delta_bytes=weight, deltas=COMPACT_DELTAS_MIN))
    assert not is_due(session(snapshot_bytes=100_000, delta_bytes=weight - 1, deltas=COMPACT_DELTAS_MIN))
    assert not is_due(session(snapshot_bytes=100_000, delta_bytes=weight, deltas=COMPACT_DELTAS_MIN - 1))


def test_a_chain_that_fills_its_frame_is_compacted_early():
    """A cold start must fit a frame; half the room is time enough to make the snapshot."""
    snapshot_bytes = CHAIN_BYTES_MAX - 2 * MIB

    assert is_due(session(snapshot_bytes=snapshot_bytes, delta_bytes=MIB, deltas=2))
    assert not is_due(session(snapshot_bytes=snapshot_bytes, delta_bytes=MIB - 1, deltas=2))


def test_a_snapshot_alone_is_never_due():
    """There is nothing to fold, even if it fills the whole chain."""
    assert not is_due(session(snapshot_bytes=CHAIN_BYTES_MAX, delta_bytes=0, deltas=0))


@given(
    snapshot_bytes=st.integers(1, CHAIN_BYTES_MAX), delta_bytes=st.integers(1, 1_000_000), turns=st.integers(1, 5_000)
)
def test_what_compaction_writes_is_in_proportion_to_what_turns_wrote(snapshot_bytes: int, delta_bytes: int, turns: int):
    """Write amplification is bounded whatever the state's size, until a state nearly fills its frame."""
    snapshot_bytes = min(snapshot_bytes, CHAIN_BYTES_MAX // 2)
    written = chain = deltas = 0
    for _ in range(turns):
        chain, deltas = chain + delta_bytes, deltas + 1
        if is_due(session(snapshot_bytes=snapshot_bytes, delta_bytes=chain, deltas=deltas)):
            written += snapshot_bytes
            chain = deltas = 0

    assert written <= 2 * turns * delta_bytes


# --- the work ------------------------------------------------------------------------------------


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(str(tmp_path / "x.db"))
    yield store
    await store.close()


class Guesthouse:
    """A real session, recorded here and committed to a store."""

    def __init__(self, store: Store, recording: Recording, script: Script) -> None:
        self.store = store
        self.recording = recording
        self.script = script

    async def book(self, count: int) -> None:
        """Commit *count* turns, each with its digest."""
        for _ in range(count):
            number = len(self.recording.chain) + 1
            recorded = self.recording.turn(f"INSERT INTO room (guest) VALUES ('guest {number}')")
            link = self.recording.chain[-1]
            started = await self.script.run(f"m{number}")
            commit = self.script.commit_of(started, digest=recorded.digest)
            await self.script.commit(
                msgspec.structs.replace(
                    commit,
                    name=link.name,
                    payload=await self._at_rest(link.payload),
                    schema=recorded.schema,
                    state_bytes=recorded.state_bytes,
                )
            )

    def again(self, store: Store) -> Script:
        """Read the same session from another opening of its store."""
        return Script(store, self.script.key)

    async def _at_rest(self, payload) -> StoredPayload:
        if payload.kind is PayloadKind.DELTA:
            return StoredPayload(payload)
        name = await self.store.objects.put(self.script.key, payload.data)
        return StoredPayload(msgspec.structs.replace(payload, data=b""), object=name)

    async def open_cold(self, version: int) -> OpenSession:
        """Open a version from the store alone; its digest is compared."""
        stored, links = await read_chain(self.store, self.script.key, Version(version))
        last = stored[-1]
        return OpenSession.from_chain(KEY.session_id, links, base=last.name, schema=last.schema, digest=last.digest)


@pytest.fixture
async def house(store: Store) -> AsyncIterator[Guesthouse]:
    with Recording(SCHEMA) as recording:
        yield Guesthouse(store, recording, await Script.begin(store, SessionKey(KEY.tenant, KEY.session_id)))


async def test_compaction_publishes_the_rows_that_were_committed(store: Store, house: Guesthouse):
    """A cold start from the new base has the digest of the copy that made the versions."""
    await house.book(6)

    assert await compact(store, house.script.key, Version(4))

    assert [link.name.version for link in await load_chain(store, house.script.key, Version(6))] == [4, 5, 6]
    for version in range(1, 7):
        (await house.open_cold(version)).close()
    session = await house.script.session()
    assert (session.snapshot_version, session.chain_deltas) == (4, 2)


async def test_turns_and_retention_go_on_after_compaction(store: Store, house: Guesthouse):
    """The old chain goes, the new one carries what comes."""
    await house.book(4)
    await compact(store, house.script.key, Version(4))
    await house.book(2)

    await house.script.trim(retain_versions=1)
    await sweep(store, now_ms=FAR_AHEAD_MS)

    assert await house.script.retained() == [4, 5, 6]
    for version in (5, 6):
        (await house.open_cold(version)).close()


async def test_a_long_session_rests_as_a_short_chain(tmp_path: Path, store: Store, house: Guesthouse):
    """Turn after turn, with compaction when it is due: a cold start from disk still has the live copy's digest."""
    compacted = 0
    for _ in range(100):
        await house.book(1)
        if is_due(session := await house.script.session()):
            compacted += await compact(store, house.script.key, session.head.version)
            await house.script.trim(retain_versions=10)
            await sweep(store, now_ms=FAR_AHEAD_MS)
    await store.close()

    house.store = again = await open_store(str(tmp_path / "x.db"))
    try:
        assert compacted >= 2
        assert len(await house.again(again).retained()) <= 2 * COMPACT_DELTAS_MIN + 10
        for version in (99, 100):
            (await house.open_cold(version)).close()
    finally:
        await again.close()


async def test_a_version_that_is_a_snapshot_needs_no_compaction(store: Store, house: Guesthouse):
    """False, and nothing changed."""
    await house.book(1)
    before = await house.script.session()

    assert not await compact(store, house.script.key, Version(1))

    assert await house.script.session() == before


async def test_a_version_that_is_no_longer_kept_needs_no_compaction(store: Store, house: Guesthouse):
    """A turn may have been quicker."""
    await house.book(5)
    await compact(store, house.script.key, Version(3))
    await house.script.trim(retain_versions=1)

    assert not await compact(store, house.script.key, Version(2))


async def test_rows_that_are_not_those_committed_are_not_published(store: Store, house: Guesthouse):
    """The worker's live rows and the hub's rebuilt ones differ: the old chain must stay as evidence."""
    await house.book(3)
    await store.log._writer.call(lambda db: db.execute("UPDATE version SET digest = zeroblob(32) WHERE version = 3"))
    before = await house.script.session()

    with pytest.raises(CorruptState):
        await compact(store, house.script.key, Version(3))

    assert await house.script.session() == before
    assert [link.name.version for link in await house.script.chain(3)] == [1, 2, 3]


async def test_a_damaged_delta_is_not_folded(store: Store, house: Guesthouse):
    """Nothing is published that was built on it."""
    await house.book(3)
    other = seal(PayloadKind.DELTA, b"another delta")
    await store.log._writer.call(
        lambda db: db.execute(
            "UPDATE version SET data = ?, checksum = ?, raw_size = ?, encoding = ? WHERE version = 2",
            (other.data, other.checksum, other.raw_size, int(other.encoding)),
        )
    )

    with pytest.raises((CorruptPayload, CorruptState)):
        await compact(store, house.script.key, Version(3))

    assert (await house.script.session()).snapshot_version == 1


async def test_the_first_state_id_begins_every_chain(house: Guesthouse):
    """What a recorder starts from is what the store gave the session."""
    await house.script.admit("m1")

    assert (await house.script.session()).head == StateName(EMPTY, house.recording.session.name.state_id)
