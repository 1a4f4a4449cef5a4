"""An agent of LangGraph whose model is a script; gates are files, so that a test decides when a tool goes on."""

import asyncio
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt

from satchel import Turn, Worker, current_turn
from satchel.adapters.langgraph import SatchelSaver

GATES = pathlib.Path(os.environ.get("PROBE_GATES", "."))


class Script(BaseChatModel):
    """Calls the tool that the user's message names; then says what it gave, and how many messages there are."""

    @property
    def _llm_type(self) -> str:
        return "script"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return generate_from_stream(self._stream(messages, *args, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002  # LangChain's shape
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ARG002  # the same
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in answer(messages):
            generation = ChatGenerationChunk(message=chunk)
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=generation)
            yield generation


def answer(messages: list[BaseMessage]) -> Iterator[AIMessageChunk]:
    last = messages[-1]
    if isinstance(last, ToolMessage):
        yield AIMessageChunk(f"It gave {last.text}.")
        yield AIMessageChunk(f" I see {len(messages)} messages.")
    else:
        name, _, room = last.text.partition(" ")
        yield AIMessageChunk("Let me see.")
        calls = [
            {"name": name, "args": f'{{"room": "{each}"}}', "id": f"call_{len(messages)}_{each}", "index": index}
            for index, each in enumerate(room.split(","))
        ]
        yield AIMessageChunk("", tool_call_chunks=calls)


@tool
def price(room: str) -> str:
    """Return the price of a room."""
    current_turn().state.execute("INSERT INTO note (room) VALUES (?)", (room,))
    if room == "none":
        raise ValueError("a secret that callers must not see")
    return "80"


@tool
def pid(room: str) -> str:
    """Return the process ID."""
    return f"{room}{os.getpid()}"


@tool
async def pay(room: str) -> str:
    """Pay for a room, if the user says so; then wait for the gate."""
    turn, said = current_turn(), interrupt(f"Shall I pay for {room}?")
    call_id = turn.function_call("pay", {"room": room})
    turn.state.execute("INSERT INTO note (room) VALUES (?)", (room,))
    (GATES / f"{turn.message_id}.started.{turn.attempt}").touch()
    while not (GATES / f"{turn.message_id}.go").exists():
        await asyncio.sleep(0.01)
    turn.function_call_output(call_id, said)
    return f"{said} in attempt {turn.attempt}"


tools = [price, pid, pay]


async def model(state: MessagesState) -> dict[str, list[BaseMessage]]:
    return {"messages": [await Script().ainvoke(state["messages"])]}


build = StateGraph(MessagesState).add_node(model).add_node(ToolNode(tools))
build.add_edge(START, "model").add_conditional_edges("model", tools_condition).add_edge("tools", "model")
graph = build.compile(checkpointer=SatchelSaver())
worker = Worker("surveyor", schema="CREATE TABLE note (id INTEGER PRIMARY KEY, room TEXT NOT NULL) STRICT;")


@worker.on_message
async def reply(turn: Turn) -> None:
    config: Any = {"configurable": {"thread_id": turn.session_id}}
    is_answer = (await graph.aget_state(config)).interrupts
    given: Any = Command(resume=turn.text) if is_answer else {"messages": [("user", turn.text)]}
    stream = graph.astream(given, config, stream_mode="messages")
    await turn.say(chunk.text async for chunk, _ in stream if isinstance(chunk, AIMessageChunk))
    for asked in (await graph.aget_state(config)).interrupts:
        await turn.say(asked.value)
