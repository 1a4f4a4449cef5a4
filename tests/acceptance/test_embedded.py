"""``satchel.Hub`` in an app of one's own, and the blocking client against a real hub."""

import asyncio
import logging
import pathlib
import re
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route

from satchel import AsyncClient, Client, Hub, Turn, TurnRefused, Worker
from satchel.client.client import AsyncSession
from satchel.embedded import AsgiTransport
from satchel.errors import HandlerError, InternalError, MessageNotFound, SessionNotFound, StoreInUse
from satchel.hub.server import base_url, listen
from satchel.hub.settings import HubSettings
from satchel.limits import LOOP_BLOCKED_S, PINGS_LOST_MAX
from tests.acceptance.damage import linked
from tests.acceptance.processes import PATIENCE_S, Fleet, Process, fleet, until

PING_INTERVAL_S = 0.05


def desk() -> Worker[Any]:
    """An agent that books, refuses, raises, streams, or blocks its loop."""
    worker: Worker[Any] = Worker(
        "desk", schema="CREATE TABLE booking (id INTEGER PRIMARY KEY, guest TEXT NOT NULL) STRICT;"
    )

    @worker.on_message
    async def reply(turn: Turn) -> str | None:
        turn.state.execute("INSERT INTO booking (guest) VALUES (?)", (turn.text,))
        match turn.text:
            case "nobody":
                raise TurnRefused("Nobody has no room.")
            case "trouble":
                raise KeyError("a secret")
            case "words":
                await turn.say(word + " " for word in ("one", "two", "three"))
                return None
            case "block":
                time.sleep(2 * LOOP_BLOCKED_S)
        return f"{turn.state.execute('SELECT count(*) FROM booking').scalar()} bookings"

    return worker


@pytest.fixture
async def hub(tmp_path: pathlib.Path) -> AsyncIterator[Hub]:
    async with Hub(store=str(tmp_path / "app.db"), workers=[desk()]) as running:
        yield running


# --- a hub without a socket -------------------------------------------------------------------


async def test_a_session_is_awaited_and_iterated_without_a_socket(hub: Hub):
    """The same client as over HTTP: an app can move to a hub of its own later and change one line."""
    alice = hub.session("alice", agent="desk")

    first = await alice.send("Ada")
    events = [event async for event in alice.send("words")]
    reply = alice.send("Grace")
    streamed = [event.type async for event in reply]
    again = await reply

    assert (first.text, first.version, first.changed_rows) == ("1 bookings", 1, {"booking": (1, 0, 0)})
    assert [event.type for event in events] == ["accepted", *["text_delta"] * 3, "message", "complete"]
    assert (streamed[-1], again.version, again.text) == ("complete", 3, "3 bookings")
    assert (await alice.info()).head == 3
    assert [row.version for row in (await alice.messages()).messages] == [1, 2, 3]
    assert (await alice.snapshot(2)).startswith(b"SQLite format 3")


async def test_errors_arrive_as_their_classes(hub: Hub):
    """One tree of errors, whichever way they came."""
    alice = hub.session("alice", agent="desk")

    with pytest.raises(TurnRefused, match="Nobody has no room"):
        await alice.send("nobody")
    with pytest.raises(HandlerError, match="KeyError") as raised:
        await alice.send("trouble")
    with pytest.raises(SessionNotFound):
        await hub.session("bob").info()
    with pytest.raises(MessageNotFound):
        await alice.message("m9")

    assert "secret" not in str(raised.value)
    assert (await alice.send("Ada")).version == 1


async def test_turns_of_many_sessions_run_at_once_and_each_in_order(hub: Hub):
    async def talk(session: AsyncSession) -> list[str]:
        return [(await session.send(f"guest {number}")).text for number in range(5)]

    said = await asyncio.gather(*(talk(hub.session(f"s{number}", agent="desk")) for number in range(20)))

    assert said == [[f"{number} bookings" for number in range(1, 6)]] * 20


