"""The OpenAI Agents SDK's sessions in a session: what a turn costs, what the SDK expects, what a crash leaves."""

import asyncio
import contextlib
import json
import runpy
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    OpenAIResponsesCompactionSession,
    OutputGuardrail,
    OutputGuardrailTripwireTriggered,
    ProgrammaticToolCallingTool,
    RunConfig,
    Runner,
    Session,
    SessionSettings,
    SQLiteSession,
    ToolOutputImage,
    ToolOutputText,
    function_tool,
    handoff,
    set_tracing_disabled,
)
from agents.run_config import CallModelData, ModelInputData
from agents.testing import ModelCall, ModelStep, ScriptedModel, assistant_message, function_call
from openai.types.responses import (
    Response,
    ResponseCodeInterpreterToolCall,
    ResponseCompletedEvent,
    ResponseFunctionWebSearch,
    ResponseOutputItemDoneEvent,
    ResponseReasoningItem,
    ResponseTextDeltaEvent,
)
from openai.types.responses.response_function_web_search import ActionSearch
from openai.types.responses.response_output_item import McpCall, Program, ProgramOutput
from pydantic import BaseModel

import satchel.testing
from examples import openai_agents
from satchel import Turn, Worker
from satchel.adapters.openai_agents import SatchelSession
from satchel.client.model import Answer
from satchel.errors import HandlerError, StateMisused
from tests.acceptance.processes import Fleet, texts_of, turn_of, until
from tests.adapters.apps import porter
from tests.docs.pages import files

PAGE = "docs/howto/openai-agents.md"
APP = str(Path(__file__).parent / "apps" / "porter.py")

set_tracing_disabled(disabled=True)

# --- what a turn costs --------------------------------------------------------------------------

SHOWN = SessionSettings(limit=6)


def say_the_count(number: int) -> RunConfig:
    """Return what runs an agent whose answer's ID is *number*: the SDK shows a model one item of an ID."""

    def answer(call: ModelCall) -> list[Any]:
        text = f"I was shown {len(call.input):04} items, and this is an answer of an ordinary length."
        return [assistant_message(text, item_id=f"msg_{number:04}")]

    return RunConfig(model=ScriptedModel([ModelStep.respond(answer)]))


async def test_a_turn_writes_its_own_items_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The point of an adapter: the thousandth turn costs what the tenth did.

    Beside it what the SDK's own SQLite session writes for the same conversation: pages
    into its log of writes, which a reader in a transaction keeps from starting anew, and
    bytes of JSON in its rows. A run is shown the last items, which is no part of what is
    written.
    """
    agent = Agent("counter")
    worker = Worker("growth")

    @worker.on_message
    async def reply(turn: Turn) -> None:
        session, model = SatchelSession(turn, session_settings=SHOWN), say_the_count(turn.version)
        if turn.version % 5 == 0:
            await session.stream(Runner.run_streamed(agent, turn.text, session=session, run_config=model))
        else:
            result = await Runner.run(agent, turn.text, session=session, run_config=model)
            await turn.say(result.final_output)

    async with satchel.testing.session(worker) as session:
        answers = [await session.send(f"message {count:04}") for count in range(1, 1001)]
        stored = [row["item"] for row in session.state.execute("SELECT item FROM openai_agents_item ORDER BY position")]
    sizes = [received_bytes(answer) for answer in answers]
    theirs = await pages_of_turns(tmp_path / "theirs.db", agent, [json.loads(item) for item in stored])

    rows = {turn: sum(map(len, stored[2 * turn - 2 : 2 * turn])) for turn in theirs}
    with capsys.disabled():
        print("\nbytes of a turn's delta:", {turn: sizes[turn - 1] for turn in theirs}, end=" ")  # noqa: T201  # figures
        print("of pages that the SDK's own session writes:", theirs, "of its rows:", rows)  # noqa: T201  # figures
    assert all(answer.changed_rows == {"openai_agents_item": (2, 0, 0)} for answer in answers)
    assert len(stored) == 2000
    assert sum(sizes[-100:]) <= 1.05 * sum(sizes[50:150])
    assert max(sizes[1:]) < min(theirs.values())


async def pages_of_turns(path: Path, agent: Agent[None], stored: list[Any]) -> dict[int, int]:
    """Return the bytes of pages that turns 10, 100 and 1,000 of the same conversation write with the SDK's session."""
    log = path.with_name(path.name + "-wal")
    written = {}
    with (
        contextlib.closing(SQLiteSession("theirs", path, session_settings=SHOWN)) as session,
        contextlib.closing(sqlite3.connect(path)) as reader,
    ):
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM agent_messages").fetchall()
        for turn in (10, 100, 1000):
            have = len(await session.get_items(limit=len(stored)))
            await session.add_items(stored[have : 2 * turn - 2])
            before = log.stat().st_size
            await Runner.run(agent, f"message {turn:04}", session=session, run_config=say_the_count(turn))
            written[turn] = log.stat().st_size - before
    return written


