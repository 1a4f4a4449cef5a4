"""Pydantic AI's conversations in a session: what a turn costs, what its store promises, what a crash leaves."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic_ai import Agent, BinaryImage, Conversation, DeferredToolRequests, RunUsage, UsageLimits, UserError
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationRecord,
    ConversationStore,
    InMemoryConversationStore,
)
from pydantic_ai.messages import (
    AgentStreamEvent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    NativeToolCallPart,
    NativeToolReturnPart,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ToolCallPart,
    ToolCallPartDelta,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

import satchel.testing
from examples import pydantic_ai_agent
from satchel import Turn, Worker
from satchel.adapters.pydantic_ai import SatchelConversations, SatchelMessages
from satchel.client.model import Answer
from satchel.worker.load import load_app
from tests.acceptance.processes import Fleet, texts_of, turn_of
from tests.adapters.apps import clerk
from tests.docs.pages import files

EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PAGE = "docs/howto/pydantic-ai.md"
APP = str(Path(__file__).parent / "apps" / "clerk.py")

# --- what a turn costs --------------------------------------------------------------------------


def say_the_count(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
    return ModelResponse([TextPart(f"I was shown {len(messages):04} messages; an answer of an ordinary length.")])


async def test_a_turn_writes_its_own_messages_only(capsys: pytest.CaptureFixture[str]):
    """The point of an adapter: the thousandth turn costs what the tenth did.

    Beside it what Pydantic AI has for storage of its own, which is no SQLite store but
    one JSON value for the whole conversation: its bytes at that turn. Every second turn
    goes through the store, whose rows are the same. A run is shown the last messages
    only, and nothing else records the conversation: neither is part of the claim, and
    both would take time.
    """
    agent = Agent(FunctionModel(say_the_count))
    worker = Worker("growth", history=False)

    @worker.on_message
    async def reply(turn: Turn) -> None:
        if turn.version % 2:
            messages = SatchelMessages(turn)
            result = await agent.run(turn.text, message_history=messages.last(6))
            messages.add(result.new_messages())
        else:
            store = SatchelConversations(turn)
            conversation = await store.load(turn.session_id, limit=6)
            result = await agent.run(turn.text, conversation=conversation, usage_limits=UsageLimits(request_limit=None))
            await store.save(result)

    async with satchel.testing.session(worker) as session:
        answers = [await session.send(f"message {count:04}") for count in range(1, 1001)]
        stored = [row["message"] for row in session.state.execute("SELECT message FROM pydantic_ai_message")]

    sizes = [received_bytes(answer) for answer in answers]
    whole = {turn: sum(map(len, stored[: 2 * turn])) for turn in (10, 100, 1000)}
    with capsys.disabled():
        print("\nbytes of a turn's delta:", {turn: sizes[turn - 1] for turn in whole}, "as one value:", whole)  # noqa: T201  # figures
    assert all(
        answer.changed_rows == {"pydantic_ai_message": (2, 0, 0), "pydantic_ai_conversation": (0, 1, 0)}
        for answer in answers[1:]
    )
    assert len(stored) == 2000
    assert sum(sizes[-100:]) <= 1.05 * sum(sizes[50:150])


def received_bytes(answer: Answer) -> int:
    complete = answer.events[-1].complete
    assert complete is not None
    assert complete.turn is not None
    return complete.turn.received_bytes


# --- a conversation across turns ----------------------------------------------------------------


async def test_the_example_books_and_remembers():
    """What the pages show, with the framework's test model: its second answer knows the first turn's call."""
    async with satchel.testing.session(pydantic_ai_agent.worker) as session:
        first = await session.send("a room for Ada")
        await session.restart()
        second = await session.send("what did you book?")

        assert kinds(first)[:3] == ["accepted", "function_call", "function_call_output"]
        assert second.text == first.text == '{"book":"Booked a room for a."}'
        assert second.changed_rows == {"pydantic_ai_message": (2, 0, 0), "pydantic_ai_conversation": (0, 1, 0)}
        assert session.state.execute("SELECT count(*) FROM booking").scalar() == 1
    assert len(Path(pydantic_ai_agent.__file__).read_text().splitlines()) <= 25


def test_the_page_shows_the_example():
    """Who reads the page and who opens the file begin with the same program."""
    assert files(PAGE)["agent.py"] == Path(pydantic_ai_agent.__file__).read_text()


async def test_the_pages_approval_is_answered_in_the_next_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The page's second program, saved and loaded as its reader does."""
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "approve.py").write_text(files(PAGE)["approve.py"])
    (cashier,) = load_app(tmp_path / "approve.py")

    async with satchel.testing.session(cashier) as session:
        asked = await session.send("pay")
        await session.restart()
        answered = await session.send("no")

    assert asked.text == "Shall I pay? Answer yes or no."
    assert [output for _, output, _ in outputs_of(answered)] == ["The tool call was denied."]


