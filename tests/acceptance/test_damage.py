"""Damage is refused by name wherever it happens, the copy is dropped, and the session goes on from what the hub has."""

import asyncio
import itertools
import logging
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import apsw
import msgspec
import pytest
import pytest_asyncio

from satchel import Turn, Worker
from satchel.errors import LinkRefused
from satchel.model import PayloadKind, StateId, next_state_id
from satchel.protocol.codec import encode_hub, encode_worker
from satchel.protocol.messages import Committed, Event, Request, Result
from satchel.state.payload import seal, unseal
from satchel.worker.dial import websocket_dial
from satchel.worker.process import WorkerHost
from tests.acceptance.damage import Change, Wire, flipped, linked
from tests.acceptance.processes import Fleet, Process, fleet, texts_of, turn_of, until, version_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

RAW_MAX = 2**24
NUMBERS = itertools.count(1)


class Desk:
    """An agent that adds notes, and waits in a turn whose text is ``wait`` until told to go on."""

    def __init__(self) -> None:
        self.may_go = False
        self.worker: Worker[Any] = Worker(
            "desk",
            schema="CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;"
            "CREATE TABLE ballast (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;",
        )
        self.worker.on_message(self.reply)

    async def reply(self, turn: Turn) -> str:
        if turn.version == 1:  # so that a snapshot is worth avoiding
            turn.state.execute("INSERT INTO ballast (bytes) VALUES (randomblob(20000))")
        turn.state.execute("INSERT INTO note (text) VALUES (?)", (turn.text,))
        while turn.text == "wait" and not self.may_go:
            await asyncio.sleep(0.01)
        return f"{turn.state.execute('SELECT count(*) FROM note').scalar()} notes"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """A hub process without workers: each test brings its own, over a wire of its own."""
    async with fleet(tmp_path_factory.mktemp("damage"), workers=0) as running:
        yield running


