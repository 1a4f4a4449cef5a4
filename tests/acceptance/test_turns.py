"""The main job through real processes: versions, snapshots, deltas, and one answer per message."""

import asyncio
import itertools
import random

import apsw
import msgspec
import pytest

from tests.acceptance.processes import Fleet, fleet, texts_of, turn_of, version_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUMBERS = itertools.count(1)


@pytest.fixture
def alice(shared: Fleet) -> str:
    """A session of the test's own on the module's hub, and gates that are shut."""
    for gate in shared.gates.iterdir():
        gate.unlink()
    return f"alice{next(NUMBERS)}"


async def test_a_session_goes_from_snapshot_to_deltas_to_a_file(shared: Fleet, alice: str, tmp_path):
    """The first turn brings back a snapshot, a warm one only its rows, and any version is a SQLite file."""
    first = await shared.send(alice, "add one")
    second = await shared.send(alice, "add two")

    assert [version_of(first), version_of(second)] == [1, 2]
    assert [turn_of(first)["start"], turn_of(second)["start"]] == ["new", "warm"]
    assert turn_of(second)["sent_bytes"] == 0
    assert 0 < turn_of(second)["received_bytes"] < turn_of(first)["received_bytes"]
    assert turn_of(second)["changed_rows"] == {"note": [1, 0, 0]}
    assert texts_of(second) == ["2 notes"]
    for version, notes in ((1, [("one",)]), (2, [("one",), ("two",)])):
        file = tmp_path / f"{version}.sqlite"
        response = await shared.http.get(f"{shared.url}/v1/sessions/{alice}/versions/{version}/snapshot")
        assert response.headers["content-type"] == "application/vnd.sqlite3"
        file.write_bytes(response.content)
        connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
        assert connection.execute("SELECT text FROM note").fetchall() == notes
        assert connection.execute("SELECT session_id, version FROM _satchel_turn").fetchall() == [(alice, version)]
        connection.close()


async def test_events_are_numbered_and_named_as_documented(shared: Fleet, alice: str):
    events = await shared.send(alice, "tokens to be or not", message_id="m1")

    assert [event["type"] for event in events] == [
        "accepted",
        *["text_delta"] * 4,
        "message",
        "complete",
    ]
    assert [event["seq"] - events[0]["seq"] for event in events] == list(range(7))
    assert events[0]["seq"] == 2**20
    assert {event["attempt"] for event in events} == {1}
    assert all(event["session_id"] == alice and event["message_id"] == "m1" for event in events)
    assert "".join(event["text_delta"]["text"] for event in events[1:5]) == texts_of(events)[0]
    assert set(turn_of(events)) == {
        "start", "worker_id", "attempts", "sent_bytes", "received_bytes", "changed_rows", "handler_ms", "total_ms",
    }  # fmt: skip


async def test_a_cold_worker_gets_a_snapshot_and_a_stale_one_what_it_lacks(tmp_path):
    """Failover costs one cold start; coming back costs only the changes made elsewhere."""
    async with fleet(tmp_path, args=("--slots", "1")) as hub:
        for text in ("blob 60000", "add two"):
            await hub.send("alice", text)
        await hub.send("first", "nothing")  # warm on the first worker, as alice is
        await hub.start_worker("probe.py", "--slots", "1")
        async with hub.held("first", "h1"):
            cold = await hub.send("alice", "add three")
            await hub.send("second", "nothing")  # warm on the second
        async with hub.held("second", "h2"):
            stale = await hub.send("alice", "add four")

    assert (turn_of(cold)["start"], texts_of(cold)) == ("cold", ["3 notes"])
    assert (turn_of(stale)["start"], texts_of(stale)) == ("catch-up", ["4 notes"])
    assert 0 < turn_of(stale)["sent_bytes"] < turn_of(cold)["sent_bytes"]
    assert turn_of(stale)["worker_id"] != turn_of(cold)["worker_id"]


async def test_turns_stay_where_their_state_is(tmp_path):
    """Sticky by cost: nearly every turn after the first is warm, in whatever order sessions speak."""
    chooser = random.Random(20)  # noqa: S311  # a test's order
    async with fleet(tmp_path, workers=3) as hub:
        order = [f"s{number}" for number in range(150)] * 3
        chooser.shuffle(order)
        starts: list[str] = []
        for at in range(0, len(order), 10):
            batch = [hub.send(session, "add x", on_busy="queue") for session in order[at : at + 10]]
            starts += [turn_of(events)["start"] for events in await asyncio.gather(*batch)]
        held = [worker["warm_sessions"] for worker in await hub.list_workers()]

    later = [start for start in starts if start != "new"]
    assert starts.count("new") == 150
    assert later.count("warm") / len(later) >= 0.95
    assert min(held) > 0, "three workers share the sessions"