async def test_state_outlives_the_app(tmp_path: pathlib.Path):
    """A second start of the app goes on; what it holds in memory is a cache. A path may be one of ``pathlib``."""
    store = tmp_path / "app.db"
    async with Hub(store=store, workers=[desk()]) as hub:
        await hub.session("alice", agent="desk").send("Ada", message_id="m1")
    async with Hub(store=f"sqlite:///{store}", workers=[desk()]) as hub:
        repeat = await hub.session("alice").send("Ada", message_id="m1")
        cold = await hub.session("alice").send("Grace")

    assert (repeat.text, repeat.version) == ("1 bookings", 1)
    assert (cold.text, cold.events[-1].complete.turn.start) == ("2 bookings", "cold")


async def test_a_second_hub_on_the_store_refuses_and_the_first_goes_on(hub: Hub, tmp_path: pathlib.Path):
    """Two processes of a web server would each start one: the error is the deployment's first sign."""
    second = Hub(store=str(tmp_path / "app.db"), workers=[desk()])

    with pytest.raises(StoreInUse, match="One store file has one hub"):
        await second.__aenter__()

    assert (await hub.session("alice", agent="desk").send("Ada")).version == 1


async def test_a_lifespan_that_fails_fails_the_start_and_frees_the_store(tmp_path: pathlib.Path):
    def lifespan():
        raise OSError("no database there")

    broken: Worker[Any] = Worker("desk", lifespan=lifespan)
    broken.on_message(len)

    with pytest.raises(OSError, match="no database there"):
        await Hub(store=str(tmp_path / "app.db"), workers=[broken]).__aenter__()

    async with Hub(store=str(tmp_path / "app.db"), workers=[desk()]) as hub:
        assert (await hub.session("alice", agent="desk").send("Ada")).version == 1


async def test_a_handler_that_blocks_its_loop_is_not_declared_dead_and_is_named(tmp_path, caplog):
    """Three pings go by unseen by the handler; the link's own thread answers them, and says who blocks."""
    settings = HubSettings(ping_interval_s=PING_INTERVAL_S)
    assert 2 * LOOP_BLOCKED_S > 10 * PINGS_LOST_MAX * PING_INTERVAL_S

    async with Hub(store=str(tmp_path / "app.db"), workers=[desk()], settings=settings) as hub:
        answer = await hub.session("alice", agent="desk").send("block")
        after = await hub.session("alice").send("Ada")

    assert (answer.text, answer.attempts) == ("1 bookings", 1)
    assert after.events[-1].complete.turn.start == "warm"
    (record,) = [record for record in caplog.records if record.getMessage() == "a handler blocks its event loop"]
    assert (record.levelno, record.name) == (logging.ERROR, "satchel.worker")
    assert vars(record)["handler"] == "desk.desk.<locals>.reply in session alice"
    assert "test_embedded.py" in vars(record)["at"]


async def test_plain_functions_run_beside_each_other_and_beside_the_loop(tmp_path: pathlib.Path):
    """A ``def`` handler may block: it has a thread, and other sessions do not wait for it."""
    meeting = threading.Barrier(3)
    worker: Worker[Any] = Worker("plain")

    @worker.on_message
    def reply(turn: Turn) -> str:
        meeting.wait(PATIENCE_S)  # nobody passes unless three are here at once
        turn.state["visits"] = turn.state.get("visits", 0) + 1
        return f"{turn.session_id} {turn.state['visits']}"

    async with Hub(store=str(tmp_path / "app.db"), workers=[worker]) as hub:
        sessions = [hub.session(f"s{number}", agent="plain") for number in range(3)]
        first = await asyncio.gather(*(session.send("hello") for session in sessions))
        second = await asyncio.gather(*(session.send("hello") for session in sessions))

    assert [answer.text for answer in first + second] == ["s0 1", "s1 1", "s2 1", "s0 2", "s1 2", "s2 2"]


# --- in a Starlette app ---------------------------------------------------------------------------


class Serving:
    """An app on a socket."""

    def __init__(self, app: Any) -> None:
        self._listening = listen("127.0.0.1", 0)
        self.url = base_url(self._listening)
        config = uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)

    async def __aenter__(self) -> str:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listening]))
        async with asyncio.timeout(PATIENCE_S):
            while not self._server.started:
                await asyncio.sleep(0.01)
        return self.url

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._task