async def test_a_plain_handler_runs_the_agent_without_a_loop_of_its_own():
    """`run_sync` is what many agents call; its loop is the framework's, in the handler's thread."""
    agent = Agent(TestModel(custom_output_text="Good day."))
    worker = Worker("plain")

    @worker.on_message
    def reply(turn: Turn) -> None:
        messages = SatchelMessages(turn)
        result = agent.run_sync(turn.text, message_history=messages.all(), event_stream_handler=messages.stream)
        messages.add(result.new_messages())
        asyncio.get_event_loop().close()  # which run_sync made for this thread and leaves open
        asyncio.set_event_loop(None)

    async with satchel.testing.session(worker) as session:
        await session.send("hello")
        answer = await session.send("hello again")

        assert answer.text == "Good day."
        assert session.state.execute("SELECT count(*) FROM pydantic_ai_message").scalar() == 4


async def test_messages_are_read_back_as_they_were():
    """Pictures and odd text, too; the last ones without reading the others; and none of another conversation."""
    message = ModelRequest(parts=[UserPromptPart(["seen: ✓ \0", BinaryImage(b"\xff\x00\xfe", media_type="image/png")])])

    async def scenario(turn: Turn) -> None:
        messages = SatchelMessages(turn)
        assert messages.all() == messages.last(3) == []
        messages.add([])
        messages.add([message, said("one")])
        messages.add([said("two")])

        assert messages.all() == [message, said("one"), said("two")]
        assert messages.last(2) == [said("one"), said("two")]
        assert messages.last(0) == messages.last(-1) == []
        store = SatchelConversations(turn)
        other = Conversation(conversation_id="other", messages=[said("elsewhere")])
        await store.save(other)
        assert len(messages.all()) == 3
        loaded = await store.load(turn.session_id)
        assert loaded is not None
        assert loaded.messages == messages.all()

    await in_a_turn(scenario)


# --- what is streamed ---------------------------------------------------------------------------


async def streamed(events: Sequence[AgentStreamEvent]) -> Answer:
    """Put *events* into a turn, and return its answer."""

    async def scenario(turn: Turn) -> None:
        async def given() -> AsyncIterator[AgentStreamEvent]:
            for event in events:
                yield event

        await SatchelMessages(turn).stream(None, given())  # type: ignore[arg-type]  # no run, so no context

    return await in_a_turn(scenario)


async def test_text_is_said_piece_by_piece_and_parts_in_a_row_are_one_text():
    """Providers split one answer into parts at citations; the run's output joins them, and so does the turn."""
    answer = await streamed(
        [
            PartStartEvent(index=0, part=ThinkingPart("hm")),
            PartStartEvent(index=1, part=TextPart("")),
            PartDeltaEvent(index=1, delta=TextPartDelta("The room")),
            PartDeltaEvent(index=0, delta=ToolCallPartDelta(args_delta="{")),
            PartEndEvent(index=1, part=TextPart("The room")),
            PartStartEvent(index=2, part=TextPart(" is blue")),
            PartDeltaEvent(index=2, delta=TextPartDelta(".")),
            PartEndEvent(index=2, part=TextPart(" is blue.")),
            PartStartEvent(index=3, part=ThinkingPart("hm")),
            PartDeltaEvent(index=2, delta=TextPartDelta("Yes.")),
        ]
    )

    assert kinds(answer) == [
        "accepted", "text_delta", "text_delta", "text_delta", "message", "text_delta", "message", "complete",
    ]  # fmt: skip
    assert answer.text == "The room is blue.\nYes."


async def test_an_empty_text_is_not_a_message():
    """Models begin with one before they call a tool."""
    answer = await streamed([PartStartEvent(index=0, part=TextPart("")), PartEndEvent(index=0, part=TextPart(""))])

    assert kinds(answer) == ["accepted", "complete"]


