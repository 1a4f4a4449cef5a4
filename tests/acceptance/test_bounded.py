"""What is kept stays in bounds, in a worker's memory and in the store, and what went says so."""

import asyncio
import json
import pathlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import apsw
import httpx
import pytest
import pytest_asyncio

from satchel import Hub, Turn, Worker
from satchel.client.client import AsyncSession
from satchel.embedded import AsgiTransport
from satchel.errors import AnswerExpired, StateTooLarge, VersionExpired
from satchel.limits import COMPACT_DELTAS_MIN, MIB, RETAIN_ANSWERS, RETAIN_VERSIONS
from satchel.model import DEFAULT_TENANT, SessionId, SessionKey
from satchel.store.sweep import sweep
from tests.acceptance.damage import linked
from tests.acceptance.processes import Fleet, fleet, turn_of, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

BALLAST_BYTES = 20_000
LONG_TURNS = RETAIN_ANSWERS + 150
SHORT_TURNS = 150


def desk(*, ballast: int = 0) -> Worker[Any]:
    """An agent whose state has a fixed size, whatever the number of its turns."""
    worker: Worker[Any] = Worker(
        "desk",
        schema="CREATE TABLE seat (number INTEGER PRIMARY KEY, guest TEXT NOT NULL) STRICT;"
        "CREATE TABLE ballast (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;",
        history=False,
    )
    may_go = asyncio.Event()

    @worker.on_message
    async def reply(turn: Turn) -> str:
        verb, _, rest = turn.text.partition(" ")
        match verb:
            case "dump":
                return json.dumps([list(row) for row in turn.state.execute("SELECT number, guest FROM seat")])
            case "grow":
                turn.state.execute("INSERT INTO ballast (bytes) VALUES (randomblob(?))", (int(rest),))
            case "wait":
                await may_go.wait()
            case "go":
                may_go.set()
        if ballast and turn.version == 1:
            turn.state.execute("INSERT INTO ballast (bytes) VALUES (randomblob(?))", (ballast,))
        turn.state.execute(
            "INSERT OR REPLACE INTO seat VALUES (?, ?)", (turn.version % 20, f"{turn.text} {turn.version}")
        )
        turn.state["visits"] = turn.state.get("visits", 0) + 1
        return f"seat {turn.version % 20}"

    return worker


# --- a worker's memory ------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path_factory.mktemp("bounded"), workers=0) as running:
        yield running


async def start_of(hub: Fleet, session: str, text: str = "x") -> str:
    """Run a turn and return how it got its state."""
    return str(turn_of(await hub.send(session, text, agent="desk"))["start"])


async def test_the_least_recently_used_idle_session_is_evicted_when_bytes_run_out(hub: Fleet):
    """Memory is the worker's bound, not the number of sessions; the hub hears of it and plans a cold start."""
    size = await _state_bytes(hub, "sized")
    async with linked(hub, desk(ballast=BALLAST_BYTES), warm_bytes_max=3 * size):
        for session in ("a", "b", "c"):
            await hub.send(session, "x", agent="desk")
        touched = await start_of(hub, "a")
        evicting = await start_of(hub, "d")
        await until(lambda: _holds(hub, 3))
        (full,) = await hub.list_workers()
        starts = [await start_of(hub, session) for session in ("a", "c", "d", "b")]
        await until(lambda: _holds(hub, 3))

    assert (touched, evicting) == ("warm", "new")
    assert full["warm_bytes"] == 3 * size
    assert starts == ["warm", "warm", "warm", "cold"], "b was the one that nobody had asked for longest"


async def _holds(hub: Fleet, sessions: int) -> bool:
    return [member["warm_sessions"] for member in await hub.list_workers()] == [sessions]


async def _state_bytes(hub: Fleet, session: str) -> int:
    async with linked(hub, desk(ballast=BALLAST_BYTES)):
        await hub.send(session, "x", agent="desk")
    return int((await hub.get(f"/sessions/{session}"))["state_bytes"])


async def test_a_session_whose_turn_runs_is_not_evicted(hub: Fleet):
    """What a turn stands on stays, whatever it weighs; it goes when it is idle and the oldest."""
    size = await _state_bytes(hub, "weighed")
    async with linked(hub, desk(ballast=BALLAST_BYTES), warm_bytes_max=size):
        await hub.send("busy", "x", agent="desk")
        waiting = asyncio.create_task(start_of(hub, "busy", "wait"))
        await until(lambda: _runs(hub, 1))
        others = [await start_of(hub, f"other{number}") for number in range(3)]
        await start_of(hub, "last", "go")
        start = await waiting

    assert start == "warm"
    assert others == ["new"] * 3


async def _runs(hub: Fleet, turns: int) -> bool:
    return [member["running"] for member in await hub.list_workers()] == [turns]