def received_bytes(answer: Answer) -> int:
    complete = answer.events[-1].complete
    assert complete is not None
    assert complete.turn is not None
    return complete.turn.received_bytes


# --- a conversation across turns ----------------------------------------------------------------


async def test_the_example_books_and_remembers():
    """What the pages show, with the SDK's scripted model."""
    async with satchel.testing.session(openai_agents.worker) as session:
        first = await session.send("Ada")
        await session.restart()
        second = await session.send("Bob")

        assert kinds(first) == [
            "accepted", "function_call", "function_call_output", "text_delta", "message", "complete",
        ]  # fmt: skip
        assert outputs_of(second)[0][1] == "Booked a room for Bob."
        assert session.state.execute("SELECT count(*) FROM openai_agents_item").scalar() == 8
        assert session.state.execute("SELECT group_concat(guest) FROM booking").scalar() == "Ada,Bob"
    text = Path(openai_agents.__file__).read_text()
    assert len(text.splitlines()) <= 25
    assert files(PAGE)["agent.py"] == text


@pytest.mark.parametrize(("answer", "gave"), [("yes", "paid 5"), ("no", "Tool execution was not approved.")])
async def test_the_pages_approval_waits_for_an_answer(tmp_path: Path, answer: str, gave: str):
    """A reader takes it as it stands, and puts a tool of theirs in it."""
    (tmp_path / "approve.py").write_text(files(PAGE)["approve.py"])
    page = runpy.run_path(str(tmp_path / "approve.py"))
    page["agent"].model = ScriptedModel(
        [[function_call("pay", {"amount": 5}, call_id="c")], [assistant_message("So be it.")]]
    )

    async with satchel.testing.session(page["worker"]) as session:
        asked = await session.send("pay Ada")
        await session.restart()
        answered = await session.send(answer)

        assert asked.text == "Shall I pay? Answer yes or no."
        assert outputs_of(answered) == [("c", gave, False)]
        assert answered.text == "So be it."
        assert dict(session.state) == {}, "what has gone on is not kept"


async def test_a_plain_handler_runs_the_agent_without_a_loop_of_its_own():
    """`run_sync` is what many agents call; its loop is the SDK's, in the handler's thread."""
    agent = Agent("counter")
    worker = Worker("plain")

    @worker.on_message
    def reply(turn: Turn) -> str:
        result = Runner.run_sync(agent, turn.text, session=SatchelSession(turn), run_config=say_the_count(turn.version))
        asyncio.get_event_loop_policy().get_event_loop().close()  # the SDK keeps it for the thread's next run
        return str(result.final_output)

    async with satchel.testing.session(worker) as session:
        await session.send("hello")
        answer = await session.send("hello again")

        assert answer.text.startswith("I was shown 0003 items")
        assert session.state.execute("SELECT count(*) FROM openai_agents_item").scalar() == 4


# --- what is streamed ---------------------------------------------------------------------------


async def streamed(agent: Agent[Any], *steps: Any, text: str = "go", **options: Any) -> Answer:
    """Run *agent* once on a model of *steps*, stream it into a turn, and return the turn's answer."""

    async def scenario(turn: Turn) -> None:
        model = RunConfig(model=ScriptedModel(steps))
        session = SatchelSession(turn)
        await session.stream(Runner.run_streamed(agent, text, session=session, run_config=model, **options))

    return await in_a_turn(scenario)


def pieces(*events: Any, output: Sequence[Any]) -> ModelStep:
    """Return a response that streams just *events* and then comes to *output*."""
    whole = Response(
        id="r", created_at=0, model="m", object="response", output=list(output),
        tool_choice="none", tools=[], parallel_tool_calls=False,
    )  # fmt: skip
    return ModelStep.stream(
        [*events, ResponseCompletedEvent(type="response.completed", response=whole, sequence_number=0)]
    )


def delta(text: str, index: int = 0, item_id: str = "m") -> ResponseTextDeltaEvent:
    return ResponseTextDeltaEvent(
        type="response.output_text.delta", delta=text, item_id=item_id, output_index=index,
        content_index=0, logprobs=[], sequence_number=0,
    )  # fmt: skip


def done(item: Any, index: int = 0) -> ResponseOutputItemDoneEvent:
    return ResponseOutputItemDoneEvent(
        type="response.output_item.done", item=item, output_index=index, sequence_number=0
    )


async def test_text_is_said_piece_by_piece_a_message_for_a_message():
    """Two messages of one response are two, though nothing but their place tells them apart."""
    first, second = assistant_message("The room is", item_id="a"), assistant_message("Yes.", item_id="b")

    answer = await streamed(
        Agent("a"),
        pieces(
            delta("", 0, "a"), delta("The", 0, "a"), delta(" room", 0, "a"), delta("", 0, "a"), delta(" is", 0, "a"),
            delta("Yes.", 1, "b"), done(second, 1), output=[first, second],
        ),
    )  # fmt: skip

    assert [event.text_delta.text for event in answer.events if event.text_delta] == ["The", " room", " is", "Yes."]
    assert kinds(answer) == [
        "accepted", "text_delta", "text_delta", "text_delta", "message", "text_delta", "message", "complete",
    ]  # fmt: skip
    assert answer.text == "The room is\nYes."


