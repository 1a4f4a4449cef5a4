"""The OpenAI Agents SDK's sessions in a session: what a turn costs, what the SDK expects, what a crash leaves."""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner, SessionSettings, SQLiteSession, set_tracing_disabled
from agents.testing import ModelCall, ModelStep, ScriptedModel, assistant_message

import satchel.testing
from satchel import Turn, Worker
from satchel.adapters.openai_agents import SatchelSession
from satchel.client.model import Answer

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
        session = SatchelSession(turn, session_settings=SHOWN)
        result = Runner.run_streamed(agent, turn.text, session=session, run_config=say_the_count(turn.version))
        await session.stream(result)

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