async def test_a_providers_own_tools_are_calls_like_others():
    call = NativeToolCallPart("web_search", {"query": "rooms"}, tool_call_id="n1")
    result = NativeToolReturnPart("web_search", {"found": 2}, tool_call_id="n1")

    answer = await streamed(
        [
            PartStartEvent(index=0, part=NativeToolCallPart("web_search", None, tool_call_id="n1")),
            PartEndEvent(index=0, part=call),
            PartStartEvent(index=1, part=TextPart("Wait.")),
            PartStartEvent(index=2, part=result),
        ]
    )

    assert calls_of(answer) == [("n1", "web_search", '{"query":"rooms"}')]
    assert outputs_of(answer) == [("n1", '{"found":2}', False)]


async def test_what_a_tool_raised_ends_its_call_by_class_alone():
    """A caller must not see what an exception says, nor wait for the output of a call that has none."""
    async with satchel.testing.session(forgiving(clerk.clerk)) as session:
        answer = await session.send("price none")

    assert outputs_of(answer) == [("call_1", "ValueError", True)]


async def test_a_call_that_has_to_be_made_again_is_an_error_for_the_model():
    async with satchel.testing.session(clerk.clerk) as session:
        answer = await session.send("price wrong")

    ((_, output, is_error),) = outputs_of(answer)
    assert output.startswith("There is no such room.")
    assert is_error


def forgiving(worker: Worker[Any]) -> Worker[Any]:
    """Return *worker* with a handler that commits in spite of a ValueError: so that its events can be read."""
    other = Worker(worker.name, schema=clerk.SCHEMA)

    @other.on_message
    async def reply(turn: Turn) -> None:
        with contextlib.suppress(ValueError):
            await clerk.answer(turn)

    return other


def kinds(answer: Answer) -> list[str]:
    return [event.type for event in answer.events]


def calls_of(answer: Answer) -> list[tuple[str, str, str]]:
    calls = [event.function_call for event in answer.events if event.function_call]
    return [(call.call_id, call.name, call.arguments) for call in calls]


def outputs_of(answer: Answer) -> list[tuple[str, str, bool]]:
    outputs = [event.function_call_output for event in answer.events if event.function_call_output]
    return [(output.call_id, output.output, output.is_error) for output in outputs]


# --- the store's contract -----------------------------------------------------------------------


def said(text: str) -> ModelMessage:
    return ModelResponse(parts=[TextPart(text)], timestamp=EPOCH)


def texts(conversation: Conversation | None) -> list[str]:
    assert conversation is not None
    return [str(message.parts[0].content) for message in conversation.messages]  # type: ignore[union-attr]  # all are texts


async def in_a_turn(scenario: Callable[[Turn], Awaitable[None]]) -> Answer:
    worker = Worker("scenario")

    @worker.on_message
    async def reply(turn: Turn) -> None:
        await scenario(turn)

    async with satchel.testing.session(worker) as session:
        return await session.send("go")


StoreTest = Callable[[ConversationStore], Awaitable[None]]


@pytest.fixture(params=["theirs", "ours"])
def run_on_store(request: pytest.FixtureRequest) -> Callable[[StoreTest], Awaitable[object]]:
    """Each expectation is held against the framework's own store, too: else it would be only our reading."""

    async def run(test: StoreTest) -> object:
        if request.param == "theirs":
            return await test(InMemoryConversationStore())
        return await in_a_turn(lambda turn: test(SatchelConversations(turn)))

    return run


async def test_a_conversation_is_loaded_as_it_was_saved(run_on_store):
    """What `message_history=` would drop comes back, too: usage, and the calls a paused run waits for."""

    async def test(store: ConversationStore) -> None:
        waiting = DeferredToolRequests(approvals=[ToolCallPart("pay", {"room": "blue"}, tool_call_id="c1")])
        saved = Conversation(
            conversation_id="a",
            messages=[said("one"), said("two")],
            usage=RunUsage(requests=3, tool_calls=1, details={"seen": 2}),
            deferred_tool_requests=waiting,
        )
        assert await store.load("a") is None

        entries = await store.save(saved)
        loaded = await store.load("a")

        assert [entry.message for entry in entries] == saved.messages
        assert [entry.parent_id for entry in entries] == [None, entries[0].id]
        assert loaded == saved
        assert await store.load_entries("a") == entries

    await run_on_store(test)


async def test_a_save_stores_only_what_is_new(run_on_store):
    async def test(store: ConversationStore) -> None:
        conversation = Conversation(conversation_id="a", messages=[said("one")])
        await store.save(conversation)
        conversation.messages.append(said("two"))

        entries = await store.save(conversation)

        assert [entry.message for entry in entries] == [said("two")]
        assert await store.save(conversation) == []
        assert texts(await store.load("a")) == ["one", "two"]

    await run_on_store(test)