async def test_a_worker_at_its_slots_is_not_chosen(tmp_path):
    async with fleet(tmp_path, workers=2, args=("--slots", "1")) as hub, hub.held("alice", "m1"):
        (busy,) = [worker["worker_id"] for worker in await hub.list_workers() if worker["running"]]
        answers = [await hub.send(f"s{number}", "nothing") for number in range(4)]

    assert all(turn_of(events)["worker_id"] != busy for events in answers)


async def test_the_same_message_runs_once(shared: Fleet, alice: str):
    """At once or later, a repeat gets the same events; the handler ran once."""
    both = await asyncio.gather(
        shared.send(alice, "add one", message_id="m1"), shared.send(alice, "add one", message_id="m1")
    )
    later = await shared.send(alice, "add one", message_id="m1")
    waiting = await shared.post(alice, "add one", message_id="m1")

    assert both[0] == both[1] == later
    assert waiting.json()["answer"] == {"text": "1 notes"}
    assert (await shared.get(f"/sessions/{alice}"))["head"] == 1


async def test_a_message_id_with_another_body_is_refused(shared: Fleet, alice: str):
    await shared.send(alice, "add one", message_id="m1")

    for body in ({"text": "add two"}, {"text": "add one", "metadata": {"a": 1}}):
        response = await shared.post(alice, message_id="m1", **body)
        assert response.status_code == 422
        assert response.json()["error"]["code"] == "MESSAGE_ID_REUSED"


async def test_two_messages_at_once_run_one_after_the_other_in_order(shared: Fleet, alice: str):
    first = asyncio.create_task(shared.send(alice, "wait one", message_id="m1"))
    await shared.started("m1")
    second = await shared.post(alice, "add two", headers={"Prefer": "respond-async"}, message_id="m2")
    third = await shared.post(alice, "add three", headers={"Prefer": "respond-async"}, message_id="m3")
    session = await shared.get(f"/sessions/{alice}")
    shared.open_gate("m1")
    events = await shared.events(alice, "m3")

    assert (second.status_code, second.json()["status"], third.status_code) == (202, "queued", 202)
    assert (session["status"], session["waiting"], session["running_message_id"]) == ("running", 2, "m1")
    assert texts_of(await first) == ["half an ", "answer after 1"]
    assert (texts_of(events), version_of(events)) == (["3 notes"], 3)


async def test_a_busy_session_may_refuse_and_its_queue_is_bounded(shared: Fleet, alice: str):
    first = asyncio.create_task(shared.send(alice, "wait one", message_id="m1"))
    await shared.started("m1")

    rejected = await shared.post(alice, "add two", on_busy="reject")
    queued = [await shared.post(alice, "nothing", headers={"Prefer": "respond-async"}) for _ in range(32)]
    over = await shared.post(alice, "nothing")
    shared.open_gate("m1")
    await first

    assert (rejected.status_code, rejected.json()["error"]["code"]) == (409, "SESSION_BUSY")
    assert rejected.json()["error"]["details"]["running_message_id"] == "m1"
    assert {response.status_code for response in queued} == {202}
    assert (over.status_code, over.json()["error"]["code"]) == (429, "QUEUE_FULL")
    assert over.headers["retry-after"] == "1"


async def test_a_handler_that_raises_changes_nothing_and_stays_warm(shared: Fleet, alice: str):
    await shared.send(alice, "add one")
    failed = await shared.post(alice, "raise two", message_id="bad")
    refused = await shared.post(alice, "refuse no dogs")
    not_json = await shared.post(alice, "notjson")
    after = await shared.send(alice, "add two")

    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "TEXT_HANDLER_ERROR")
    assert "ValueError" in failed.text
    assert "secret" not in failed.text
    assert (refused.status_code, refused.json()["error"]["message"]) == (422, "no dogs")
    assert not_json.status_code == 502
    assert (turn_of(after)["start"], texts_of(after), version_of(after)) == ("warm", ["2 notes"], 2)


async def test_a_failed_message_sent_again_runs_again(shared: Fleet, alice: str):
    await shared.post(alice, "raise x", message_id="m1")
    again = await shared.send(alice, "raise x", message_id="m1")

    assert [event["type"] for event in again] == ["accepted", "restarted", "complete"]
    assert again[1]["seq"] == 2 * 2**20
    assert turn_of(again)["attempts"] == 2


async def test_a_turn_may_change_nothing_or_delete_everything(shared: Fleet, alice: str):
    await shared.send(alice, "add one")
    nothing = await shared.send(alice, "nothing")
    cleared = await shared.send(alice, "clear")

    assert (version_of(nothing), turn_of(nothing)["changed_rows"]) == (2, {})
    assert turn_of(cleared)["changed_rows"] == {"note": [0, 0, 1]}
    assert texts_of(await shared.send(alice, "add one")) == ["1 notes"]