async def test_the_hub_can_have_a_copy_dropped(tmp_path):
    """An operator's or a test's way to a cold start; the session loses nothing."""
    async with Hub(store=str(tmp_path / "app.db"), workers=[desk()]) as app:
        alice, bob = app.session("alice", agent="desk"), app.session("bob", agent="desk")
        for session in (alice, bob, alice, bob):
            await session.send("x")
        app._server.coordinator().release(SessionKey(DEFAULT_TENANT, SessionId("alice")))
        info = await alice.info()
        released, kept = await alice.send("x"), await bob.send("x")

    assert info.worker_id is None
    assert released.events[-1].complete is not None
    assert kept.events[-1].complete is not None
    assert (released.events[-1].complete.turn.start, released.version) == ("cold", 3)
    assert kept.events[-1].complete.turn.start == "warm"


# --- the store ----------------------------------------------------------------------------------


class Kept:
    """What a store's files hold, read beside the hub."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._log = apsw.Connection(str(folder / "app.db"), flags=apsw.SQLITE_OPEN_READONLY)
        self._objects = apsw.Connection(str(folder / "app.objects.db"), flags=apsw.SQLITE_OPEN_READONLY)

    def count(self, table: str, session: str, where: str = "1") -> int:
        file = self._objects if table == "object" else self._log
        return int(file.execute(f"SELECT count(*) FROM {table} WHERE session_id = ? AND {where}", (session,)).get)

    def state_bytes(self, session: str) -> int:
        """What deltas and objects weigh: all that holds states."""
        deltas = self._log.execute("SELECT sum(size) FROM version WHERE session_id = ? AND data NOT NULL", (session,))
        objects = self._objects.execute("SELECT sum(size) FROM object WHERE session_id = ?", (session,))
        return int(deltas.get) + int(objects.get)

    def close(self) -> None:
        self._log.close()
        self._objects.close()


class Long:
    """A hub after a session of more turns than are kept, and what was noted on the way."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.store = str(folder / "app.db")
        self.hub = Hub(store=self.store, workers=[desk(ballast=BALLAST_BYTES)])
        self.midway_bytes = 0
        self.warm_rows = ""

    @property
    def session(self) -> AsyncSession:
        return self.hub.session("long", agent="desk")

    async def talk(self) -> None:
        """Run all turns: the long session's one after the other, short ones beside it."""
        beside = [asyncio.create_task(self._short(f"short{number}")) for number in range(3)]
        for number in range(1, LONG_TURNS + 1):
            await self.session.send("x", message_id=f"m{number}")
            if number == LONG_TURNS // 2:
                self.midway_bytes = await self.swept_bytes()
        await asyncio.gather(*beside)
        self.warm_rows = (await self.session.send("dump")).text

    async def _short(self, name: str) -> None:
        session = self.hub.session(name, agent="desk")
        for _ in range(SHORT_TURNS):
            await session.send("x")

    async def swept_bytes(self) -> int:
        """Return what the long session weighs once nothing more is due: as if an hour had passed."""
        coordinator = self.hub._server.coordinator()
        await sweep(coordinator.store, now_ms=coordinator.clock.now_ms() + 2 * 3600 * 1000)
        kept = Kept(self.folder)
        try:
            return kept.state_bytes("long")
        finally:
            kept.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def long(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Long]:
    """A hub with a session of over a thousand turns: made once, only read by the tests."""
    long = Long(tmp_path_factory.mktemp("long"))
    async with long.hub:
        await long.talk()
        yield long


async def test_rows_and_bytes_do_not_grow_with_the_number_of_turns(long: Long):
    """A session that is talked to for years costs what it holds, not what was ever said."""
    late_bytes = await long.swept_bytes()
    kept = Kept(long.folder)
    counts = {table: kept.count(table, "long") for table in ("version", "snapshot", "events", "object", "turn")}
    kept.close()

    slack = 4 * COMPACT_DELTAS_MIN  # whole chains go, once in 32 versions
    assert RETAIN_VERSIONS <= counts["version"] <= RETAIN_VERSIONS + slack
    assert counts["snapshot"] <= counts["version"] / COMPACT_DELTAS_MIN + 2
    assert counts["object"] == counts["snapshot"], "what no row names was swept"
    assert RETAIN_ANSWERS <= counts["events"] <= RETAIN_ANSWERS + slack
    assert counts["turn"] == LONG_TURNS + 1, "every message is known as long as its session"
    assert late_bytes < 2 * long.midway_bytes, "twice the turns, and no more than the slack of one compaction"


async def test_the_last_hundred_versions_can_be_read_and_older_ones_say_that_they_are_gone(long: Long):
    head = (await long.session.info()).head

    for version in (head, head - 1, head - RETAIN_VERSIONS + 1):
        assert (await long.session.snapshot(version)).startswith(b"SQLite format 3")
    with pytest.raises(VersionExpired, match="Version 1 is no longer kept") as expired:
        await long.session.snapshot(1)

    assert expired.value.details == {"version": 1, "head": head}
    async with httpx.AsyncClient(transport=AsgiTransport(long.hub), base_url="http://127.0.0.1") as http:
        response = await http.get("/v1/sessions/long/versions/1/snapshot")
    assert (response.status_code, response.json()["error"]["code"]) == (410, "VERSION_EXPIRED")