@pytest.fixture
def session() -> str:
    """A session of the test's own."""
    return f"s{next(NUMBERS)}"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Return what the workers of this process have logged: sentence and facts."""
    caplog.set_level(logging.INFO, "satchel.worker")
    return lambda: "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)


async def send(hub: Fleet, session: str, text: str = "add") -> list[dict[str, Any]]:
    return await hub.send(session, text, agent="desk")


def log_of(hub: Fleet) -> str:
    assert hub.hub is not None
    return hub.hub.output


# --- a result that is damaged on its way to the hub -----------------------------------------------


def _with_payload(result: Result, **changes: Any) -> Result:
    return msgspec.structs.replace(result, payload=msgspec.structs.replace(result.payload, **changes))


def _renamed(result: Result, **changes: Any) -> Result:
    return msgspec.structs.replace(result, name=msgspec.structs.replace(result.name, **changes))


def _without_mark(result: Result) -> Result:
    """The result of a worker that recorded wrongly: sound bytes, rightly named, that lack the mark at their end."""
    raw = unseal(result.payload, raw_size_max=RAW_MAX)
    changed = raw[: raw.rindex(b"_satchel_turn")] + b"_satchel_tern" + raw[raw.rindex(b"_satchel_turn") + 13 :]
    name = next_state_id(result.base.state_id, result.name.version, PayloadKind.DELTA, changed)
    return _renamed(msgspec.structs.replace(result, payload=seal(PayloadKind.DELTA, changed)), state_id=name)


DAMAGED_RESULTS: dict[str, tuple[Change, str]] = {
    "a bit of the delta": (
        lambda result: _with_payload(result, data=flipped(result.payload.data)),
        "The checksum of a delta is not that of its bytes.",
    ),
    "a delta cut short": (
        lambda result: _with_payload(result, data=result.payload.data[:-1]),
        "The checksum of a delta is not that of its bytes.",
    ),
    "a bit of the checksum": (
        lambda result: _with_payload(result, checksum=flipped(result.payload.checksum)),
        "The checksum of a delta is not that of its bytes.",
    ),
    "the size": (
        lambda result: _with_payload(result, raw_size=result.payload.raw_size + 1),
        "bytes it names",
    ),
    "the state ID": (
        lambda result: _renamed(result, state_id=StateId(flipped(result.name.state_id))),
        "The result's state ID is not that of its bytes.",
    ),
    "the base": (
        lambda result: msgspec.structs.replace(
            result, base=msgspec.structs.replace(result.base, state_id=StateId(bytes(16)))
        ),
        "The result's base is not the head its attempt was started from.",
    ),
    "the mark at the end": (_without_mark, "A delta does not end with the mark of its turn."),
}


@pytest.mark.parametrize("what", DAMAGED_RESULTS)
async def test_a_damaged_result_is_refused_by_name_and_sent_again_whole(hub: Fleet, session: str, what: str):
    """What does not check is not committed; the worker has the state, so nothing runs twice and nobody notices."""
    change, reason = DAMAGED_RESULTS[what]
    wire = Wire()
    async with linked(hub, Desk().worker, wire):
        first = await send(hub, session)
        told = len(log_of(hub))
        wire.damage(Result, change)
        healed = await send(hub, session)
        after = await send(hub, session)

    assert wire.is_spent
    assert "refused a corrupt result" in log_of(hub)[told:]
    assert reason in log_of(hub)[told:]
    assert [event["type"] for event in healed] == ["accepted", "message", "complete"]
    assert (turn_of(healed)["attempts"], turn_of(healed)["start"]) == (1, "warm")
    assert turn_of(healed)["received_bytes"] > 20_000, "a whole state"
    assert turn_of(after)["received_bytes"] < turn_of(first)["received_bytes"] / 10, "a delta again"
    assert [version_of(events) for events in (first, healed, after)] == [1, 2, 3]
    assert texts_of(after) == ["3 notes"]


async def test_a_worker_whose_results_stay_damaged_loses_its_copy_and_the_turn_runs_again(hub: Fleet, session: str):
    """The second time it is not the wire: the copy is not to be trusted, and the next attempt is sent the state."""
    wire = Wire()
    async with linked(hub, Desk().worker, wire):
        await send(hub, session)
        wire.damage(Result, DAMAGED_RESULTS["a bit of the delta"][0])
        wire.damage(Result, lambda result: _with_payload(result, checksum=bytes(16)))
        events = await send(hub, session)

    assert [event["type"] for event in events][-3:] == ["restarted", "message", "complete"]
    assert (turn_of(events)["attempts"], turn_of(events)["start"]) == (2, "cold")
    assert (texts_of(events)[-1], version_of(events)) == ("2 notes", 2)


async def test_a_worker_that_only_sends_damage_commits_nothing(hub: Fleet, session: str):
    """The message ends, the session stands where it was, and a sound worker goes on from there."""
    broken = Wire()
    async with linked(hub, Desk().worker):
        await send(hub, session)
    async with linked(hub, Desk().worker, broken):
        broken.damage(Result, DAMAGED_RESULTS["the state ID"][0], times=6)
        failed = await send(hub, session)
        held = await hub.get(f"/sessions/{session}")
    async with linked(hub, Desk().worker):
        after = await send(hub, session)

    assert failed[-1]["complete"]["error"]["code"] == "ATTEMPTS_EXHAUSTED"
    assert (held["head"], held["status"], held["worker_id"]) == (1, "idle", None)
    assert (texts_of(after), version_of(after), turn_of(after)["start"]) == (["2 notes"], 2, "cold")


# --- a state that is damaged on its way to a worker -----------------------------------------------


def _with_link(request: Request, index: int, **changes: Any) -> Request:
    chain = list(request.chain)
    payload = msgspec.structs.replace(chain[index].payload, **changes)
    chain[index] = msgspec.structs.replace(chain[index], payload=payload)
    return msgspec.structs.replace(request, chain=tuple(chain))


def _bad_snapshot(request: Request) -> Request:
    return _with_link(request, 0, data=flipped(request.chain[0].payload.data))


def _bad_delta(request: Request) -> Request:
    return _with_link(request, -1, data=flipped(request.chain[-1].payload.data))


def _resealed_delta(request: Request) -> Request:
    """A delta whose every sum is right, but that is of other bytes than the state ID names."""
    raw = unseal(request.chain[-1].payload, raw_size_max=RAW_MAX)
    sealed = seal(PayloadKind.DELTA, flipped(raw, len(raw) - 1))
    return _with_link(request, -1, data=sealed.data, checksum=sealed.checksum, encoding=sealed.encoding)


def _wrong_digest(request: Request) -> Request:
    return msgspec.structs.replace(request, digest=bytes(32))


def _wrong_fingerprint(request: Request) -> Request:
    assert request.schema is not None
    return msgspec.structs.replace(request, schema=msgspec.structs.replace(request.schema, fingerprint=bytes(32)))


DAMAGED_STATES: dict[str, tuple[Change, str]] = {
    "a bit of the snapshot": (_bad_snapshot, "CorruptPayload: The checksum of a snapshot"),
    "a bit of a delta": (_bad_delta, "CorruptPayload: The checksum of a delta"),
    "a delta in a sound envelope": (_resealed_delta, "CorruptPayload: The delta of version 3 does not have its state"),
    "the digest": (_wrong_digest, "CorruptState"),
    "the fingerprint": (_wrong_fingerprint, "CorruptState"),
}


@pytest.mark.parametrize("what", DAMAGED_STATES)
async def test_a_damaged_state_is_refused_by_name_and_sent_again(hub: Fleet, session: str, said, what: str):
    """No handler runs on a state other than the one that is named; the caller does not notice."""
    change, reason = DAMAGED_STATES[what]
    async with linked(hub, Desk().worker):
        for _ in range(3):
            await send(hub, session)
    wire = Wire()
    wire.damage(Request, change)
    async with linked(hub, Desk().worker, wire):
        events = await send(hub, session)

    assert "a state could not be opened" in said()
    assert reason in said()
    assert [event["type"] for event in events] == ["accepted", "message", "complete"]
    assert (turn_of(events)["start"], turn_of(events)["attempts"]) == ("cold", 1)
    assert (texts_of(events), version_of(events)) == (["4 notes"], 4)


async def test_a_damaged_catch_up_costs_the_copy_and_not_the_turn(hub: Fleet, session: str, said):
    """A copy that may have been half changed is dropped; the second try is a whole state."""
    wire, stale, other = Wire(), Desk(), Desk()
    async with linked(hub, stale.worker, wire, slots=1):
        await send(hub, session)
        blocking = asyncio.create_task(send(hub, f"{session}-1", "wait"))
        await until(lambda: _is_running(hub, 1))
        async with linked(hub, other.worker, slots=1):
            elsewhere = await send(hub, session)
            blocking_too = asyncio.create_task(send(hub, f"{session}-2", "wait"))
            await until(lambda: _is_running(hub, 2))
            stale.may_go = True
            await blocking
            wire.damage(Request, _bad_delta)
            events = await send(hub, session)
            other.may_go = True
            await blocking_too

    assert turn_of(elsewhere)["worker_id"] != turn_of(events)["worker_id"]
    assert wire.is_spent
    assert "CorruptPayload: The checksum of a delta" in said()
    assert (turn_of(events)["start"], turn_of(events)["attempts"]) == ("cold", 1)
    assert (texts_of(events), version_of(events)) == (["3 notes"], 3)


async def _is_running(hub: Fleet, turns: int) -> bool:
    return sum(member["running"] for member in await hub.list_workers()) == turns


# --- a frame that is damaged ----------------------------------------------------------------------

GARBLED: dict[str, Callable[[bytes], bytes]] = {
    "its first byte": lambda data: b"\xff" + data[1:],
    "its end": lambda data: data[: len(data) // 2],
    "all of it": lambda _data: b"",
}


def _garbling(garble: Callable[[bytes], bytes], encode: Callable[[Any], bytes]) -> Change:
    return lambda frame: garble(encode(frame))


@pytest.mark.parametrize("where", GARBLED)
@pytest.mark.parametrize("kind", [Result, Event, Request, Committed], ids=lambda kind: kind.__name__)
async def test_a_frame_that_cannot_be_read_ends_the_link_and_no_turn(hub: Fleet, session: str, said, kind, where: str):
    """Whoever cannot read says why and hangs up; the worker dials again, and one version is committed."""
    encode: Callable[[Any], bytes] = encode_worker if kind in {Result, Event} else encode_hub
    wire = Wire()
    async with linked(hub, Desk().worker, wire):
        await send(hub, session)
        wire.damage(kind, _garbling(GARBLED[where], encode))
        events = await send(hub, session)
        after = await send(hub, session)

    assert wire.is_spent
    assert "no link to the hub" in said()
    assert "The peer's" in said() + log_of(hub)
    assert (texts_of(events)[-1], version_of(events)) == ("2 notes", 2)
    assert (texts_of(after), version_of(after)) == (["3 notes"], 3)


# --- what is stored -------------------------------------------------------------------------------


def damage_store(folder: pathlib.Path, file: str, sql: str) -> None:
    """Run *sql*, which changes one row with ``flipped``, on a store that no hub has open."""
    connection = apsw.Connection(str(folder / file))
    connection.create_scalar_function("flipped", flipped, 1)
    connection.execute(sql)
    assert connection.changes() == 1
    connection.close()


DAMAGED_FILES = {
    "delta": ("hub.db", "UPDATE version SET data = flipped(data) WHERE version = 3"),
    "snapshot": ("hub.objects.db", "UPDATE piece SET data = flipped(data) WHERE session_id = 'alice'"),
}


@pytest.mark.parametrize("what", DAMAGED_FILES)
async def test_a_damaged_store_serves_nothing_wrong_and_is_repaired_by_a_worker_that_holds_the_state(tmp_path, what):
    """A cold start from it fails by name; a warm worker's next turn is stored whole, and all is well again."""
    desk, second = Desk(), Desk()
    async with fleet(tmp_path, workers=0) as hub, linked(hub, desk.worker, slots=1) as holder:
        for _ in range(3):
            await send(hub, "alice")
        assert hub.hub is not None
        await hub.hub.stop()
        damage_store(tmp_path, *DAMAGED_FILES[what])
        await hub.start_hub()
        await until(lambda: _has_workers(hub, 1))
        blocking = asyncio.create_task(send(hub, "bob", "wait"))
        await until(lambda: _is_running(hub, 1))
        async with linked(hub, second.worker, slots=1):
            failed = await send(hub, "alice")
            carol = await send(hub, "carol")
            exported = await hub.http.get(f"{hub.url}/v1/sessions/alice/versions/3/snapshot")
            desk.may_go = True
            await blocking
            repaired = await send(hub, "alice")
        log = log_of(hub)
    async with fleet(tmp_path, workers=0) as hub, linked(hub, Desk().worker):
        cold = await send(hub, "alice")

    error = failed[-1]["complete"]["error"]
    assert (error["code"], error["retryable"]) == ("INTERNAL_ERROR", False)
    assert error["message"].startswith("What is stored of this session is damaged:")
    assert "a stored chain is damaged" in log
    assert version_of(carol) == 1, "the worker of the failed turn has its slot back"
    assert (exported.status_code, exported.json()["error"]["code"]) == (500, "INTERNAL_ERROR")
    assert (turn_of(repaired)["worker_id"], turn_of(repaired)["start"]) == (holder, "warm")
    assert turn_of(repaired)["received_bytes"] > 20_000, "a whole state"
    assert (texts_of(cold), version_of(cold), turn_of(cold)["start"]) == (["5 notes"], 5, "cold")


