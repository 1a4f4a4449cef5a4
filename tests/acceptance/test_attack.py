"""Callers that do not read, handlers that do not stop, more sessions than slots: the others go on, and all ends."""

import asyncio
import contextlib
import json
from urllib.parse import urlsplit

from tests.acceptance.processes import Fleet, fleet, texts_of, until, version_of

SESSIONS = 200


async def test_a_caller_that_never_reads_slows_nobody(one: Fleet):
    """Its turn commits, other sessions answer, and the hub still stops: nothing waits for its socket."""
    url = urlsplit(one.url)
    _reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=1)
    body = json.dumps({"text": "tokens " + "word " * 20_000, "agent": "probe", "message_id": "m1"})
    head = (
        "POST /v1/sessions/deaf/messages HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with contextlib.closing(writer):
        writer.write(f"{head}{body}".encode())
        await writer.drain()

        await until(lambda: _is_committed(one, "deaf"))
        assert texts_of(await one.send("alice", "add one")) == ["1 notes"]
        again = await one.events("deaf", "m1")
        assert [event["type"] for event in again].count("text_delta") == 20_000
        assert one.hub is not None
        await one.hub.stop()


async def test_more_sessions_than_slots_all_have_their_turn(tmp_path):
    """In the order of asking, and none is passed over when a slot is free."""
    async with fleet(tmp_path, args=("--slots", "1")) as hub:
        names = [f"s{number}" for number in range(SESSIONS)]
        async_ = {"Prefer": "respond-async"}
        posted = [await hub.post(name, "add one", headers=async_) for name in names]
        for name in names:
            await until(lambda name=name: _is_committed(hub, name))
        (worker,) = await hub.list_workers()

    assert {response.status_code for response in posted} == {202}
    assert worker["running"] == 0


async def test_a_message_sent_again_while_its_old_attempt_still_blocks_the_worker_runs_behind_it(tmp_path):
    """NO-TRACE and no leaked slot: the old attempt holds the only slot until it has ended, and leaves nothing."""
    async with fleet(tmp_path, args=("--slots", "1"), env={"PROBE_TURN_TIMEOUT_S": "0.5"}) as hub:
        await hub.send("alice", "add one")
        first = await hub.post("alice", "block 2", message_id="m1")
        other = asyncio.create_task(hub.post("bob", "add one"))
        second = await hub.post("alice", "block 2", message_id="m1")
        after = await hub.send("alice", "add two")
        bobs = await other
        await until(lambda: _is_idle(hub))

    for answer in (first, second):
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "TURN_TIMEOUT")
    assert (version_of(after), texts_of(after)) == (2, ["2 notes"])
    assert bobs.status_code == 200


async def _is_committed(hub: Fleet, session: str) -> bool:
    answer = await hub.http.get(f"{hub.url}/v1/sessions/{session}/messages")
    return answer.status_code == 200 and [row["status"] for row in answer.json()["messages"]] == ["committed"]


async def _is_idle(hub: Fleet) -> bool:
    return all(worker["running"] == 0 for worker in await hub.list_workers())