async def test_a_text_that_did_not_come_in_pieces_is_said_once():
    """Of a model that does not stream, beside one that does; some give every message the same ID."""
    in_pieces = assistant_message("In pieces.", item_id="m")
    calls = [function_call("pid", {"room": "x"}, call_id=name) for name in "cd"]

    answer = await streamed(
        Agent("a", tools=[porter.pid]),
        pieces(delta("In "), delta("pieces."), output=[in_pieces, calls[0]]),
        pieces(output=[assistant_message("Whole.", item_id="m"), calls[1]]),
        pieces(delta("In "), delta("pieces."), output=[in_pieces]),
    )

    texts = [event.message.text for event in answer.events if event.message]
    assert texts == ["In pieces.", "Whole.", "In pieces."]


async def test_an_empty_text_is_not_a_message():
    """Models begin with one before they call a tool."""
    answer = await streamed(Agent("a"), pieces(delta(""), output=[assistant_message("")]))

    assert kinds(answer) == ["accepted", "complete"]


async def test_a_final_text_that_no_message_has_is_said():
    """A run may end with what a tool gave, or with what an error handler makes of too many turns."""
    call = [assistant_message("Let me see."), function_call("pay", {"room": "x"}, call_id="c")]
    pay = function_tool(lambda room: f"paid {room}", name_override="pay")

    final = await streamed(Agent("a", tools=[pay], tool_use_behavior="stop_on_first_tool"), call)
    handled = await streamed(
        Agent("a", tools=[pay]), call, max_turns=1,
        error_handlers={"max_turns": lambda _: {"final_output": "That is enough.", "include_in_history": False}},
    )  # fmt: skip
    kept = await streamed(
        Agent("a", tools=[pay]), call, max_turns=1,
        error_handlers={"max_turns": lambda _: {"final_output": "That is enough."}},
    )  # fmt: skip

    assert final.text == "Let me see.\npaid x"
    assert handled.text == kept.text == "Let me see.\nThat is enough."


async def test_what_a_model_writes_for_an_output_type_is_not_text():
    """A page must not show half a JSON object; the handler says what it makes of it."""

    class Booking(BaseModel):
        room: str

    async def scenario(turn: Turn) -> None:
        model = RunConfig(model=ScriptedModel([[assistant_message('{"room": "blue"}')]]))
        session = SatchelSession(turn)
        result = Runner.run_streamed(Agent("a", output_type=Booking), "go", session=session, run_config=model)
        await session.stream(result)
        await turn.say(result.final_output.room)

    answer = await in_a_turn(scenario)

    assert kinds(answer) == ["accepted", "message", "complete"]
    assert answer.text == "blue"


async def test_a_hand_off_is_emitted_and_the_new_agent_speaks():
    """It is no tool call: a reader learns who is speaking now."""
    second = Agent("Second", model=ScriptedModel([[assistant_message("I am the second.")]]))
    first = Agent("First", handoffs=[handoff(second)])
    model = ScriptedModel([[function_call("transfer_to_second", {}, call_id="c")]])
    first.model = model

    async def scenario(turn: Turn) -> None:
        session = SatchelSession(turn)
        await session.stream(Runner.run_streamed(first, "go", session=session))

    answer = await in_a_turn(scenario)

    (handed,) = [event.agent_handoff for event in answer.events if event.agent_handoff]
    assert (handed.old_agent_id, handed.new_agent_id) == ("First", "Second")
    assert kinds(answer) == ["accepted", "agent_handoff", "text_delta", "message", "complete"]


async def test_a_providers_own_tools_are_calls_with_outputs():
    """A reader must not wait for an output that no item brings; what was found is not for an event, which is small."""
    search = ResponseFunctionWebSearch(
        id="ws", type="web_search_call", status="completed", action=ActionSearch(type="search", query="rooms")
    )
    code = ResponseCodeInterpreterToolCall(
        id="ci", type="code_interpreter_call", status="completed", code="1+1", container_id="x", outputs=None
    )
    gave = McpCall(id="m1", type="mcp_call", name="find", arguments='{"a":1}', server_label="s", output="two rooms")
    broke = McpCall(
        id="m2",
        type="mcp_call",
        name="find",
        arguments="{}",
        server_label="s",
        error={"code": 1, "message": "down", "type": "mcp_protocol_error"},
    )
    first, last = assistant_message("Wait.", item_id="a"), assistant_message("Two.", item_id="b")

    answer = await streamed(
        Agent("a"),
        pieces(
            delta("Wait.", 0, "a"),
            *(done(item, index) for index, item in enumerate((first, search, code, gave, broke))),
            delta("Two.", 5, "b"), done(last, 5), output=[first, search, code, gave, broke, last],
        ),
    )  # fmt: skip

    assert calls_of(answer) == [
        ("ws", "web_search_call", '{"action": {"type": "search", "query": "rooms"}}'),
        ("ci", "code_interpreter_call", '{"code": "1+1"}'),
        ("m1", "find", '{"a":1}'),
        ("m2", "find", "{}"),
    ]
    assert outputs_of(answer) == [
        ("ws", "completed", False),
        ("ci", "completed", False),
        ("m1", "two rooms", False),
        ("m2", '{"code": 1, "message": "down", "type": "mcp_protocol_error"}', True),
    ]
    called = ["function_call", "function_call_output"] * 4
    assert kinds(answer) == ["accepted", "text_delta", "message", *called, "text_delta", "message", "complete"]


