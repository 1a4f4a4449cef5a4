"""Google ADK's sessions in a session: what a turn costs, what the service promises and refuses, what a crash leaves.

These run in an environment of their own, ``just google-adk``: Google ADK holds websockets below 15.1.
"""

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.adk.agents import LlmAgent, RunConfig
from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events import Event, EventActions
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import Runner
from google.adk.sessions import BaseSessionService, InMemorySessionService
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.genai import types

import satchel.testing
from examples import google_adk_agent
from satchel import Turn, Worker
from satchel.adapters.google_adk import SatchelSessionService
from satchel.client.model import Answer
from satchel.errors import HandlerError, StateMisused, TurnMisused
from satchel.worker.load import load_app
from tests.acceptance.processes import Fleet, texts_of, turn_of
from tests.adapters.apps import adk_clerk
from tests.docs.pages import files

APP = str(Path(__file__).parent / "apps" / "adk_clerk.py")
USER = "test"
"""The session under test, which is the ADK user."""

# --- what a turn costs --------------------------------------------------------------------------


class Ordinary(BaseLlm):
    model: str = "ordinary"

    async def generate_content_async(
        self,
        llm_request: LlmRequest,
        stream: bool = False,  # noqa: ARG002, FBT001, FBT002  # the framework's signature
    ) -> AsyncIterator[LlmResponse]:
        count = len(llm_request.contents)
        text = f"I was shown {count:04} contents; an answer of an ordinary length."
        yield LlmResponse(content=types.ModelContent(text))


async def test_a_turn_writes_its_own_events_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The point of an adapter: the thousandth turn costs what the tenth did.

    Beside it the framework's SqliteSessionService: by how much its file grows in such a
    turn, which leaves out the pages it writes again. Every fifth turn is a whole run,
    the others append what a run does, since a run takes the framework 20 ms. A run is
    shown the last events only, and nothing else records the conversation.
    """
    sessions = SatchelSessionService()
    ours = ordinary(sessions)
    worker = Worker("growth", history=False)

    @worker.on_message
    async def reply(turn: Turn) -> None:
        if turn.version % 5 == 1:
            await one_turn(ours, turn.text)
        else:
            await the_same_events(sessions, turn)

    async with satchel.testing.session(worker, session_id=USER) as session:
        answers = [await session.send(f"message {count:04}") for count in range(1, 1001)]
    path = tmp_path / "theirs.db"
    theirs = ordinary(SqliteSessionService(str(path)))
    for count in range(1, 51):
        await one_turn(theirs, f"message {count:04}")

    sizes = [received_bytes(answer) for answer in answers]
    shown = {turn: sizes[turn - 1] for turn in (10, 100, 1000)}
    with capsys.disabled():
        print("\nbytes of a turn's delta:", shown, "growth of their file a turn:", path.stat().st_size // 50)  # noqa: T201  # figures
    assert all(
        answer.changed_rows == {"google_adk_event": (2, 0, 0), "google_adk_session": (0, 1, 0)}
        for answer in answers[1:]
    )
    assert sum(sizes[-100:]) <= 1.05 * sum(sizes[50:150])


def ordinary(sessions: BaseSessionService) -> Runner:
    agent = LlmAgent(name="ordinary", model=Ordinary())
    return Runner(app_name="growth", agent=agent, session_service=sessions, auto_create_session=True)


async def one_turn(runner: Runner, text: str) -> None:
    recent = RunConfig(get_session_config=GetSessionConfig(num_recent_events=6))
    async for _ in runner.run_async(
        user_id=USER, session_id="main", new_message=types.UserContent(text), run_config=recent
    ):
        pass


async def the_same_events(sessions: SatchelSessionService, turn: Turn) -> None:
    recent = GetSessionConfig(num_recent_events=6)
    session = await sessions.get_session(app_name="growth", user_id=USER, session_id="main", config=recent)
    assert session is not None
    for author, content in (
        ("user", types.UserContent(turn.text)),
        ("ordinary", types.ModelContent("I was shown 0007 contents; an answer of an ordinary length.")),
    ):
        said = Event(id=Event.new_id(), author=author, invocation_id=session.events[-1].invocation_id, content=content)
        await sessions.append_event(session, said)


def received_bytes(answer: Answer) -> int:
    complete = answer.events[-1].complete
    assert complete is not None
    assert complete.turn is not None
    return complete.turn.received_bytes


# --- the service's contract ---------------------------------------------------------------------

ServiceTest = Callable[[BaseSessionService], Awaitable[None]]


async def in_a_turn(scenario: Callable[[Turn], Awaitable[None]]) -> Answer:
    worker = Worker("scenario")

    @worker.on_message
    async def reply(turn: Turn) -> None:
        await scenario(turn)

    async with satchel.testing.session(worker, session_id=USER) as session:
        return await session.send("go")


@pytest.fixture(params=["memory", "sqlite", "ours"])
def run_on_service(request: pytest.FixtureRequest) -> Callable[[ServiceTest], Awaitable[object]]:
    """Each expectation is held against the framework's own services, too: else it would be only our reading."""

    async def run(test: ServiceTest) -> object:
        if request.param == "ours":
            return await in_a_turn(lambda _: test(SatchelSessionService()))
        if request.param == "memory":
            return await test(InMemorySessionService())
        service = SqliteSessionService(":memory:")
        try:
            return await test(service)
        finally:
            await service.close()

    return run


