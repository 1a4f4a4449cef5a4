"""Agents of Pydantic AI whose model is a script; gates are files, so that a test decides when a tool goes on."""

import asyncio
import os
import pathlib
from collections.abc import AsyncIterator

from pydantic_ai import Agent, Conversation, DeferredToolRequests, ModelRetry, RunContext, UsageLimits
from pydantic_ai.messages import ModelMessage, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from satchel import Turn, Worker
from satchel.adapters.pydantic_ai import SatchelConversations, SatchelMessages

GATES = pathlib.Path(os.environ.get("PROBE_GATES", "."))


async def script(messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
    """Call the tool that the user's message names; then say what it gave, and how many messages there are."""
    last = messages[-1].parts[-1]
    if isinstance(last, ToolReturnPart):
        yield f"It gave {last.content}."
        yield f" I see {len(messages)} messages."
    elif isinstance(last, UserPromptPart):
        assert isinstance(last.content, str)
        tool, _, room = last.content.partition(" ")
        yield "Let me see."
        yield {0: DeltaToolCall(name=tool, json_args=f'{{"room": "{room}"}}', tool_call_id=f"call_{len(messages)}")}


agent = Agent(FunctionModel(stream_function=script), deps_type=Turn)
SCHEMA = "CREATE TABLE note (id INTEGER PRIMARY KEY, room TEXT NOT NULL) STRICT;"
clerk = Worker("clerk", schema=SCHEMA)
cashier = Worker("cashier")


@agent.tool
def price(ctx: RunContext[Turn], room: str) -> int:
    ctx.deps.state.execute("INSERT INTO note (room) VALUES (?)", (room,))
    if room == "none":
        raise ValueError("a secret that callers must not see")
    if room == "wrong":
        raise ModelRetry("There is no such room.")
    return 80


@agent.tool
async def wait(ctx: RunContext[Turn], room: str) -> str:
    ctx.deps.state.execute("INSERT INTO note (room) VALUES (?)", (room,))
    (GATES / f"{ctx.deps.message_id}.started.{ctx.deps.attempt}").touch()
    while not (GATES / f"{ctx.deps.message_id}.go").exists():
        await asyncio.sleep(0.01)
    return f"{room} in attempt {ctx.deps.attempt}"


@agent.tool_plain
def pid(room: str) -> str:
    return f"{room}{os.getpid()}"


@agent.tool_plain(requires_approval=True)
def pay(room: str) -> str:
    return f"a receipt for {room}"


@clerk.on_message
async def answer(turn: Turn) -> None:
    messages = SatchelMessages(turn)
    result = await agent.run(turn.text, deps=turn, message_history=messages.all(), event_stream_handler=messages.stream)
    messages.add(result.new_messages())


@cashier.on_message
async def approve(turn: Turn) -> None:
    store = SatchelConversations(turn)
    conversation = await store.load(turn.session_id) or Conversation(conversation_id=turn.session_id)
    waiting = conversation.deferred_tool_requests
    approvals = {call.tool_call_id: turn.text == "yes" for call in waiting.approvals} if waiting else {}
    result = await agent.run(
        None if waiting else turn.text,
        deps=turn,
        conversation=conversation,
        deferred_tool_results=waiting and waiting.build_results(approvals=approvals),
        output_type=[str, DeferredToolRequests],
        event_stream_handler=store.stream,
        usage_limits=UsageLimits(request_limit=None),
    )
    await store.save(result)
    if isinstance(result.output, DeferredToolRequests):
        await turn.say("Shall I?")