async def test_a_program_that_the_provider_ran_is_a_call_with_its_result():
    """Its output has a field of another name than every other."""
    program = Program(id="p", type="program", call_id="c", code="print(1)", fingerprint="f")
    output = ProgramOutput(id="o", type="program_output", call_id="c", result="1", status="completed")

    answer = await streamed(
        Agent("a", tools=[ProgrammaticToolCallingTool()]),
        pieces(output=[program, output, assistant_message("One.")]),
    )

    assert calls_of(answer) == [("c", "program", '{"code": "print(1)"}')]
    assert outputs_of(answer) == [("c", "1", False)]


async def test_a_picture_is_not_in_an_event():
    """An event has at most a mebibyte; the item in the row keeps all of it."""
    picture = "data:image/png;base64," + "A" * 2_000_000

    @function_tool
    def draw() -> Any:
        return [ToolOutputText(text="here"), ToolOutputImage(image_url=picture)]

    async def scenario(turn: Turn) -> None:
        session = SatchelSession(turn)
        steps = [[function_call("draw", {}, call_id="c")], [assistant_message("Nice.")]]
        model = RunConfig(model=ScriptedModel(steps))
        await session.stream(Runner.run_streamed(Agent("a", tools=[draw]), "go", session=session, run_config=model))
        output = (await session.get_items())[2]["output"]
        assert [part for part in output if part.get("image_url") == picture]

    ((_, output, _),) = outputs_of(await in_a_turn(scenario))
    assert json.loads(output)[0]["text"] == "here"
    assert json.loads(output)[1]["image_url"] == "data:image/png;base64"


async def test_what_a_tool_raised_ends_its_call_by_class_alone():
    """A caller must not see what an exception says, nor wait for the output of a call that has none."""

    async def scenario(turn: Turn) -> None:
        with contextlib.suppress(Exception):
            await porter.reply(turn)
        stored = await SatchelSession(turn).get_items()
        assert [item for item in stored if item.get("type") == "function_call"] == []

    answer = await in_a_turn(scenario, text="charge blue", schema=porter.SCHEMA)

    assert outputs_of(answer) == [("call_1", "ValueError", True)]
    assert "secret" not in repr(answer)


async def test_a_stream_that_cannot_go_on_ends_its_run():
    """Else tools would go on acting for a turn that has failed."""
    acted = []

    @function_tool
    def act() -> str:
        acted.append(1)
        return "done"

    too_long = [assistant_message("x" * 2**20), function_call("act", {}, call_id="c")]
    with pytest.raises(HandlerError, match="TurnMisused"):
        await streamed(Agent("a", tools=[act]), too_long, [assistant_message("Done.")])

    assert acted == []


async def test_a_call_that_is_approved_in_its_own_turn_is_emitted_once():
    async def scenario(turn: Turn) -> None:
        session = SatchelSession(turn)
        first = Runner.run_streamed(porter.agent, "pay blue", session=session, run_config=porter.script())
        await session.stream(first)
        state = first.to_state()
        for call in first.interruptions:
            state.approve(call)
        await session.stream(Runner.run_streamed(porter.agent, state, session=session, run_config=porter.script()))

    answer = await in_a_turn(scenario, schema=porter.SCHEMA)

    assert [call[0] for call in calls_of(answer)] == ["call_1"]
    assert outputs_of(answer) == [("call_1", "a receipt for blue", False)]


def kinds(answer: Answer) -> list[str]:
    return [event.type for event in answer.events]


def calls_of(answer: Answer) -> list[tuple[str, str, str]]:
    calls = [event.function_call for event in answer.events if event.function_call]
    return [(call.call_id, call.name, call.arguments) for call in calls]


def outputs_of(answer: Answer) -> list[tuple[str, str, bool]]:
    outputs = [event.function_call_output for event in answer.events if event.function_call_output]
    return [(output.call_id, output.output, output.is_error) for output in outputs]


async def in_a_turn(scenario: Callable[[Turn], Awaitable[None]], *, text: str = "go", schema: str = "") -> Answer:
    worker = Worker("scenario", schema=schema)

    @worker.on_message
    async def reply(turn: Turn) -> None:
        await scenario(turn)

    async with satchel.testing.session(worker) as session:
        return await session.send(text)