async def test_a_window_is_saved_to_the_whole(run_on_store):
    """A run that was shown the last messages must not cut the others off."""

    async def test(store: ConversationStore) -> None:
        await store.save(Conversation(conversation_id="a", messages=[said("one"), said("two"), said("three")]))
        window = await store.load("a", limit=2)
        assert texts(window) == ["two", "three"]
        assert texts(await store.load("a", limit=0)) == []
        window.messages.append(said("four"))

        await store.save(window)

        assert texts(await store.load("a")) == ["one", "two", "three", "four"]
        with pytest.raises(UserError):
            await store.load("a", limit=-1)

    await run_on_store(test)


async def test_a_stale_save_is_a_conflict(run_on_store):
    """Two tasks of one handler: the second must load again, and nothing of it is kept."""

    async def test(store: ConversationStore) -> None:
        await store.save(Conversation(conversation_id="a", messages=[said("one")]))
        first, second = await store.load("a"), await store.load("a")
        first.messages.append(said("first"))
        await store.save(first)
        second.messages.append(said("second"))

        with pytest.raises(ConversationConflict):
            await store.save(second)
        with pytest.raises(ConversationConflict):
            await store.save(Conversation(conversation_id="a"))
        await store.delete("a")
        with pytest.raises(ConversationConflict):
            await store.save(first)
        with pytest.raises(ConversationConflict):
            await store.delete_record("a", expected_revision="x")
        assert await store.load("a") is None

    await run_on_store(test)


async def test_a_record_on_messages_that_are_gone_is_a_conflict(run_on_store):
    async def test(store: ConversationStore) -> None:
        with pytest.raises(ConversationConflict):
            await store.write_record(ConversationRecord(conversation_id="a", head_id="gone"), expected_revision=None)

        assert await store.list_conversations() == []
        with pytest.raises(LookupError):
            await store.read_entry("gone")
        with pytest.raises(LookupError):
            await store.read_history("gone")
        assert await store.read_history(None) == []

    await run_on_store(test)


async def test_a_conversation_goes_back_and_forth_between_its_branches(run_on_store):
    """Regenerating an answer leaves the old one stored, in order, for as long as it is a branch."""

    async def test(store: ConversationStore) -> None:
        conversation = Conversation(conversation_id="a", messages=[said("one"), said("old")])
        entries = await store.save(conversation)
        branched = await store.branch("a", at=1, expected_revision=conversation.revision)
        branched.messages.append(said("new"))
        (new,) = await store.save(branched)
        assert texts(await store.load("a")) == ["one", "new"]
        assert (await store.read_record("a")).branches == [entries[1].id]

        back = await store.branch("a", from_entry=entries[1].id, expected_revision=branched.revision)

        assert texts(back) == texts(await store.load("a")) == ["one", "old"]
        assert (await store.read_record("a")).branches == [new.id]
        emptied = await store.branch("a", at=0, expected_revision=back.revision)
        assert texts(emptied) == texts(await store.load("a")) == []
        assert (await store.read_record("a")).branches == [new.id, entries[1].id]
        again = await store.branch("a", from_entry=new.id, expected_revision=emptied.revision)
        assert texts(again) == ["one", "new"]
        assert (await store.read_record("a")).branches == [entries[1].id]

    await run_on_store(test)


async def test_a_rewritten_history_is_a_branch(run_on_store):
    async def test(store: ConversationStore) -> None:
        conversation = Conversation(conversation_id="a", messages=[said("one"), said("two"), said("three")])
        entries = await store.save(conversation)
        conversation.messages = [said("one"), said("summary")]

        (summary,) = await store.save(conversation)

        assert summary.parent_id == entries[0].id
        assert texts(await store.load("a")) == ["one", "summary"]
        assert (await store.read_record("a")).branches == [entries[2].id]

    await run_on_store(test)


async def test_a_fork_shares_the_messages_and_outlives_what_it_came_from(run_on_store):
    """Deleting one conversation deletes the messages that no other has, and those alone."""

    async def test(store: ConversationStore) -> None:
        conversation = Conversation(
            conversation_id="a", messages=[said("one"), said("two")], usage=RunUsage(requests=2)
        )
        one, two = await store.save(conversation)
        fork = await store.fork("a", at=1, new_conversation_id="b")
        fork.messages.append(said("other"))
        await store.save(fork)
        with pytest.raises(ConversationConflict):
            await store.fork("a", new_conversation_id="b")

        await store.delete("a")

        assert texts(await store.load("b")) == ["one", "other"]
        assert (await store.read_record("b")).forked_at == one.id
        with pytest.raises(LookupError):
            await store.read_entry(two.id)
        await store.delete("b")
        with pytest.raises(LookupError):
            await store.read_entry(one.id)

    await run_on_store(test)


