"""What the log's schema makes impossible, and what a full disk means for it."""

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from satchel.store.base import Store
from satchel.store.open import open_store
from satchel.testing.conformance.script import Script


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(str(tmp_path / "x.db"))
    yield store
    await store.close()


async def assert_impossible(store: Store, sql: str) -> None:
    """Assert that the schema itself refuses *sql*, whatever the code does."""

    def work(db: apsw.Connection) -> None:
        with pytest.raises(apsw.ConstraintError):
            db.execute(sql)

    await store.log._writer.call(work)


async def test_a_delta_without_its_base_cannot_be(store: Store):
    """A chain that lost its snapshot is lost: no statement of ours or of an operator may do that."""
    script = await Script.begin(store)
    await script.commit_turns(3)
    await script.publish(2)

    await assert_impossible(store, "DELETE FROM snapshot WHERE version = 1")
    await assert_impossible(store, "DELETE FROM snapshot WHERE version = 2")
    await assert_impossible(store, "UPDATE snapshot SET version = 7 WHERE version = 2")
    await assert_impossible(store, "UPDATE version SET snapshot_version = 0 WHERE version = 3")


async def test_a_version_without_its_bytes_cannot_be(store: Store):
    """Either it stands on itself, and a snapshot has its bytes, or it carries a delta."""
    script = await Script.begin(store)
    await script.commit_turns(2)

    await assert_impossible(store, "UPDATE version SET data = NULL WHERE version = 2")
    await assert_impossible(store, "UPDATE version SET snapshot_version = 2 WHERE version = 2")
    await assert_impossible(store, "UPDATE snapshot SET data = NULL WHERE version = 1")


async def test_a_version_without_its_message_cannot_be(store: Store):
    """The outcome of a message is kept as long as its session."""
    script = await Script.begin(store)
    await script.commit_turns(1)

    await assert_impossible(store, "DELETE FROM turn")
    await assert_impossible(store, "DELETE FROM session")


async def test_two_running_turns_of_a_session_cannot_be(store: Store):
    """Single flight is more than a habit of the code."""
    script = await Script.begin(store)
    await script.run("m1")
    await script.admit("m2")

    await assert_impossible(store, "UPDATE turn SET status = 'running', epoch = 2 WHERE message_id = 'm2'")


async def test_a_turn_says_one_thing(store: Store):
    """Running has an epoch, committed a version, what ended a time."""
    script = await Script.begin(store)
    await script.run("m1")

    await assert_impossible(store, "UPDATE turn SET epoch = NULL")
    await assert_impossible(store, "UPDATE turn SET version = 1")
    await assert_impossible(store, "UPDATE turn SET status = 'committed', epoch = NULL")
    await assert_impossible(store, "UPDATE turn SET finished_at_ms = 1")
    await assert_impossible(store, "UPDATE turn SET status = 'lost'")