# --- what the SDK expects of a session ----------------------------------------------------------

SessionTest = Callable[[Session], Awaitable[None]]


@pytest.fixture(params=["theirs", "ours"])
def run_on_session(request: pytest.FixtureRequest) -> Callable[[SessionTest], Awaitable[object]]:
    """Each expectation is held against the SDK's own SQLite session, too: else it would be only our reading."""

    async def run(test: SessionTest) -> object:
        if request.param == "theirs":
            with contextlib.closing(SQLiteSession("test")) as session:
                return await test(session)
        return await in_a_turn(lambda turn: test(SatchelSession(turn)))

    return run


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def contents(items: Sequence[Any]) -> list[Any]:
    """Return the texts of messages, and of calls and outputs their types."""
    found = []
    for item in items:
        content = item.get("content", item.get("type"))
        found.append(content if isinstance(content, str) else content[0]["text"])
    return found


async def ran(session: Session, text: str | list[Any], *steps: Any, agent: Any = None, **options: Any) -> ScriptedModel:
    """Run an agent once on a model of *steps*; return the model, which knows what it was shown."""
    model = ScriptedModel(steps or [[assistant_message(f"answer to {text}", item_id=f"msg {text}")]])
    config = RunConfig(model=model, **options.pop("config", {}))
    if options.pop("streamed", False):
        result = Runner.run_streamed(agent or Agent("a"), text, session=session, run_config=config, **options)
        async for _ in result.stream_events():
            pass
    else:
        await Runner.run(agent or Agent("a"), text, session=session, run_config=config, **options)
    return model


def shown(model: ScriptedModel) -> list[Any]:
    assert model.last_call is not None
    return contents(model.last_call.input)


async def test_items_come_back_as_they_were_and_in_order(run_on_session):
    items = [
        user("こんにちは 😊"),
        user("O'Reilly'); DROP TABLE openai_agents_item;--"),
        user('"quoted" \\ \0 \u2028 {"json": [1]}'),
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"x": 1.5}', "id": "fc"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": ""}]},
        {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "gAAA", "status": None},
    ]

    async def test(session: Session) -> None:
        assert isinstance(session, Session)
        assert session.session_id == "test"
        assert await session.get_items() == []
        await session.add_items([])
        await session.add_items(items[:2])
        await session.add_items(items[2:])

        assert await session.get_items() == items
        await session.clear_session()
        assert await session.get_items() == []
        await session.clear_session()

    await run_on_session(test)


async def test_the_newest_item_is_popped(run_on_session):
    """The SDK takes back what it wrote when a request has to be made again."""

    async def test(session: Session) -> None:
        assert await session.pop_item() is None
        await session.add_items([user("one"), user("two"), user("three")])

        assert await session.pop_item() == user("three")
        assert await session.pop_item() == user("two")
        await session.add_items([user("four")])
        assert contents(await session.get_items()) == ["one", "four"]
        assert [await session.pop_item() for _ in range(3)] == [user("four"), user("one"), None]

    await run_on_session(test)


async def test_a_limit_gives_the_newest_items_oldest_first(run_on_session):
    """An explicit limit is stronger than the settings', and neither changes what is kept."""

    async def test(session: Session) -> None:
        assert session.session_settings == SessionSettings()
        await session.add_items([user(name) for name in ("one", "two", "three")])

        assert contents(await session.get_items(limit=2)) == ["two", "three"]
        assert contents(await session.get_items(limit=9)) == ["one", "two", "three"]
        assert await session.get_items(limit=0) == []
        session.session_settings = SessionSettings(limit=1)
        assert contents(await session.get_items()) == ["three"]
        assert contents(await session.get_items(limit=2)) == ["two", "three"]
        session.session_settings = None
        assert len(await session.get_items()) == 3

    await run_on_session(test)


async def test_items_added_at_once_are_all_there(run_on_session):
    async def test(session: Session) -> None:
        await asyncio.gather(*(session.add_items([user(f"{count}a"), user(f"{count}b")]) for count in range(20)))

        found = contents(await session.get_items())
        assert sorted(found) == sorted(f"{count}{half}" for count in range(20) for half in "ab")
        assert all(found[index][:-1] == found[index + 1][:-1] for index in range(0, 40, 2))

    await run_on_session(test)


@pytest.mark.parametrize("item", [{"content": object()}, {"content": float("nan")}, {"content": "\ud800"}])
async def test_an_item_that_is_not_json_stores_none_of_its_batch(item: Any):
    """Half a batch is a call without its output; and a row is to be read by anybody's JSON."""

    async def scenario(turn: Turn) -> None:
        session = SatchelSession(turn)
        with pytest.raises(StateMisused, match="not JSON"):
            await session.add_items([user("one"), item])
        assert await session.get_items() == []

    await in_a_turn(scenario)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_run_is_shown_the_runs_before_it(run_on_session, *, streamed: bool):
    async def test(session: Session) -> None:
        await ran(session, "one", streamed=streamed)
        model = await ran(session, [user("two"), user("three")], streamed=streamed)
        alone = await ran(session, "four", streamed=streamed, config={"session_settings": SessionSettings(limit=1)})

        assert shown(model) == ["one", "answer to one", "two", "three"]
        assert len(shown(alone)) == 2
        assert len(await session.get_items()) == 7

    await run_on_session(test)


