"""An agent of the OpenAI Agents SDK: satchel dev examples/openai_agents.py (OPENAI_MODEL names a real model)."""

import os

from agents import Agent, RunContextWrapper, Runner, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from satchel import Turn, Worker
from satchel.adapters.openai_agents import SatchelSession

worker = Worker("openai_agents", schema="CREATE TABLE booking (id INTEGER PRIMARY KEY, guest TEXT) STRICT;")


@function_tool
def book(context: RunContextWrapper[Turn], guest: str) -> str:
    context.context.state.execute("INSERT INTO booking (guest) VALUES (?)", (guest,))
    return f"Booked a room for {guest}."


@worker.on_message
async def reply(turn: Turn) -> None:
    script = [[function_call("book", {"guest": turn.text}, call_id=turn.message_id)], [assistant_message("Done.")]]
    agent = Agent("Porter", tools=[book], model=os.environ.get("OPENAI_MODEL") or ScriptedModel(script))
    session = SatchelSession(turn)
    await session.stream(Runner.run_streamed(agent, turn.text, context=turn, session=session))