async def test_what_is_rebuilt_from_the_store_has_the_rows_of_the_warm_copy(long: Long, tmp_path):
    """A thousand deltas and every compaction lie between: not one row may differ."""
    file = tmp_path / "head.sqlite"
    file.write_bytes(await long.session.snapshot((await long.session.info()).head))
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    rows = [list(row) for row in connection.execute("SELECT number, guest FROM seat")]
    visits = connection.execute("SELECT value FROM _satchel_values WHERE key = 'visits'").get
    connection.close()

    assert rows == json.loads(long.warm_rows)
    assert len(rows) == 20
    assert json.loads(visits) == LONG_TURNS, "a turn that dumps does not count"


async def test_an_answer_that_is_gone_says_so_and_its_message_never_runs_again(long: Long):
    """A caller that repeats a message after years gets its version, never a second booking."""
    head = (await long.session.info()).head

    with pytest.raises(AnswerExpired) as expired:
        await long.session.send("x", message_id="m1")
    row = await long.session.message("m1")
    async with httpx.AsyncClient(transport=AsgiTransport(long.hub), base_url="http://127.0.0.1") as http:
        path = "/v1/sessions/long/messages"
        waited = await http.post(path, json={"text": "x", "message_id": "m1"}, headers={"Accept": "application/json"})
        replay = await http.get(f"{path}/m1")
        oldest = (await http.get(path, params={"before": "4"})).json()["messages"]
        newest = (await http.get(path, params={"limit": "3"})).json()["messages"]

    assert expired.value.details["version"] == 1
    assert (row.status, row.version, row.answer) == ("committed", 1, None)
    for response in (waited, replay):
        assert (response.status_code, response.json()["error"]["code"]) == (410, "ANSWER_EXPIRED")
        assert response.json()["error"]["details"] == {"version": 1}
    assert [(each["message_id"], each["answer"]) for each in oldest] == [("m1", None), ("m2", None), ("m3", None)]
    assert [each["answer"]["text"] for each in newest[:2]] == [f"seat {n % 20}" for n in (LONG_TURNS - 1, LONG_TURNS)]
    assert (await long.session.info()).head == head
    with pytest.raises(Exception, match="names another request"):
        await long.session.send("y", message_id="m1")


async def test_a_cold_start_from_the_disk_goes_on_where_the_warm_copy_was(long: Long):
    """The last test of the fixture: its hub is stopped, and another starts on what it left."""
    await long.hub.__aexit__(None, None, None)
    async with Hub(store=long.store, workers=[desk(ballast=BALLAST_BYTES)]) as again:
        answer = await again.session("long").send("dump")
        warm = await again.session("long").send("dump")

    assert answer.text == warm.text == long.warm_rows
    assert answer.events[-1].complete is not None
    assert answer.events[-1].complete.turn.start == "cold"
    assert answer.version == LONG_TURNS + 2


# --- the size of a state --------------------------------------------------------------------------


STATE_BYTES = 12 * MIB
"""What the bound is here, so that a state at it is quickly made."""


@pytest.fixture
def _small_states(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("satchel.") and hasattr(module, "STATE_BYTES_MAX"):
            monkeypatch.setattr(module, "STATE_BYTES_MAX", STATE_BYTES)


@pytest.mark.usefixtures("_small_states")
async def test_a_state_at_its_bound_is_carried_and_one_past_it_is_refused(tmp_path):
    """The largest state is carried, cold and warm; a turn past it changes nothing, and the session lives."""
    async with Hub(store=str(tmp_path / "app.db"), workers=[desk()]) as app:
        alice = app.session("alice", agent="desk")
        await alice.send("x")
        await alice.send(f"grow {STATE_BYTES - MIB // 4}")
        with pytest.raises(StateTooLarge) as refused:
            await alice.send(f"grow {MIB // 2}")
        small = await alice.send("grow 1000")
        info = await alice.info()
        app._server.coordinator().release(SessionKey(DEFAULT_TENANT, SessionId("alice")))
        cold = await alice.send("x")
        rows = (await alice.send("dump")).text

    assert refused.value.status == 413
    assert STATE_BYTES - MIB // 4 < info.state_bytes <= STATE_BYTES
    assert cold.events[-1].complete is not None
    assert small.version == 3, "what did not fit left nothing behind"
    assert (cold.version, cold.events[-1].complete.turn.start) == (4, "cold")
    assert cold.events[-1].complete.turn.sent_bytes > 11 * MIB
    assert [guest for _number, guest in json.loads(rows)] == [
        "x 1", f"grow {STATE_BYTES - MIB // 4} 2", "grow 1000 3", "x 4",
    ]  # fmt: skip
