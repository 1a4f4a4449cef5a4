"""LangGraph's savers: one ``invoke`` a turn of a graph with one node, durability as by default.

The messages are in a list, as its documentation says: in the default channel, with
``add_messages``, or in the beta ``DeltaChannel``, with the reducer that LangGraph has for it.
"""

import contextlib
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import _messages_delta_reducer, add_messages

from benchmarks.peers.conversation import Item
from benchmarks.peers.peer import LocalPeer


class Default(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class Delta(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(_messages_delta_reducer)]


class Graph:
    """What an application does in a turn, whatever keeps the checkpoints."""

    channel: type = Default

    async def open(self) -> None:
        await super().open()  # type: ignore[misc]  # the other parent's
        self._saver, self._stack = self._opened()
        self._graph = self._compiled(self._saver)
        self._answer: list[AnyMessage] = []

    async def close(self) -> None:
        self._stack.close()
        await super().close()  # type: ignore[misc]  # the other parent's

    def _opened(self) -> tuple[BaseCheckpointSaver[str], contextlib.ExitStack]:
        stack = contextlib.ExitStack()
        return stack.enter_context(self.saver()), stack

    def _compiled(self, saver: BaseCheckpointSaver[str]) -> Any:
        builder: StateGraph[Any] = StateGraph(self.channel)
        builder.add_node("agent", lambda _state: {"messages": self._answer})
        builder.add_edge(START, "agent")
        builder.add_edge("agent", END)
        return builder.compile(checkpointer=saver)

    async def fill(self, session_id: str, items: Sequence[Item]) -> None:
        """Fill by one ``update_state``."""
        self._config = {"configurable": {"thread_id": session_id}}
        self._graph.update_state(self._config, {"messages": _messages(items)}, as_node="agent")

    async def turn(self, items: Sequence[Item]) -> None:
        message, *self._answer = _messages(items)
        self._graph.invoke({"messages": [message]}, self._config)

    async def cold_load(self) -> int:
        saver, stack = self._opened()
        with stack:
            return len(self._compiled(saver).get_state(self._config).values["messages"])

    def saver(self) -> contextlib.AbstractContextManager[BaseCheckpointSaver[str]]:
        raise NotImplementedError


class LangGraphSqlite(Graph, LocalPeer):
    """``SqliteSaver``, default channel."""

    def saver(self) -> contextlib.AbstractContextManager[BaseCheckpointSaver[str]]:
        return SqliteSaver.from_conn_string(str(self.folder / "checkpoints.db"))


class LangGraphSqliteDelta(LangGraphSqlite):
    """``SqliteSaver``, delta channel."""

    channel = Delta


def _messages(items: Sequence[Item]) -> list[AnyMessage]:
    return [_message(item) for item in items]


def _message(item: Item) -> AnyMessage:
    item_id = str(uuid.uuid4())  # as add_messages gives one
    match item.kind:
        case "user":
            return HumanMessage(item.text, id=item_id)
        case "assistant":
            return AIMessage(item.text, id=item_id)
        case "call":
            call = {"name": "look_up", "args": {"query": item.text}, "id": item.call_id}
            return AIMessage("", tool_calls=[call], id=item_id)
        case "output":
            return ToolMessage(item.text, tool_call_id=item.call_id, name="look_up", id=item_id)