def app_of(hub: Hub, **lifespan: Any) -> Starlette:
    """The app of the how-to: a route that streams to a web page, and the API below a mount."""

    async def chat(request: Request) -> StreamingResponse:
        reply = hub.session(request.path_params["user"], agent="desk").send((await request.body()).decode())
        return StreamingResponse(reply.sse(), media_type="text/event-stream")

    routes = [Route("/chat/{user}", chat, methods=["POST"]), Mount("/satchel", app=hub)]
    return Starlette(routes=routes, **lifespan)


async def test_an_app_streams_a_reply_as_server_sent_events(tmp_path: pathlib.Path):
    """``reply.sse()`` is the body: frames as they come, the cursor as their ID, an error as the last."""
    hub = Hub(store=str(tmp_path / "app.db"), workers=[desk()])
    async with Serving(app_of(hub, lifespan=hub.lifespan)) as url, httpx.AsyncClient(timeout=PATIENCE_S) as http:
        words = await http.post(f"{url}/chat/alice", content="words")
        refused = await http.post(f"{url}/chat/alice", content="nobody")
        mounted = await http.get(f"{url}/satchel/v1/sessions/alice")

    frames = [dict(line.split(": ", 1) for line in frame.splitlines()) for frame in words.text.strip().split("\n\n")]
    assert words.headers["content-type"].startswith("text/event-stream")
    assert [frame["event"] for frame in frames] == ["accepted", *["text_delta"] * 3, "message", "complete"]
    assert [int(frame["id"]) for frame in frames] == list(range(2**20, 2**20 + 6))
    assert re.findall(r"^event: (\w+)$", refused.text, re.MULTILINE) == ["accepted", "complete"]
    assert '"code":"TURN_REFUSED"' in refused.text
    assert mounted.json()["head"] == 1


async def test_a_client_elsewhere_talks_to_the_mounted_hub(tmp_path: pathlib.Path):
    """The mount's path is the hub's base URL; who may call is the app's to say, so any Host is served."""
    hub = Hub(store=str(tmp_path / "app.db"), workers=[desk()])
    async with Serving(app_of(hub, lifespan=hub.lifespan)) as url:
        async with AsyncClient(f"{url}/satchel") as client:
            answer = await client.session("alice", agent="desk").send("Ada")
        async with httpx.AsyncClient() as http:
            behind_proxy = await http.get(f"{url}/satchel/v1/sessions", headers={"Host": "desk.example.com"})

    assert answer.text == "1 bookings"
    assert behind_proxy.status_code == 200


async def test_a_mounted_hub_takes_workers_only_with_a_key(tmp_path: pathlib.Path):
    """A mount is as public as its app: without a key of its own, the link is closed."""
    probe = str(pathlib.Path(__file__).parent / "apps" / "probe.py")
    for key, expected in ((None, 1), ("the-key", 0)):
        hub = Hub(store=str(tmp_path / "app.db"), worker_key=key)
        async with Serving(app_of(hub, lifespan=hub.lifespan)) as url:
            process = Process("worker", probe, "--hub", f"{url}/satchel", env={"SATCHEL_WORKER_KEY": "the-key"})
            await process.start()
            if key is None:
                assert await process.ended() == expected
                assert "serves no link without a worker key" in process.output
            else:
                await process.saw("registered")
                answer = await hub.session("alice", agent="probe").send("add one")
                assert await process.stop() == expected

    assert answer.text == "1 notes"


async def test_a_hub_that_was_not_started_says_which_line_is_missing(tmp_path: pathlib.Path):
    """Starlette does not run a mounted app's lifespan, and nothing else would tell."""
    hub = Hub(store=str(tmp_path / "app.db"), workers=[desk()])
    async with Serving(app_of(hub)) as url, httpx.AsyncClient() as http:
        answers = [await http.get(f"{url}/satchel/{path}") for path in ("v1/sessions", "readyz")]
        streamed = await http.post(f"{url}/chat/alice", content="Ada")

    assert [answer.status_code for answer in answers] == [500, 500]
    for answer in answers:
        assert answer.json()["error"]["message"] == "This hub was not started."
        assert "lifespan=hub.lifespan" in answer.json()["error"]["hint"]
    assert "lifespan=hub.lifespan" in streamed.text
    with pytest.raises(InternalError, match=r"lifespan=hub\.lifespan"):
        await hub.session("alice", agent="desk").send("Ada")