async def test_a_branch_is_kept_when_another_conversation_is_deleted(run_on_store):
    async def test(store: ConversationStore) -> None:
        conversation = Conversation(conversation_id="a", messages=[said("one"), said("two")])
        _, two = await store.save(conversation)
        await store.branch("a", at=1, expected_revision=conversation.revision)
        await store.save(Conversation(conversation_id="b"))

        await store.delete("b")

        assert await store.read_entry(two.id) == two

    await run_on_store(test)


async def test_a_branch_is_one_row_however_many_there_were():
    """An answer that is made again for the hundredth time writes what the first time did."""
    worker = Worker("branches")

    @worker.on_message
    async def reply(turn: Turn) -> None:
        store = SatchelConversations(turn)
        name = "ab"[turn.version % 2]
        conversation = await store.load(name) or Conversation(conversation_id=name, messages=[said("one"), said("two")])
        if conversation.revision is not None:
            conversation = await store.branch(name, at=1, expected_revision=conversation.revision)
            conversation.messages.append(said(turn.text))
        await store.save(conversation)

    async with satchel.testing.session(worker) as session:
        answers = [await session.send(str(count)) for count in range(10)]

    assert all(answer.changed_rows["pydantic_ai_branch"] == (1, 0, 0) for answer in answers[2:])


async def test_a_deleted_conversations_branches_are_gone(run_on_store):
    async def test(store: ConversationStore) -> None:
        conversation = Conversation(conversation_id="a", messages=[said("one"), said("two")])
        entries = await store.save(conversation)
        await store.branch("a", at=1, expected_revision=conversation.revision)
        await store.delete("a")

        with pytest.raises(LookupError):
            await store.read_entry(entries[1].id)
        fresh = Conversation(conversation_id="a", messages=[said("three")])
        await store.save(fresh)
        assert (await store.read_record("a")).branches == []

    await run_on_store(test)


async def test_a_scope_keeps_conversations_apart(run_on_store):
    async def test(store: ConversationStore) -> None:
        for name, scope in (("a", "ada"), ("b", "bob"), ("c", "ada")):
            await store.save(Conversation(conversation_id=name, messages=[said(name)]), scope=scope)

        assert [record.conversation_id for record in await store.list_conversations(scope="ada")] == ["c", "a"]
        assert [record.conversation_id for record in await store.list_conversations(limit=2)] == ["c", "b"]
        assert await store.load("a", scope="bob") is None
        await store.delete("a", scope="bob")
        assert texts(await store.load("a", scope="ada")) == ["a"]

    await run_on_store(test)


async def test_every_field_of_a_record_is_kept(run_on_store):
    """A later release's fields are in the row's JSON without a change of ours."""

    async def test(store: ConversationStore) -> None:
        await store.save(Conversation(conversation_id="a", messages=[said("one")]))
        (entry,) = await store.load_entries("a")
        record = ConversationRecord(
            conversation_id="b", head_id=entry.id, usage=RunUsage(requests=1), scope="s",
            deferred_tool_requests=DeferredToolRequests(), forked_from="a", forked_at=entry.id, branches=[entry.id],
            revision="r", updated_at=EPOCH,
        )  # fmt: skip

        await store.write_record(record, expected_revision=None)

        assert await store.read_record("b") == record
        assert all(
            getattr(record, field.name) != field.default
            for field in dataclasses.fields(record)
            if field.name != "format_version"
        )

    await run_on_store(test)