async def test_values_changed_in_place_are_kept(shared: Fleet, alice: str):
    await shared.send(alice, "cart apple")

    assert texts_of(await shared.send(alice, "cart pear")) == ["apple,pear"]


async def test_a_turn_over_its_timeout_ends_and_the_session_goes_on(tmp_path):
    async with fleet(tmp_path, env={"PROBE_TURN_TIMEOUT_S": "0.3"}) as hub:
        late = await hub.post("alice", "wait x", message_id="m1")
        after = await hub.send("alice", "add one")

    assert (late.status_code, late.json()["error"]["code"]) == (504, "TURN_TIMEOUT")
    assert (texts_of(after), version_of(after)) == (["1 notes"], 1)


async def test_a_turn_outlives_its_client(shared: Fleet, alice: str):
    async with shared.http.stream(
        "POST",
        f"{shared.url}/v1/sessions/{alice}/messages",
        json={"text": "wait x", "agent": "probe", "message_id": "m1"},
    ):
        await shared.started("m1")
    shared.open_gate("m1")

    assert version_of(await shared.events(alice, "m1")) == 1


async def test_a_cancelled_turn_leaves_no_trace(shared: Fleet, alice: str):
    reader = asyncio.create_task(shared.send(alice, "wait x", message_id="m1"))
    await shared.started("m1")
    queued = await shared.post(alice, "add y", headers={"Prefer": "respond-async"}, message_id="m2")
    cancel = f"{shared.url}/v1/sessions/{alice}/messages/{{}}/cancel"
    second = await shared.http.post(cancel.format("m2"))
    first = await shared.http.post(cancel.format("m1"))
    events = await reader
    after = await shared.send(alice, "add one", message_id="m3")
    too_late = await shared.http.post(cancel.format("m3"))

    assert queued.status_code == 202
    assert first.json()["status"] == second.json()["status"] == "cancelled"
    assert events[-1]["complete"]["error"]["code"] == "CANCELLED"
    assert (texts_of(after), version_of(after), turn_of(after)["worker_id"]) == (
        ["1 notes"], 1, turn_of(events)["worker_id"],
    )  # fmt: skip
    assert too_late.json()["status"] == "committed"
    repeat = await shared.post(alice, "wait x", message_id="m1")
    assert (repeat.status_code, repeat.json()["error"]["code"]) == (409, "CANCELLED")


async def test_the_transcript_shows_each_message_once_with_its_answer(shared: Fleet, alice: str):
    await shared.send(alice, "add one", message_id="m1", metadata={"from": "sms"})
    await shared.post(alice, "raise x", message_id="m2")
    await shared.send(alice, "nothing", message_id="m3")
    newest = await shared.get(f"/sessions/{alice}/messages", limit=2)
    oldest = await shared.get(f"/sessions/{alice}/messages", limit=2, before=newest["next_cursor"])

    rows = oldest["messages"] + newest["messages"]
    assert [row["message_id"] for row in rows] == ["m1", "m2", "m3"]
    assert [row["status"] for row in rows] == ["committed", "failed", "committed"]
    assert [row["answer"] for row in rows] == [{"text": "1 notes"}, None, {"text": ""}]
    assert [row["version"] for row in rows] == [1, None, 2]
    assert rows[0]["metadata"] == {"from": "sms"}
    assert rows[1]["error"]["code"] == "TEXT_HANDLER_ERROR"
    assert oldest["next_cursor"] is None


async def test_a_stream_resumes_by_cursor_as_lines_or_as_sse(shared: Fleet, alice: str):
    events = await shared.send(alice, "tokens a b c", message_id="m1")
    middle = events[2]["seq"]
    sse = await shared.http.get(
        f"{shared.url}/v1/sessions/{alice}/messages/m1",
        headers={"Accept": "text/event-stream", "Last-Event-ID": str(middle)},
    )

    assert await shared.events(alice, "m1") == events
    assert await shared.events(alice, "m1", after=middle) == events[3:]
    frames = [frame.splitlines() for frame in sse.text.strip().split("\n\n")]
    assert [frame[0] for frame in frames] == [f"id: {event['seq']}" for event in events[3:]]
    assert [frame[1] for frame in frames] == [f"event: {event['type']}" for event in events[3:]]
    assert [msgspec.json.decode(frame[2].removeprefix("data: ")) for frame in frames] == events[3:]


async def test_a_worker_process_serves_every_agent_of_its_file(shared: Fleet):
    answer = await shared.post("bob", "hi", agent="other")

    assert answer.json()["answer"] == {"text": "other: hi"}
    mismatch = await shared.post("bob", "hi", agent="probe")
    assert (mismatch.status_code, mismatch.json()["error"]["code"]) == (409, "AGENT_MISMATCH")
    by_agent = await shared.get("/sessions", agent="other")
    assert [session["session_id"] for session in by_agent["sessions"]] == ["bob"]