async def _has_workers(hub: Fleet, count: int) -> bool:
    return len(await hub.list_workers()) == count


@pytest.mark.parametrize("file", ["hub.db", "hub.objects.db"])
async def test_a_store_of_a_newer_format_is_refused_by_name_and_left_as_it_is(tmp_path, file: str):
    """A downgrade must not write what it does not understand."""
    async with fleet(tmp_path, workers=0):
        pass
    connection = apsw.Connection(str(tmp_path / file))
    connection.execute("UPDATE meta SET format = 99")
    connection.close()
    before = (tmp_path / file).read_bytes()

    hub = Process("hub", "--port", "0", "--store", str(tmp_path / "hub.db"))
    await hub.start()

    assert await hub.ended() == 1
    assert f"error: {tmp_path / file} has format 99; this Satchel reads format 2." in hub.output
    assert "Start the Satchel that wrote it, or a newer one." in hub.output
    assert (tmp_path / file).read_bytes() == before


# --- workers that do not fit ----------------------------------------------------------------------


async def test_a_worker_of_another_protocol_version_ends_and_says_what_to_install(
    hub: Fleet, monkeypatch: pytest.MonkeyPatch
):
    """It would dial for ever, and its operator would look at the network."""
    monkeypatch.setattr("satchel.worker.runtime.PROTOCOL_VERSION", 2)
    host = WorkerHost([Desk().worker], dial=websocket_dial(hub.url))

    with pytest.raises(LinkRefused, match="The worker speaks protocol 2, this hub 1") as refused:
        await asyncio.to_thread(host.start)
    await asyncio.to_thread(host.stop)

    assert "same release" in refused.value.hint
    assert await hub.list_workers() == []