async def test_a_limit_never_shows_an_output_without_its_call(run_on_session):
    async def test(session: Session) -> None:
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        await session.add_items([user("one"), call, {"type": "function_call_output", "call_id": "c", "output": "x"}])

        model = await ran(session, "two", config={"session_settings": SessionSettings(limit=1)})

        assert shown(model) == ["two"]

    await run_on_session(test)


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_a_callback_or_a_filter_shows_is_not_what_is_kept(run_on_session, *, streamed: bool):
    """They change what a model sees; history that comes by again must not be stored again."""

    def repeat(history: list[Any], fresh: list[Any]) -> list[Any]:
        return [*history, *history[:1], *fresh]

    def summary(data: CallModelData[Any]) -> ModelInputData:
        return ModelInputData(input=[user("a summary")], instructions=data.model_data.instructions)

    async def test(session: Session) -> None:
        await ran(session, "one", streamed=streamed)
        repeated = await ran(session, [user("two")], streamed=streamed, config={"session_input_callback": repeat})
        filtered = await ran(session, "three", streamed=streamed, config={"call_model_input_filter": summary})

        assert shown(repeated) == ["one", "answer to one", "one", "two"]
        assert shown(filtered) == ["a summary"]
        assert contents(await session.get_items())[::2] == ["one", "two", "three"]
        assert len(await session.get_items()) == 6

    await run_on_session(test)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_tripped_guardrail_keeps_the_input_alone(run_on_session, *, streamed: bool):
    """An answer that was blocked must not be shown to the next run."""

    async def trip(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    async def test(session: Session) -> None:
        await ran(session, "one", streamed=streamed)
        with pytest.raises(InputGuardrailTripwireTriggered):
            await ran(session, "two", agent=Agent("a", input_guardrails=[InputGuardrail(trip)]), streamed=streamed)
        with pytest.raises(OutputGuardrailTripwireTriggered):
            await ran(session, "three", agent=Agent("a", output_guardrails=[OutputGuardrail(trip)]), streamed=streamed)

        assert contents(await session.get_items()) == ["one", "answer to one", "two", "three"]

    await run_on_session(test)


@pytest.mark.parametrize("streamed", [False, True])
async def test_too_many_turns_leave_every_call_with_its_output(run_on_session, *, streamed: bool):
    """A handler that answers in spite of it commits what was stored: the next run must be able to go on from there."""
    calls = [[function_call("pid", {"room": "x"}, call_id=f"c{count}", item_id=f"fc{count}")] for count in range(2)]

    async def test(session: Session) -> None:
        agent = Agent("a", tools=[porter.pid])
        with pytest.raises(MaxTurnsExceeded):
            await ran(session, "one", *calls, agent=agent, max_turns=2, streamed=streamed)
        model = await ran(session, "two", agent=agent, streamed=streamed)

        pairs = ["function_call", "function_call_output"] * 2
        assert shown(model) == ["one", *pairs, "two"]
        assert contents(await session.get_items()) == ["one", *pairs, "two", "answer to two"]

    await run_on_session(test)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_paused_run_goes_on_in_the_same_session(run_on_session, *, streamed: bool):
    """The call was stored when it paused, its output when it went on: once each, and in order."""

    pay = function_tool(lambda room: f"a receipt for {room}", name_override="pay", needs_approval=True)

    async def test(session: Session) -> None:
        agent = Agent("a", tools=[pay])
        config = porter.script()
        if streamed:
            paused = Runner.run_streamed(agent, "pay blue", session=session, run_config=config)
            async for _ in paused.stream_events():
                pass
        else:
            paused = await Runner.run(agent, "pay blue", session=session, run_config=config)
        assert contents(await session.get_items()) == ["pay blue", "Let me see.", "function_call"]
        state = paused.to_state()
        state.approve(paused.interruptions[0])

        resumed = await Runner.run(agent, state, session=session, run_config=config)

        assert resumed.final_output == "It gave a receipt for blue. I see 4 items."
        assert contents(await session.get_items()) == [
            "pay blue", "Let me see.", "function_call", "function_call_output", resumed.final_output,
        ]  # fmt: skip

    await run_on_session(test)


async def test_reasoning_is_kept_before_the_call_it_led_to(run_on_session):
    """The API refuses a call whose reasoning is missing."""
    reasoning = ResponseReasoningItem(id="rs", type="reasoning", summary=[], encrypted_content="gAAA")
    call = function_call("pid", {"room": "x"}, call_id="c", item_id="fc")

    async def test(session: Session) -> None:
        said = [assistant_message("Done.")]
        await ran(session, "one", [reasoning, call], said, agent=Agent("a", tools=[porter.pid]))

        kept = await session.get_items()
        assert [item.get("type", "message") for item in kept] == [
            "message", "reasoning", "function_call", "function_call_output", "message",
        ]  # fmt: skip
        assert kept[1]["encrypted_content"] == "gAAA"

    await run_on_session(test)


# --- compaction ---------------------------------------------------------------------------------


class Compactor:
    """Stands in for OpenAI's client: keeps the users' messages and puts one item for the rest, as the API does."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.responses = self

    async def compact(self, **arguments: Any) -> Any:
        self.calls.append(arguments)
        users = [item for item in arguments["input"] if item.get("role") == "user"]
        rest = {"type": "compaction", "id": f"cmp_{len(self.calls)}", "encrypted_content": "gAAA"}
        return SimpleNamespace(output=[*users, rest], usage=None)


def compacted(session: Session, compactor: Compactor, *, at: int = 4) -> OpenAIResponsesCompactionSession:
    return OpenAIResponsesCompactionSession(
        session.session_id,
        session,
        client=compactor,  # type: ignore[arg-type]  # the one method that is called
        compaction_mode="input",
        should_trigger_compaction=lambda found: len(found["compaction_candidate_items"]) >= at,
    )


async def test_a_compaction_session_compacts_ours(run_on_session):
    async def test(session: Session) -> None:
        compactor = Compactor()
        outer = compacted(session, compactor, at=2)
        for text in ("one", "two", "three"):
            model = await ran(outer, text)

        assert len(compactor.calls) == 1
        assert shown(model) == ["one", "two", "compaction", "three"]
        assert contents(await session.get_items()) == ["one", "two", "compaction", "three", "answer to three"]

    await run_on_session(test)


async def test_a_compaction_writes_what_it_changed():
    """The SDK clears and adds everything again; what stands where it stood is not part of the delta."""
    compactor = Compactor()
    worker = Worker("compacting")

    @worker.on_message
    async def reply(turn: Turn) -> None:
        await ran(compacted(SatchelSession(turn), compactor), turn.text)

    async with satchel.testing.session(worker) as session:
        answers = [await session.send(f"message {count}") for count in range(40)]
        kept = session.state.execute("SELECT item FROM openai_agents_item ORDER BY position")

    changed = [answer.changed_rows["openai_agents_item"] for answer in answers]
    assert len(compactor.calls) == 10
    assert len(kept) == 41, "the users' messages, and one item for all answers"
    assert max(sum(rows) for rows in changed) <= 8, "the items of the four turns since, however many are kept"


# --- real processes -----------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """A hub and two workers for these tests; the one that kills a worker stands last."""
    running = Fleet(tmp_path_factory.mktemp("porters"))
    try:
        await running.start_hub()
        for _ in range(2):  # one after the other: each imports the SDK for seconds
            await running.start_worker(APP)
        yield running
    finally:
        await running.stop()


async def rows(hub: Fleet, session: str, version: int, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of *sql* in a version as it is exported."""
    response = await hub.http.get(f"{hub.url}/v1/sessions/{session}/versions/{version}/snapshot")
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(response.content)
        return database.execute(sql).fetchall()


ITEMS = """
SELECT coalesce(json_extract(item, '$.type'), 'message'), json_extract(item, '$.call_id')
FROM openai_agents_item ORDER BY position
"""
TURN = [("message", None), ("message", None), ("function_call", "call_1"), ("function_call_output", "call_1")]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_run_is_streamed_and_continued(hub: Fleet):
    """Tokens, the call, its output; and the next turn knows them, wherever it runs."""
    first = await hub.send("ada", "price blue", agent="porter")
    second = await hub.send("ada", "price red", agent="porter")

    assert [event["type"] for event in first] == [
        "accepted", "text_delta", "message", "function_call", "function_call_output",
        "text_delta", "message", "complete",
    ]  # fmt: skip
    assert texts_of(first) == ["Let me see.", "It gave 80. I see 4 items."]
    assert texts_of(second) == ["Let me see.", "It gave 80. I see 9 items."]
    assert turn_of(second)["changed_rows"]["openai_agents_item"] == [5, 0, 0]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_tool_that_fails_is_the_models_to_mend_and_a_run_that_fails_leaves_nothing(hub: Fleet):
    """Not the user's message, not the call without an output, not the tool's own row."""
    mended = await hub.send("bob", "price none", agent="porter")
    failed = await hub.post("bob", "charge blue", agent="porter")
    after = await hub.send("bob", "price red", agent="porter")

    assert texts_of(mended)[-1].startswith("It gave An error occurred while running the tool.")
    assert "secret" not in repr(mended)
    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "TEXT_HANDLER_ERROR")
    assert "secret" not in failed.text
    assert texts_of(after)[-1] == "It gave 80. I see 9 items."
    assert await rows(hub, "bob", 2, "SELECT room FROM note") == [("none",), ("red",)]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_message_sent_twice_is_one_run(hub: Fleet):
    first = await hub.post("cleo", "price blue", agent="porter", message_id="m1")
    again = await hub.post("cleo", "price blue", agent="porter", message_id="m1")

    assert first.json() == again.json()
    assert await rows(hub, "cleo", 1, ITEMS) == [*TURN, ("message", None)]


