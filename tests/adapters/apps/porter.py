"""Agents of the OpenAI Agents SDK whose model is a script; gates are files: a test decides when a tool goes on."""

import asyncio
import os
import pathlib
from typing import Any

from agents import Agent, RunConfig, RunContextWrapper, Runner, RunState, function_tool, set_tracing_disabled
from agents.testing import ModelCall, ModelStep, ScriptedModel, assistant_message, function_call

from satchel import Turn, Worker, current_turn
from satchel.adapters.openai_agents import SatchelSession

set_tracing_disabled(disabled=True)

GATES = pathlib.Path(os.environ.get("PROBE_GATES", "."))
SCHEMA = "CREATE TABLE note (id INTEGER PRIMARY KEY, room TEXT NOT NULL) STRICT;"
porter = Worker("porter", schema=SCHEMA)
cashier = Worker("cashier", schema=SCHEMA)


def answer(call: ModelCall) -> list[Any]:
    """Call the tool that the user's message names; then say what it gave, and how many items there are."""
    last, count = call.input[-1], len(call.input)
    if last.get("role") != "user":
        return [assistant_message(f"It gave {last['output']}. I see {count} items.", item_id=f"msg_{count}")]
    tool, _, room = last["content"].partition(" ")
    said = assistant_message("Let me see.", item_id=f"msg_{count}")
    return [said, function_call(tool, {"room": room}, call_id=f"call_{count}")]


def script() -> RunConfig:
    """Return a model for one turn, which asks it twice."""
    return RunConfig(model=ScriptedModel([ModelStep.respond(answer)] * 2))


@function_tool
def price(context: RunContextWrapper[Turn], room: str) -> int:
    """Tell the price; in a thread of its own, as the SDK runs plain functions."""
    context.context.state.execute("INSERT INTO note (room) VALUES (?)", (room,))
    if room == "none":
        raise ValueError("a secret that callers must not see")
    return 80


@function_tool(failure_error_function=None)
def charge(context: RunContextWrapper[Turn], room: str) -> str:
    """Fail, and the run with it."""
    context.context.state.execute("INSERT INTO note (room) VALUES (?)", (room,))
    raise ValueError("a secret that callers must not see")


@function_tool
async def wait(context: RunContextWrapper[Turn], room: str) -> str:
    """Wait for the gate."""
    turn = context.context
    turn.state.execute("INSERT INTO note (room) VALUES (?)", (room,))
    (GATES / f"{turn.message_id}.started.{turn.attempt}").touch()
    try:
        while not (GATES / f"{turn.message_id}.go").exists():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        (GATES / f"{turn.message_id}.cancelled").touch()
        raise
    return f"{room} in attempt {turn.attempt}"


@function_tool
def pid(room: str) -> str:
    """Tell which process this is."""
    return f"{room}{os.getpid()}"


@function_tool(needs_approval=True)
def pay(room: str) -> str:
    """Pay, once somebody has approved."""
    current_turn().state.execute("INSERT INTO note (room) VALUES (?)", (room,))
    return f"a receipt for {room}"


agent = Agent[Turn]("Porter", tools=[price, charge, wait, pid, pay])


@porter.on_message
async def reply(turn: Turn) -> None:
    session = SatchelSession(turn)
    result = Runner.run_streamed(agent, turn.text, context=turn, session=session, run_config=script())
    await session.stream(result)


@cashier.on_message
async def approve(turn: Turn) -> None:
    session = SatchelSession(turn)
    waiting = turn.state.pop("waiting", None)
    asked: str | RunState[Any, Agent[Any]] = turn.text
    if waiting:
        asked = await RunState.from_json(agent, waiting)
        for call in asked.get_interruptions():
            asked.approve(call) if turn.text == "yes" else asked.reject(call)
    result = Runner.run_streamed(agent, asked, session=session, run_config=script())
    await session.stream(result)
    if result.interruptions:
        turn.state["waiting"] = result.to_state().to_json()
        await turn.say("Shall I?")