def event(text: str, at: float, **state: Any) -> Event:
    changes = {key.replace("__", ":"): value for key, value in state.items()}
    return Event(
        id=f"id-{text}", author="clerk", invocation_id="i", timestamp=at, content=types.ModelContent(text),
        actions=EventActions(state_delta=changes),
    )  # fmt: skip


def texts(events: Sequence[Event]) -> list[str]:
    return [str(each.content.parts[0].text) for each in events]  # type: ignore[union-attr,index]  # all are texts


NAMES = {"app_name": "clerk", "user_id": USER}
FAR = 4e9
"""Seconds after any creation: the framework compares an event's time with the session's."""


async def test_a_session_is_there_with_its_state(run_on_service):
    async def test(service: BaseSessionService) -> None:
        state = {"a": 1, "user:b": [1, {"c": None}], "temp:d": 1}
        created = await service.create_session(**NAMES, session_id=" s ", state=state)

        found = await service.get_session(**NAMES, session_id="s")

        assert found is not None
        assert (found.id, found.events) == ("s", [])
        assert found.state == created.state == {"a": 1, "user:b": [1, {"c": None}]}
        assert await service.get_session(**NAMES, session_id="other") is None
        assert await service.get_user_state(**NAMES) == {"b": [1, {"c": None}]}
        with pytest.raises(AlreadyExistsError):
            await service.create_session(**NAMES, session_id="s")
        assert (await service.create_session(**NAMES)).id

    await run_on_service(test)


async def test_state_has_its_scopes(run_on_service):
    """A user's state is in every session of the user, an invocation's in none."""

    async def test(service: BaseSessionService) -> None:
        session = await service.create_session(**NAMES, session_id="s", state={"a": 1, "b": {"x": 1}})
        other = await service.create_session(**NAMES, session_id="t")
        await service.append_event(session, event("one", FAR, a=2, b={"y": None}, user__c=3, temp__d=4))
        await service.append_event(session, event("two", FAR + 1, a=None))

        assert session.state["temp:d"] == 4
        found = await service.get_session(**NAMES, session_id="s")
        assert found.state == {"a": None, "b": {"y": None}, "user:c": 3}
        assert found.events[0].actions.state_delta == {"a": 2, "b": {"y": None}, "user:c": 3}
        assert (await service.get_session(**NAMES, session_id=other.id)).state == {"user:c": 3}

    await run_on_service(test)


async def test_events_come_back_filtered_and_in_order(run_on_service):
    async def test(service: BaseSessionService) -> None:
        session = await service.create_session(**NAMES, session_id="s")
        for count, text in enumerate(("one", "two", "three", "four")):
            await service.append_event(session, event(text, FAR + count))
        await service.append_event(session, Event(author="clerk", partial=True, content=types.ModelContent("tok")))

        async def shown(**config: Any) -> list[str]:
            wanted = GetSessionConfig(**config) if config else None
            return texts((await service.get_session(**NAMES, session_id="s", config=wanted)).events)

        assert texts(session.events) == await shown() == ["one", "two", "three", "four"]
        assert await shown(num_recent_events=2) == ["three", "four"]
        assert await shown(num_recent_events=0) == []
        assert await shown(after_timestamp=FAR + 1) == ["two", "three", "four"]
        assert await shown(after_timestamp=FAR + 1, num_recent_events=1) == ["four"]

    await run_on_service(test)