@pytest.mark.asyncio(loop_scope="module")
async def test_another_session_sees_nothing(hub: Fleet):
    await hub.send("dora", "price blue", agent="porter")

    assert texts_of(await hub.send("emil", "price blue", agent="porter"))[-1] == "It gave 80. I see 4 items."


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("answer", "gave"), [("yes", "a receipt for blue"), ("no", "Tool execution was not approved.")]
)
async def test_a_call_waits_for_approval_until_another_turn(hub: Fleet, answer: str, gave: str):
    """The paused run is a value of the state: the next turn, on whichever worker, goes on with it."""
    session = f"fritz-{answer}"
    asked = await hub.send(session, "pay blue", agent="cashier")
    assert [event["type"] for event in asked] == [
        "accepted", "text_delta", "message", "function_call", "message", "complete",
    ]  # fmt: skip
    assert texts_of(asked)[-1] == "Shall I?"
    assert await rows(hub, session, 1, ITEMS) == TURN[:3]

    answered = await hub.send(session, answer, agent="cashier")

    (call,) = [event["function_call"] for event in asked if event["type"] == "function_call"]
    assert [event["type"] for event in answered] == [
        "accepted", "function_call_output", "text_delta", "message", "complete",
    ]  # fmt: skip
    output = answered[1]["function_call_output"]
    assert (output["call_id"], output["name"], output["output"]) == (call["call_id"], "pay", gave)
    assert texts_of(answered) == [f"It gave {gave}. I see 4 items."]
    assert await rows(hub, session, 2, "SELECT room FROM note") == [("blue",)] * (answer == "yes")
    assert await rows(hub, session, 2, ITEMS) == [*TURN, ("message", None)]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_cancelled_turn_stops_its_run(hub: Fleet):
    """A tool that waits is cancelled with the turn, and the conversation is what it was."""
    await hub.send("gerd", "price blue", agent="porter")
    reader = asyncio.create_task(hub.send("gerd", "wait blue", agent="porter", message_id="m7"))
    await hub.started("m7")
    await hub.http.post(f"{hub.url}/v1/sessions/gerd/messages/m7/cancel")
    events = await reader

    assert events[-1]["complete"]["error"]["code"] == "CANCELLED"
    await until_there(hub.gates / "m7.cancelled")
    assert texts_of(await hub.send("gerd", "price red", agent="porter"))[-1] == "It gave 80. I see 9 items."


