"""A process that commits turns of several sessions until it is killed.

It prints a line for each commit once that is acknowledged: session, version, state ID, answer's message.
"""

import asyncio
import sys

from satchel.model import PayloadKind
from satchel.store.base import Store, StoredEvents
from satchel.store.open import open_store
from satchel.testing.conformance.script import SNAPSHOT, Script, payload, session_key, stored_as_object

SESSIONS = 6
SNAPSHOT_EVERY = 5


async def commit_for_ever(store: Store, number: int) -> None:
    """Commit version after version: now and then a snapshot, as an object of several pieces."""
    script = await Script.begin(store, session_key(f"s{number}"))
    head = 0
    while True:
        head += 1
        started = await script.run(f"m{head}")
        commit = script.commit_of(started)
        if head % SNAPSHOT_EVERY == 1:
            raw = b"%d " % head * 500_000
            stored = await stored_as_object(store, script.key, payload(PayloadKind.SNAPSHOT, raw))
            events = StoredEvents(b"", object=await store.objects.put(script.key, b"events %d\n" % head))
            commit = script.commit_of(started, kind=SNAPSHOT, raw=raw, stored=stored, events=events)
        turn = await script.log.commit(commit)
        print(script.key.session_id, turn.version, commit.name.state_id.hex(), turn.message_id, flush=True)  # noqa: T201


async def main() -> None:
    store = await open_store(sys.argv[1])
    async with asyncio.TaskGroup() as tasks:
        for number in range(SESSIONS):
            tasks.create_task(commit_for_ever(store, number))


if __name__ == "__main__":
    asyncio.run(main())