async def test_an_event_is_read_back_as_it_was(run_on_service):
    """Every field, bytes and all: what is dropped is never missed until an agent misbehaves."""

    async def test(service: BaseSessionService) -> None:
        session = await service.create_session(**NAMES, session_id="s")
        full = Event(
            id="e", author="clerk", invocation_id="i", timestamp=FAR, branch="a.b", error_code="SAFETY",
            custom_metadata={"k": [1, "ü"]}, long_running_tool_ids={"c1"},
            content=types.Content(
                role="model",
                parts=[
                    types.Part(text="hm", thought=True, thought_signature=b"\xff\x00"),
                    types.Part.from_bytes(data=b"\xff\x00\xfe", mime_type="image/png"),
                    types.Part(function_call=types.FunctionCall(id="c1", name="pay", args={"room": "blue"})),
                ],
            ),
            actions=EventActions(state_delta={"a": 1.5}, transfer_to_agent="other", escalate=True),
        )  # fmt: skip
        await service.append_event(session, full.model_copy(deep=True))

        assert (await service.get_session(**NAMES, session_id="s")).events == [full]

    await run_on_service(test)


async def test_sessions_are_listed_by_last_use_and_deleted(run_on_service):
    async def test(service: BaseSessionService) -> None:
        for name in ("a", "b", "c"):
            await service.create_session(**NAMES, session_id=name, state={"name": name, "user:last": name})
        await service.create_session(app_name="other", user_id=USER, session_id="a")
        loaded = await service.get_session(**NAMES, session_id="a")
        await service.append_event(loaded, event("one", FAR))

        listed = (await service.list_sessions(**NAMES)).sessions
        assert [session.id for session in listed] == ["b", "c", "a"]
        assert listed[0].state == {"name": "b", "user:last": "c"}
        assert [session.events for session in listed] == [[], [], []]
        await service.delete_session(**NAMES, session_id="a")
        await service.delete_session(**NAMES, session_id="a")
        assert [session.id for session in (await service.list_sessions(**NAMES)).sessions] == ["b", "c"]
        with pytest.raises(SessionNotFoundError):
            await service.append_event(loaded, event("two", FAR + 1))
        again = await service.create_session(**NAMES, session_id="a")
        assert (again.state, again.events) == ({"user:last": "c"}, [])

    await run_on_service(test)


async def test_a_stale_session_is_refused():
    """As the framework's persistent services do: what was appended meanwhile is not overwritten unseen."""

    async def scenario(_: Turn) -> None:
        service = SatchelSessionService()
        await service.create_session(**NAMES, session_id="s")
        first, second = [await service.get_session(**NAMES, session_id="s") for _ in range(2)]
        await service.append_event(first, event("one", FAR, a=1))

        with pytest.raises(StaleSessionError):
            await service.append_event(second, event("two", FAR + 1, a=2))

        assert second.events == []
        await service.append_event(first, event("one", FAR, a=1))
        kept = await service.get_session(**NAMES, session_id="s")
        assert (texts(kept.events), kept.state) == (["one"], {"a": 1})

    await in_a_turn(scenario)


# --- what it refuses ----------------------------------------------------------------------------


async def test_what_users_share_is_refused():
    """A Satchel session that kept it would show every user another value, and call it shared."""

    async def scenario(_: Turn) -> None:
        service = SatchelSessionService()
        with pytest.raises(StateMisused, match="'app:a' is state of all users"):
            await service.create_session(**NAMES, session_id="s", state={"app:a": 1})
        session = await service.create_session(**NAMES, session_id="s")
        with pytest.raises(StateMisused, match="'app:a' is state of all users"):
            await service.append_event(session, event("one", FAR, b=1, app__a=1))
        with pytest.raises(StateMisused, match="is not JSON"):
            await service.append_event(session, event("one", FAR, b=object()))
        with pytest.raises(StateMisused, match="all users' ADK sessions"):
            await service.list_sessions(app_name="clerk")
        with pytest.raises(StateMisused, match="'bob' is not the Satchel session 'test'"):
            await service.get_session(app_name="clerk", user_id="bob", session_id="s")

        found = await service.get_session(**NAMES, session_id="s")
        assert (found.state, found.events) == ({}, [])

    await in_a_turn(scenario)