HOTEL = """
import asyncio, os, pathlib
from satchel import Turn, Worker

worker = Worker("hotel", schema={schema!r}, migrations={migrations!r})


@worker.on_message
async def reply(turn: Turn) -> str:
    while turn.text == "wait" and not pathlib.Path(os.environ["PROBE_GATES"], "go").exists():
        await asyncio.sleep(0.01)
    turn.state.execute("INSERT INTO room (guest) VALUES (?)", (turn.text,))
    return f"{{turn.state.execute('SELECT count(*) FROM room').scalar()}} rooms"
"""
ROOM = "CREATE TABLE room (id INTEGER PRIMARY KEY, guest TEXT NOT NULL) STRICT;"
FLOOR = "ALTER TABLE room ADD COLUMN floor INTEGER NOT NULL DEFAULT 1;"


def hotel(folder: pathlib.Path, name: str, schema: str = ROOM, *migrations: str) -> str:
    path = folder / name
    path.write_text(HOTEL.format(schema=schema, migrations=migrations))
    return str(path)


async def test_a_changed_schema_without_its_migration_is_an_error_at_start(hub: Fleet, tmp_path):
    """Applied to it, a delta of the old tables would lose rows without a word."""
    await (await hub.start_worker(hotel(tmp_path, "old.py"))).stop()

    changed = Process("worker", hotel(tmp_path, "new.py", ROOM.replace(")", ", floor INTEGER)")), "--hub", hub.url)
    await changed.start()

    assert await changed.ended() == 1
    assert "error: Agent 'hotel' is known with other tables under schema number 1." in changed.output
    assert "\n  Leave the schema as it was, and put the change into" in changed.output


