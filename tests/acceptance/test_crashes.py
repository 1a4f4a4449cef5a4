"""kill -9 of either side in the middle of a turn: nothing acknowledged is lost, nothing runs twice to a commit."""

import asyncio

from tests.acceptance.processes import Fleet, Process, fleet, texts_of, turn_of, until, version_of


async def test_a_killed_workers_turn_runs_again_elsewhere(two: Fleet):
    """The reader sees `restarted`; exactly one version is committed."""
    before = await two.send("alice", "pid")
    reader = asyncio.create_task(two.send("alice", "wait one", message_id="m1"))
    await two.started("m1")
    await two.kill_worker(int(texts_of(before)[0]))
    await two.started("m1", attempt=2)
    two.open_gate("m1")
    events = await reader

    kinds = [event["type"] for event in events]
    assert kinds == ["accepted", "message", "restarted", "message", "message", "complete"]
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert texts_of(events)[-1] == "answer after 2"
    assert (version_of(events), turn_of(events)["attempts"]) == (2, 2)
    assert turn_of(events)["worker_id"] != turn_of(before)["worker_id"]
    assert texts_of(await two.send("alice", "add two")) == ["2 notes"]


async def test_a_message_that_kills_workers_ends(tmp_path):
    """Three attempts, then it is the message's fault; the session goes on."""
    async with fleet(tmp_path, workers=3) as hub:
        deadly = await hub.post("alice", "die", message_id="m1")
        await hub.start_worker()
        after = await hub.send("alice", "add one")

    assert (deadly.status_code, deadly.json()["error"]["code"]) == (504, "ATTEMPTS_EXHAUSTED")
    assert version_of(after) == 1


async def test_an_idempotency_key_is_equal_across_attempts_and_differs_by_label(two: Fleet):
    await two.send("alice", "keys")

    first, second = ((two.gates / f"keys.{attempt}").read_text() for attempt in (1, 2))
    assert first == second, "the lost attempt's and the committed one's"
    charge, mail = first.split()
    assert charge != mail


async def test_a_killed_hub_takes_its_turn_up_again(one: Fleet):
    """The worker goes on, the restarted hub adopts its attempt: the handler ran once."""
    await one.send("alice", "add one")
    posted = await one.post("alice", "wait two", headers={"Prefer": "respond-async"}, message_id="m1")
    await one.started("m1")
    assert one.hub is not None
    await one.hub.kill()
    await one.start_hub()
    await until(lambda: _count(one, 1))
    one.open_gate("m1")
    events = await one.events("alice", "m1")

    assert posted.status_code == 202
    assert (version_of(events), turn_of(events)["attempts"]) == (2, 1)
    assert not (one.gates / "m1.started.2").exists(), "the handler ran once"
    again = await one.post("alice", "wait two", message_id="m1")
    assert again.json()["answer"] == {"text": "half an \nanswer after 1"}
    after = await one.send("alice", "add three")
    assert (turn_of(after)["start"], texts_of(after)) == ("warm", ["3 notes"])


async def _count(hub: Fleet, workers: int) -> bool:
    return len(await hub.list_workers()) == workers


async def test_a_hub_that_finds_no_worker_with_the_attempt_runs_the_turn_again(one: Fleet):
    """Hub and worker die together; the client need not do anything."""
    await one.send("alice", "add one")
    await one.post("alice", "wait two", headers={"Prefer": "respond-async"}, message_id="m1")
    await one.started("m1")
    assert one.hub is not None
    await one.hub.kill()
    await one.workers.pop().kill()
    await one.start_hub()
    await one.start_worker()
    await one.started("m1", attempt=2)
    one.open_gate("m1")
    events = await one.events("alice", "m1")

    assert (version_of(events), turn_of(events)["attempts"], turn_of(events)["start"]) == (2, 2, "cold")
    rows = await one.transcript("alice")
    assert [(row["status"], row["version"]) for row in rows] == [("committed", 1), ("committed", 2)]


async def test_workers_that_reconnect_are_still_warm_and_queued_turns_survive(two: Fleet):
    sessions = [f"s{number}" for number in range(20)]
    await asyncio.gather(*(two.send(session, "add one") for session in sessions))
    assert two.hub is not None
    await two.hub.kill()
    await two.start_hub()
    await until(lambda: _count(two, 2))
    again = await asyncio.gather(*(two.send(session, "add two") for session in sessions))

    assert {turn_of(events)["start"] for events in again} == {"warm"}
    assert {tuple(texts_of(events)) for events in again} == {("2 notes",)}


async def test_every_acknowledged_turn_survives_a_hub_killed_under_load(two: Fleet):
    """A stream of turns, a kill in the middle: what was answered is there, versions have no gap."""
    answered: dict[str, list[int]] = {f"s{number}": [] for number in range(8)}

    async def talk(session: str) -> None:
        for number in range(200):
            try:
                events = await two.send(session, f"add {number}", message_id=f"m{number}")
            except Exception:  # noqa: BLE001  # the hub was killed: that is the test
                return
            if "session_state" in events[-1].get("complete", {}):
                answered[session].append(version_of(events))
            else:
                return

    talkers = [asyncio.create_task(talk(session)) for session in answered]
    await until(lambda: _enough(answered))
    assert two.hub is not None
    await two.hub.kill()
    await asyncio.gather(*talkers)
    await two.start_hub()

    for session, versions in answered.items():
        assert versions == list(range(1, len(versions) + 1))
        await two.send(session, "add last", message_id="last")
        rows = (await two.get(f"/sessions/{session}/messages", limit=500))["messages"]
        assert [row["version"] for row in rows] == list(range(1, len(rows) + 1))
        assert len(rows) >= len(versions) + 1
        assert rows[-1]["answer"] == {"text": f"{len(rows)} notes"}


async def _enough(answered: dict[str, list[int]]) -> bool:
    return sum(map(len, answered.values())) > 60


async def test_an_idle_hub_and_worker_end_on_sigterm(one: Fleet):
    assert one.hub is not None
    assert await one.workers[0].stop() == 0
    assert await one.hub.stop() == 0


async def test_a_second_hub_on_the_same_store_refuses(one: Fleet, tmp_path):
    second = Process("hub", "--port", "0", "--store", str(tmp_path / "hub.db"))
    await second.start()

    assert await second.ended() == 1
    assert "One store file has one hub" in second.output
    assert one.url in second.output