async def test_it_is_of_use_in_a_handler_only():
    with pytest.raises(TurnMisused):
        await SatchelSessionService().get_session(**NAMES, session_id="s")


# --- what is streamed ---------------------------------------------------------------------------


def kinds(answer: Answer) -> list[str]:
    return [each.type for each in answer.events]


async def streamed(events: Sequence[Event]) -> Answer:
    async def scenario(_: Turn) -> None:
        async def given() -> AsyncIterator[Event]:
            for each in events:
                yield each

        await SatchelSessionService().stream(given())

    return await in_a_turn(scenario)


def part_of(author: str, text: str, *, partial: bool, thought: bool = False) -> Event:
    part = types.Part(text=text, thought=thought)
    return Event(author=author, partial=partial, content=types.Content(role="model", parts=[part]))


async def test_text_that_was_said_in_pieces_is_not_said_again():
    """The framework sends the whole once more; two agents side by side are two texts."""
    answer = await streamed(
        [
            part_of("a", "hm", partial=True, thought=True),
            part_of("a", "The room", partial=True),
            part_of("a", " is blue.", partial=True),
            part_of("b", "Yes.", partial=True),
            part_of("a", "The room is blue.", partial=False),
            part_of("b", "Yes.", partial=False),
            part_of("a", "Good.", partial=False),
        ]
    )

    assert answer.text == "The room is blue.\nYes.\nGood."
    assert kinds(answer) == [
        "accepted", "text_delta", "text_delta", "message", "text_delta", "message", "message", "complete",
    ]  # fmt: skip


async def test_a_transfer_is_a_hand_off_and_a_late_output_has_its_tools_name():
    """A tool that was confirmed answers a call that another turn made."""
    late = types.Part(function_response=types.FunctionResponse(id="c0", name="pay", response={"result": "ok"}))
    answer = await streamed(
        [
            Event(author="desk", actions=EventActions(transfer_to_agent="billing")),
            Event(author="billing", content=types.Content(role="user", parts=[late])),
        ]
    )

    assert answer.events[1].agent_handoff is not None
    assert answer.events[1].agent_handoff.new_agent_id == "billing"
    output = answer.events[2].function_call_output
    assert output is not None
    assert (output.call_id, output.name, output.output) == ("c0", "pay", '{"result":"ok"}')


async def test_what_a_tool_raised_ends_its_call_by_class_alone():
    worker = Worker("clerk", schema=adk_clerk.SCHEMA)

    @worker.on_message
    async def reply(turn: Turn) -> None:
        with contextlib.suppress(ValueError):
            await adk_clerk.reply(turn)

    async with satchel.testing.session(worker) as session:
        answer = await session.send("price none")

    outputs = [each.function_call_output for each in answer.events if each.function_call_output]
    assert [(output.output, output.is_error) for output in outputs] == [("ValueError", True)]


async def test_state_that_users_share_fails_the_turn_by_name():
    async with satchel.testing.session(adk_clerk.worker) as session:
        with pytest.raises(HandlerError) as caught:
            await session.send("price shared")

        assert isinstance(caught.value.__cause__, StateMisused)
        assert session.version == 0


async def test_the_example_is_an_app_and_remembers(monkeypatch: pytest.MonkeyPatch):
    """What the page shows, with a scripted model."""
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert [worker.name for worker in load_app(google_adk_agent.__file__)] == ["google_adk_agent"]
    google_adk_agent.agent.model = adk_clerk.Script()

    async with satchel.testing.session(google_adk_agent.worker) as session:
        first = await session.send("book Ada")
        await session.restart()
        second = await session.send("book Bob")

        assert [first.text, second.text] == [
            "Let me see.\nIt gave Booked Ada. I see 3 contents.",
            "Let me see.\nIt gave Booked Bob. I see 7 contents.",
        ]
    assert len(Path(google_adk_agent.__file__).read_text().splitlines()) <= 25


