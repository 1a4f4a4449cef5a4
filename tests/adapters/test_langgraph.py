"""LangGraph's agents on real hubs and workers: streams, tools, errors, interrupts, and what a killed worker leaves."""

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from langchain_core.messages import AnyMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

import satchel.testing
from examples import langgraph_agent
from tests.acceptance.processes import Fleet, texts_of, turn_of
from tests.docs.pages import files

APP = str(Path(__file__).parent / "apps" / "surveyor.py")

MESSAGES = """
SELECT item.type, item.value FROM langgraph_list AS list JOIN langgraph_item AS item USING (list_id)
WHERE list.channel = 'messages' ORDER BY item.position
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """A hub and two workers for these tests; the one that kills a worker stands last."""
    running = Fleet(tmp_path_factory.mktemp("surveyors"))
    try:
        await running.start_hub()
        for _ in range(2):  # one by one: each imports LangGraph, which is seconds of CPU
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


async def messages(hub: Fleet, session: str, version: int) -> list[AnyMessage]:
    """Return every message that is stored, in its order."""
    serde = JsonPlusSerializer()
    return [serde.loads_typed(row) for row in await rows(hub, session, version, MESSAGES)]


async def test_the_example_asks_in_one_turn_and_books_in_the_next():
    """What the pages show: the question waits in the state, and the answer may come to another worker."""
    async with satchel.testing.session(langgraph_agent.worker) as session:
        texts = []
        for text in ("a room", "yes", "and another", "no"):
            texts.append((await session.send(text)).text)
            await session.restart()

    offer = "One room, two nights: 160 in all. Shall I book it?"
    assert texts == [offer, "Booked.", offer, "No."]
    text = Path(langgraph_agent.__file__).read_text()
    assert files("docs/howto/langgraph.md")["agent.py"] == text
    assert len(text.splitlines()) <= 25


@pytest.mark.asyncio(loop_scope="module")
async def test_a_run_is_streamed_and_continued(hub: Fleet):
    """Tokens as they come, several tools at once; and the next turn knows them, wherever it runs."""
    first = await hub.send("ada", "price blue,red", agent="surveyor")
    second = await hub.send("ada", "price green", agent="surveyor")

    assert [event["type"] for event in first] == [
        "accepted", "text_delta", "text_delta", "text_delta", "message", "complete",
    ]  # fmt: skip
    assert texts_of(first) == ["Let me see.It gave 80. I see 4 messages."]
    assert texts_of(second) == ["Let me see.It gave 80. I see 8 messages."]
    assert turn_of(second)["changed_rows"]["langgraph_item"] == [4, 0, 0]
    assert await rows(hub, "ada", 2, "SELECT room FROM note ORDER BY room") == [("blue",), ("green",), ("red",)]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_failed_run_leaves_nothing(hub: Fleet):
    """Not the user's message, not the call without an output, not the tool's own row, not half a super-step."""
    await hub.send("bob", "price blue", agent="surveyor")
    failed = await hub.post("bob", "price red,none", agent="surveyor")
    after = await hub.send("bob", "price red", agent="surveyor")

    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "TEXT_HANDLER_ERROR")
    assert "secret" not in failed.text
    assert texts_of(after) == ["Let me see.It gave 80. I see 7 messages."]
    assert await rows(hub, "bob", 2, "SELECT room FROM note") == [("blue",), ("red",)]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_message_sent_twice_is_one_run(hub: Fleet):
    first = await hub.post("cleo", "price blue", agent="surveyor", message_id="m1")
    again = await hub.post("cleo", "price blue", agent="surveyor", message_id="m1")

    assert first.json() == again.json()
    assert len(await messages(hub, "cleo", 1)) == 4


@pytest.mark.asyncio(loop_scope="module")
async def test_another_session_sees_nothing(hub: Fleet):
    """One saver, one compiled graph, many sessions."""
    await hub.send("dora", "price blue", agent="surveyor")

    assert texts_of(await hub.send("emil", "price blue", agent="surveyor")) == [
        "Let me see.It gave 80. I see 3 messages."
    ]


@pytest.mark.asyncio(loop_scope="module")
async def test_an_interrupt_is_answered_on_another_worker_when_the_first_is_killed_at_it(hub: Fleet):
    """The paused run is rows. A call was streamed and its row written when the worker died: neither is left."""
    told = await hub.send("gwen", "pid x", agent="surveyor")
    asked = await hub.send("gwen", "pay blue", agent="surveyor")
    reader = asyncio.create_task(hub.send("gwen", "yes", agent="surveyor", message_id="m1"))
    await hub.started("m1")
    await hub.kill_worker(int(re.findall(r"gave x(\d+)\.", texts_of(told)[0])[0]))
    await hub.started("m1", attempt=2)
    hub.open_gate("m1")
    answered = await reader

    assert texts_of(asked) == ["Let me see.", "Shall I pay for blue?"]
    assert [event["type"] for event in answered if event["type"] != "text_delta"] == [
        "accepted", "function_call", "restarted", "function_call", "function_call_output", "message", "complete",
    ]  # fmt: skip
    assert texts_of(answered) == ["It gave yes in attempt 2. I see 7 messages."]
    assert await rows(hub, "gwen", 3, "SELECT room FROM note") == [("blue",)]
    stored = await messages(hub, "gwen", 3)
    assert [message.type for message in stored] == ["human", "ai", "tool", "ai"] * 2
    calls = [call["id"] for message in stored for call in getattr(message, "tool_calls", [])]
    assert calls == [message.tool_call_id for message in stored if isinstance(message, ToolMessage)]