async def test_a_migration_commits_a_whole_state_and_an_older_worker_never_gets_that_session(hub: Fleet, tmp_path):
    """In a rolling deploy both builds are there: what the new one touched is not for the old one."""
    old = await hub.start_worker(hotel(tmp_path, "old.py"), "--slots", "1")
    (old_id,) = [member["worker_id"] for member in await hub.list_workers()]
    for guest in ("Ada", "Grace"):
        before = await hub.send("migrated", guest, agent="hotel")
    blocking = asyncio.create_task(hub.send("elsewhere", "wait", agent="hotel"))
    await until(lambda: _is_running(hub, 1))
    new = await hub.start_worker(hotel(tmp_path, "new.py", ROOM, FLOOR))
    migrated = await hub.send("migrated", "Edsger", agent="hotel")
    warm = await hub.send("migrated", "Niklaus", agent="hotel")
    (hub.gates / "go").touch()
    await blocking
    await new.stop()
    await until(lambda: _has_workers(hub, 1))
    waiting = await hub.post("migrated", "Tony", agent="hotel", message_id="m5", headers={"Prefer": "respond-async"})
    idle = await hub.send("another", "Barbara", agent="hotel")
    still = await hub.get("/sessions/migrated/messages/m5")
    await old.stop()
    await hub.start_worker(hotel(tmp_path, "new.py", ROOM, FLOOR))
    last = await hub.events("migrated", "m5")

    assert turn_of(before)["worker_id"] == turn_of(idle)["worker_id"] == old_id
    assert turn_of(migrated)["worker_id"] != old_id
    assert turn_of(migrated)["received_bytes"] > turn_of(before)["received_bytes"] * 2, "a whole state"
    assert turn_of(warm)["received_bytes"] < turn_of(migrated)["received_bytes"], "a delta again"
    assert (waiting.status_code, still["status"]) == (202, "queued"), "a free worker that does not serve its schema"
    assert (texts_of(last), version_of(last)) == (["5 rooms"], 5)
    assert (await hub.get("/sessions/migrated"))["schema_number"] == 2