async def test_a_missing_framework_is_named_with_its_extra():
    """An ImportError from deep inside says nothing of what to install."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys; sys.modules['pydantic_ai'] = None; import satchel.adapters.pydantic_ai",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await child.communicate()

    assert b"pip install 'satchel[pydantic-ai]'" in errors.splitlines()[-1]


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


PARTS = """
SELECT json_extract(part.value, '$.part_kind'), json_extract(part.value, '$.tool_call_id')
FROM pydantic_ai_message AS m, json_each(m.message, '$.parts') AS part ORDER BY m.position, part.key
"""


@pytest.mark.asyncio(loop_scope="module")
async def test_a_run_is_streamed_and_continued(hub: Fleet):
    """Tokens, the call, its output; and the next turn knows them, wherever it runs."""
    first = await hub.send("ada", "price blue", agent="clerk")
    second = await hub.send("ada", "price red", agent="clerk")

    assert [event["type"] for event in first] == [
        "accepted", "text_delta", "message", "function_call", "function_call_output",
        "text_delta", "text_delta", "message", "complete",
    ]  # fmt: skip
    assert texts_of(first) == ["Let me see.", "It gave 80. I see 3 messages."]
    assert texts_of(second) == ["Let me see.", "It gave 80. I see 7 messages."]
    assert turn_of(second)["changed_rows"]["pydantic_ai_message"] == [4, 0, 0]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_failed_run_leaves_nothing(hub: Fleet):
    """Not the user's message, not the call without an output, not the tool's own row."""
    await hub.send("bob", "price blue", agent="clerk")
    failed = await hub.post("bob", "price none", agent="clerk")
    after = await hub.send("bob", "price red", agent="clerk")

    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "TEXT_HANDLER_ERROR")
    assert "secret" not in failed.text
    assert texts_of(after)[-1] == "It gave 80. I see 7 messages."
    assert await rows(hub, "bob", 2, "SELECT room FROM note") == [("blue",), ("red",)]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_message_sent_twice_is_one_run(hub: Fleet):
    first = await hub.post("cleo", "price blue", agent="clerk", message_id="m1")
    again = await hub.post("cleo", "price blue", agent="clerk", message_id="m1")

    assert first.json() == again.json()
    assert await rows(hub, "cleo", 1, "SELECT count(*) FROM pydantic_ai_message") == [(4,)]


@pytest.mark.asyncio(loop_scope="module")
async def test_another_session_sees_nothing(hub: Fleet):
    await hub.send("dora", "price blue", agent="clerk")

    assert texts_of(await hub.send("emil", "price blue", agent="clerk"))[-1] == "It gave 80. I see 3 messages."


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("answer", "gave"), [("yes", "a receipt for blue"), ("no", "The tool call was denied.")])
async def test_a_call_waits_for_approval_until_another_turn(hub: Fleet, answer: str, gave: str):
    """The paused run is a row: the next turn, on whichever worker, answers it."""
    session = f"fritz-{answer}"
    asked = await hub.send(session, "pay blue", agent="cashier")
    assert [event["type"] for event in asked if event["type"] != "text_delta"] == [
        "accepted", "message", "function_call", "message", "complete",
    ]  # fmt: skip
    assert texts_of(asked)[-1] == "Shall I?"

    answered = await hub.send(session, answer, agent="cashier")

    (call,) = [event["function_call"] for event in answered if event["type"] == "function_call"]
    (output,) = [event["function_call_output"] for event in answered if event["type"] == "function_call_output"]
    assert call["call_id"] == output["call_id"] == "call_1"
    assert output["output"] == gave
    assert texts_of(answered) == [f"It gave {gave}. I see 3 messages."]
    assert await rows(hub, session, 2, PARTS) == [
        ("user-prompt", None), ("text", None), ("tool-call", "call_1"), ("tool-return", "call_1"), ("text", None),
    ]  # fmt: skip


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worker_killed_in_a_tool_leaves_no_call_and_no_doubled_message(hub: Fleet):
    """The call was streamed and its row written; the retry begins from the last committed turn."""
    before = await hub.send("gwen", "pid x", agent="clerk")
    pid = int(texts_of(before)[-1].split()[2].strip("x."))
    reader = asyncio.create_task(hub.send("gwen", "wait blue", agent="clerk", message_id="m1"))
    await hub.started("m1")
    await hub.kill_worker(pid)
    await hub.started("m1", attempt=2)
    hub.open_gate("m1")
    events = await reader

    kept = [event["type"] for event in events if event["type"] != "text_delta"]
    assert kept == [
        "accepted", "message", "function_call", "restarted",
        "message", "function_call", "function_call_output", "message", "complete",
    ]  # fmt: skip
    assert texts_of(events)[-1] == "It gave blue in attempt 2. I see 7 messages."
    assert await rows(hub, "gwen", 2, "SELECT room FROM note") == [("blue",)]
    assert await rows(hub, "gwen", 2, PARTS) == [
        ("user-prompt", None), ("text", None), ("tool-call", "call_1"), ("tool-return", "call_1"), ("text", None),
        ("user-prompt", None), ("text", None), ("tool-call", "call_5"), ("tool-return", "call_5"), ("text", None),
    ]  # fmt: skip
