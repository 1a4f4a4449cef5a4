"""An agent of Pydantic AI: satchel dev examples/pydantic_ai_agent.py (PYDANTIC_AI_MODEL names a real model)."""

import os

from pydantic_ai import Agent, RunContext

from satchel import Turn, Worker
from satchel.adapters.pydantic_ai import SatchelMessages

worker = Worker("pydantic_ai_agent", schema="CREATE TABLE booking (id INTEGER PRIMARY KEY, guest TEXT) STRICT;")
agent = Agent(os.environ.get("PYDANTIC_AI_MODEL", "test"), deps_type=Turn, instructions="You book rooms.")


@agent.tool
def book(ctx: RunContext[Turn], guest: str) -> str:
    ctx.deps.state.execute("INSERT INTO booking (guest) VALUES (?)", (guest,))
    return f"Booked a room for {guest}."


@worker.on_message
async def reply(turn: Turn) -> None:
    messages = SatchelMessages(turn)
    result = await agent.run(turn.text, deps=turn, message_history=messages.all(), event_stream_handler=messages.stream)
    messages.add(result.new_messages())