async def test_a_hub_that_is_used_from_another_loop_says_so(hub: Hub):
    """A plain route that calls ``asyncio.run`` seems to work with other clients, and hangs or worse with a hub."""

    def route() -> None:
        asyncio.run(_sent(hub.session("alice", agent="desk")))

    with pytest.raises(InternalError, match=r"started in another event loop.*asyncio\.run"):
        await asyncio.to_thread(route)

    assert (await hub.session("alice", agent="desk").send("Ada")).version == 1


async def _sent(session: AsyncSession) -> None:
    await session.send("Ada")


async def test_what_fails_unforeseen_in_a_request_without_a_socket_is_logged(caplog: pytest.LogCaptureFixture):
    """A web server would write the traceback; without one it would be lost, or come when the garbage is collected."""

    async def fail(request: Request) -> None:
        raise ZeroDivisionError(request.url.path)

    transport = AsgiTransport(Starlette(routes=[Route("/there", fail)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        answer = await http.get("/there")

    (record,) = [record for record in caplog.records if record.name == "satchel.hub"]
    assert (answer.status_code, record.getMessage()) == (500, "a request to the embedded hub failed")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


async def test_a_hub_is_an_app_of_its_own(tmp_path: pathlib.Path):
    """Outermost, it runs its own lifespan: ``uvicorn app:hub`` is enough."""
    hub = Hub(store=str(tmp_path / "app.db"), workers=[desk()])
    async with Serving(hub) as url, AsyncClient(url) as client:
        answer = await client.session("alice", agent="desk").send("Ada")

    assert answer.text == "1 bookings"


async def test_a_turn_outlives_the_request_that_began_it(tmp_path: pathlib.Path):
    """A browser that is closed loses the page, not the booking."""
    may_go = threading.Event()
    worker: Worker[Any] = Worker("slow")

    @worker.on_message
    def reply(turn: Turn) -> str:
        may_go.wait(PATIENCE_S)
        return f"{turn.text} is done"

    async with Hub(store=str(tmp_path / "app.db"), workers=[worker]) as hub:
        left = hub.session("alice", agent="slow").send("x", message_id="m1")
        async for event in left:
            assert event.type == "accepted"
            break
        may_go.set()
        answer = await hub.session("alice").send("x", message_id="m1")

    assert (answer.text, answer.attempts) == ("x is done", 1)


# --- the blocking client against a real hub -------------------------------------------------------


@pytest.fixture
async def running(tmp_path: pathlib.Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, workers=0) as hub, linked(hub, desk()):
        yield hub


async def test_a_script_without_asyncio_does_all_of_it(running: Fleet):
    """The blocking client, in a thread as a script has it."""

    def script() -> list[Any]:
        with Client(running.url) as client:
            alice = client.session("alice", agent="desk")
            answer = alice.send("Ada")
            kinds = [event.type for event in alice.send("words")]
            with pytest.raises(TurnRefused, match="Nobody has no room"):
                _ = alice.send("nobody").text
            (row,) = client.sessions().sessions
            (worker,) = client.workers()
            return [
                (answer.text, answer.version, answer.attempts, answer.changed_rows),
                kinds,
                [message.status for message in alice.messages().messages],
                (row.session_id, row.head, row.worker_id == worker.worker_id),
                alice.snapshot(2)[:15],
            ]

    assert await asyncio.to_thread(script) == [
        ("1 bookings", 1, 1, {"booking": (1, 0, 0)}),
        ["accepted", "text_delta", "text_delta", "text_delta", "message", "complete"],
        ["committed", "committed", "failed"],
        ("alice", 2, True),
        b"SQLite format 3",
    ]


async def test_a_blocking_client_waits_out_a_hub_that_restarts(running: Fleet):
    """The turn goes on at the worker, and the answer comes by the same call."""
    assert running.hub is not None

    def script() -> tuple[str, int]:
        with Client(running.url) as client:
            answer = client.session("alice", agent="desk").send("block")
            return answer.text, answer.version

    async def has_begun() -> bool:
        return bool((await running.get("/sessions"))["sessions"])

    talking = asyncio.create_task(asyncio.to_thread(script))
    await until(has_begun)
    await running.hub.kill()
    await running.start_hub()

    assert await talking == ("1 bookings", 1)