def test_the_page_shows_the_example():
    """Who reads the page and who opens the file begin with the same program."""
    assert files("docs/howto/google-adk.md")["agent.py"] == Path(google_adk_agent.__file__).read_text()


# --- real processes -----------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """A hub and two workers for these tests; the one that kills a worker stands last."""
    running = Fleet(tmp_path_factory.mktemp("clerks"))
    try:
        await running.start_hub()
        await running.start_workers(2, APP)
        yield running
    finally:
        await running.stop()


async def rows(hub: Fleet, session: str, version: int, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of *sql* in a version as it is exported."""
    response = await hub.http.get(f"{hub.url}/v1/sessions/{session}/versions/{version}/snapshot")
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(response.content)
        return database.execute(sql).fetchall()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_run_is_streamed_and_continued(hub: Fleet):
    first = await hub.send("ada", "price blue", agent="clerk")
    second = await hub.send("ada", "price red", agent="clerk")

    assert [each["type"] for each in first] == [
        "accepted", "message", "function_call", "function_call_output",
        "text_delta", "text_delta", "message", "complete",
    ]  # fmt: skip
    assert texts_of(first) == ["Let me see.", "It gave 80. I see 3 contents."]
    assert texts_of(second) == ["Let me see.", "It gave 80. I see 7 contents."]
    assert turn_of(second)["changed_rows"]["google_adk_event"] == [4, 0, 0]
    state = await rows(hub, "ada", 2, "SELECT session_id, key, value FROM google_adk_state")
    assert state == [("", "room", '"red"'), ("main", "asked", "2")]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_failed_run_leaves_nothing(hub: Fleet):
    await hub.send("bob", "price blue", agent="clerk")
    failed = await hub.post("bob", "price none", agent="clerk")
    after = await hub.send("bob", "price red", agent="clerk")

    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "TEXT_HANDLER_ERROR")
    assert "secret" not in failed.text
    assert texts_of(after)[-1] == "It gave 80. I see 7 contents."
    assert await rows(hub, "bob", 2, "SELECT room FROM note") == [("blue",), ("red",)]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_message_sent_twice_is_one_run_and_another_session_sees_nothing(hub: Fleet):
    first = await hub.post("cleo", "price blue", agent="clerk", message_id="m1")
    again = await hub.post("cleo", "price blue", agent="clerk", message_id="m1")

    assert first.json() == again.json()
    assert await rows(hub, "cleo", 1, "SELECT count(*) FROM google_adk_event") == [(4,)]
    assert texts_of(await hub.send("dora", "price blue", agent="clerk"))[-1] == "It gave 80. I see 3 contents."


PARTS = """
SELECT json_extract(part.value, '$.function_call.name'), json_extract(part.value, '$.function_response.name')
FROM google_adk_event AS e, json_each(e.event, '$.content.parts') AS part
WHERE json_extract(part.value, '$.text') IS NULL ORDER BY e.position, part.key
"""


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worker_killed_in_a_tool_leaves_no_call_and_no_doubled_event(hub: Fleet):
    """The call was streamed and its row written; the retry begins from the last committed turn."""
    before = await hub.send("gwen", "pid x", agent="clerk")
    pid = int(texts_of(before)[-1].split()[2].strip("x."))
    reader = asyncio.create_task(hub.send("gwen", "wait blue", agent="clerk", message_id="m1"))
    await hub.started("m1")
    await hub.kill_worker(pid)
    await hub.started("m1", attempt=2)
    hub.open_gate("m1")
    events = await reader

    assert [each["type"] for each in events if each["type"] != "text_delta"] == [
        "accepted", "message", "function_call", "restarted",
        "message", "function_call", "function_call_output", "message", "complete",
    ]  # fmt: skip
    assert texts_of(events)[-1] == "It gave blue in attempt 2. I see 7 contents."
    assert await rows(hub, "gwen", 2, "SELECT room FROM note") == [("blue",)]
    assert await rows(hub, "gwen", 2, "SELECT count(*) FROM google_adk_event") == [(8,)]
    assert await rows(hub, "gwen", 2, PARTS) == [("pid", None), (None, "pid"), ("wait", None), (None, "wait")]