async def until_there(path: Path) -> None:
    async def there() -> bool:
        return path.exists()

    await until(there)


async def hub_events(hub: Fleet, session: str, text: str, **body: Any) -> AsyncIterator[dict[str, Any]]:
    """Send a message, and yield its events as they come."""
    url = f"{hub.url}/v1/sessions/{session}/messages"
    async with hub.http.stream("POST", url, json={"text": text, "agent": "porter", **body}) as response:
        async for line in response.aiter_lines():
            if line:
                yield json.loads(line)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worker_killed_in_a_tool_leaves_no_call_and_no_doubled_item(hub: Fleet):
    """The call was streamed and its row written; the retry begins from the last committed turn."""
    before = await hub.send("hans", "pid x", agent="porter")
    pid = int(texts_of(before)[-1].split()[2].strip("x."))
    events = []
    async for event in hub_events(hub, "hans", "wait blue", message_id="m1"):
        events.append(event)
        if event["type"] == "function_call" and event["attempt"] == 1:
            await hub.started("m1")
            await hub.kill_worker(pid)
            hub.open_gate("m1")

    kept = [event["type"] for event in events if event["type"] != "text_delta"]
    assert kept == [
        "accepted", "message", "function_call", "restarted",
        "message", "function_call", "function_call_output", "message", "complete",
    ]  # fmt: skip
    assert texts_of(events)[-1] == "It gave blue in attempt 2. I see 9 items."
    assert await rows(hub, "hans", 2, "SELECT room FROM note") == [("blue",)]
    assert await rows(hub, "hans", 2, ITEMS) == [
        *TURN, ("message", None), ("message", None), ("message", None), ("function_call", "call_6"),
        ("function_call_output", "call_6"), ("message", None),
    ]  # fmt: skip


async def test_a_missing_framework_is_named_with_its_extra():
    """An ImportError from deep inside says nothing of what to install."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys; sys.modules['agents'] = None; import satchel.adapters.openai_agents",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await child.communicate()

    assert b"pip install 'satchel[openai-agents]'" in errors.splitlines()[-1]
