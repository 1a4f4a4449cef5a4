"""The OpenAI Agents SDK's sessions in a session's state, one row per item, its runs streamed into the turn.

    session = SatchelSession(turn)
    result = Runner.run_streamed(agent, turn.text, session=session)
    await session.stream(result)

Stored is ``openai_agents_item``: an item of the conversation as the SDK's own JSON, in order.
"""

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final, cast

from satchel.errors import StateMisused
from satchel.state.values import Rows
from satchel.worker.context import Turn

try:
    from agents import (
        AgentUpdatedStreamEvent,
        HandoffOutputItem,
        ItemHelpers,
        MessageOutputItem,
        RawResponsesStreamEvent,
        RunItemStreamEvent,
        RunResultStreaming,
        Session,
        SessionSettings,
        StreamEvent,
        ToolCallItem,
        ToolCallOutputItem,
        TResponseInputItem,
    )
    from openai.types.responses import ResponseOutputItem, ResponseOutputItemDoneEvent, ResponseTextDeltaEvent
except ImportError as error:
    raise ImportError(
        "This adapter needs the OpenAI Agents SDK 0.24 or later: pip install 'satchel[openai-agents]'."
    ) from error

__all__ = ["SatchelSession"]

_TABLE: Final = """
CREATE TABLE openai_agents_item (
    position INTEGER PRIMARY KEY,
    item TEXT NOT NULL
) STRICT
"""
_HAS_TABLE: Final = "SELECT 1 FROM sqlite_schema WHERE name = 'openai_agents_item'"

_READ_LAST: Final = """
SELECT item FROM (SELECT position, item FROM openai_agents_item ORDER BY position DESC LIMIT ?) ORDER BY position
"""
_WRITE: Final = "INSERT INTO openai_agents_item (item) VALUES (?)"
_POP: Final = """
DELETE FROM openai_agents_item WHERE position = (SELECT max(position) FROM openai_agents_item) RETURNING item
"""
_CLEAR: Final = "DELETE FROM openai_agents_item"

_ALL: Final = -1
"""SQLite's LIMIT for every row."""

_PROVIDERS_TOOLS: Final = frozenset(
    {"code_interpreter_call", "file_search_call", "image_generation_call", "mcp_call", "web_search_call"}
)
"""Items of a response that are a call and what it gave in one; every other call has an output of its own later."""

_INPUTS: Final = ("action", "actions", "code", "input", "operation", "queries")
"""Where a call that has no ``arguments`` says what it asks for."""


class SatchelSession(Session):
    """The SDK's ``Session`` in a session's state: valid while the handler of *turn* runs.

    Pass it as ``session=`` to ``Runner.run``, ``run_sync`` or ``run_streamed``. It is all or
    nothing with the turn. *session_settings* bounds what a run is shown
    (``SessionSettings(limit=40)``), never what is kept.
    """

    def __init__(self, turn: Turn[Any], *, session_settings: SessionSettings | None = None) -> None:
        self.session_id: str = turn.session_id
        self.session_settings: SessionSettings | None = session_settings or SessionSettings()
        self._turn = turn

    async def stream(self, result: RunResultStreaming) -> None:
        """Say a run's text as it comes, and emit its tool calls, their outputs and its hand-offs, to its end.

        The text is said then: do not return it from the handler, too. What an agent with an
        ``output_type`` writes is not text, and nothing is said of it: say what you make of
        ``result.final_output``. Raises what the run raised; a call that it left without an output
        gets the exception's class alone, with ``is_error``. If the handler stops, so does the run.
        """
        await _Run(self._turn, result).stream()

    # --- the SDK's protocol ------------------------------------------------------------------

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the newest *limit* items, oldest first; without it as many as the settings say, or all."""
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        return _items(self._run(_READ_LAST, _ALL if limit is None else limit))

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Store *items* at the end, all or none. Raises ``StateMisused`` for what is not JSON."""
        for text in [_json(item) for item in items]:
            self._run(_WRITE, text)

    async def pop_item(self) -> TResponseInputItem | None:
        """Delete the newest item and return it; None if there is none."""
        popped = _items(self._run(_POP))
        return popped[0] if popped else None

    async def clear_session(self) -> None:
        """Delete every item. What is added again at its old place afterwards costs the turn nothing."""
        self._run(_CLEAR)

    def _run(self, sql: str, *params: Any) -> Rows:
        if not self._turn.state.execute(_HAS_TABLE):
            self._turn.state.execute(_TABLE)
        return self._turn.state.execute(sql, params)


def _json(item: TResponseInputItem) -> str:
    try:
        text = json.dumps(item, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError) as error:
        raise StateMisused(
            f"An item of the conversation is not JSON: {error}", hint="Have tools return text, or JSON as text."
        ) from error
    return text


def _items(rows: Rows) -> list[TResponseInputItem]:
    """Parse the items of *rows* at once, which is the fast way."""
    items: list[TResponseInputItem] = json.loads("[" + ",".join(row["item"] for row in rows) + "]")
    return items


class _Run:
    """One streamed run, put into the turn's events."""

    def __init__(self, turn: Turn[Any], result: RunResultStreaming) -> None:
        self._turn = turn
        self._result = result
        # It is a generator, which has to be closed; the SDK declares only what it yields.
        self._events = cast("AsyncGenerator[StreamEvent, None]", result.stream_events())
        self._after_text: StreamEvent | None = None
        self._is_text = True
        self._open_calls: set[str] = set()
        self._streamed_ids: set[str] = set()
        self._last_said: str | None = None

    async def stream(self) -> None:
        async with contextlib.aclosing(self._events):
            try:
                while (event := await self._next()) is not None:
                    await self._take(event)
            except BaseException as error:
                self._result.cancel()  # else closing would wait for the run's own end
                self._fail_open_calls(error)
                raise
        output = self._result.final_output
        if isinstance(output, str) and output and output != self._last_said:
            await self._turn.say(output)  # of a tool or an error handler, which no message has

    async def _next(self) -> StreamEvent | None:
        event, self._after_text = self._after_text, None
        return event or await anext(self._events, None)

    async def _take(self, event: StreamEvent) -> None:
        match event:
            case AgentUpdatedStreamEvent(new_agent=agent):
                self._is_text = agent.output_type in {None, str}
            case RawResponsesStreamEvent(data=ResponseTextDeltaEvent() as delta) if delta.delta and self._is_text:
                self._streamed_ids.add(delta.item_id)
                self._last_said = await self._turn.say(self._pieces(delta))
            case RawResponsesStreamEvent(data=ResponseOutputItemDoneEvent(item=item)):
                self._emit_providers_call(item)
            case RunItemStreamEvent(item=MessageOutputItem() as message):
                await self._say_whole(message)
            case RunItemStreamEvent(item=ToolCallItem() as call):
                self._emit_call(call)
            case RunItemStreamEvent(item=ToolCallOutputItem() as output):
                self._emit_output(output)
            case RunItemStreamEvent(item=HandoffOutputItem() as handed):
                self._turn.hand_off(handed.target_agent.name, old_agent=handed.source_agent.name)
            case _:
                pass  # reasoning, pieces of calls, and what is between the SDK and the model

    async def _pieces(self, first: ResponseTextDeltaEvent) -> AsyncIterator[str]:
        """Yield *first* and what follows it in its message, whatever the provider sends in between."""
        yield first.delta
        async for event in self._events:
            match event:
                case RawResponsesStreamEvent(data=ResponseTextDeltaEvent(output_index=index) as delta) if (
                    index == first.output_index
                ):
                    yield delta.delta
                case RawResponsesStreamEvent(data=data) if not isinstance(
                    data, ResponseTextDeltaEvent | ResponseOutputItemDoneEvent
                ):
                    pass
                case _:
                    self._after_text = event
                    return

    async def _say_whole(self, message: MessageOutputItem) -> None:
        """Say a message that did not come in pieces: of a model that does not stream, or of an error handler."""
        text = ItemHelpers.text_message_output(message)
        if message.raw_item.id in self._streamed_ids:
            self._streamed_ids.discard(message.raw_item.id)  # some providers give every message the same ID
        elif text and self._is_text:
            self._last_said = await self._turn.say(text)

    def _emit_call(self, call: ToolCallItem) -> None:
        raw = _fields(call.raw_item)
        if raw["type"] not in _PROVIDERS_TOOLS and call.call_id is not None:
            self._turn.function_call(call.tool_name or raw["type"], _arguments(raw), call_id=call.call_id)
            self._open_calls.add(call.call_id)

    def _emit_output(self, output: ToolCallOutputItem) -> None:
        raw, call_id = _fields(output.raw_item), output.call_id
        if call_id is not None:
            self._open_calls.discard(call_id)
            given = raw["result"] if raw["type"] == "program_output" else raw["output"]
            self._turn.function_call_output(call_id, _output_text(given), name=self._tool_name(call_id))

    def _tool_name(self, call_id: str) -> str | None:
        """Return the name of the run's call *call_id*; if it had to be approved, an earlier turn emitted it."""
        calls = (item for item in self._result.new_items if isinstance(item, ToolCallItem) and item.call_id == call_id)
        return next((call.tool_name or _fields(call.raw_item)["type"] for call in calls), None)

    def _emit_providers_call(self, item: ResponseOutputItem) -> None:
        """Emit a call that the provider made and answered; what it found is the model's, and may be large."""
        if item.type not in _PROVIDERS_TOOLS:
            return
        raw = _fields(item)
        call_id = self._turn.function_call(raw.get("name") or raw["type"], _arguments(raw), call_id=raw["id"])
        fault = raw.get("error")
        output = _output_text(fault or raw.get("output") or raw.get("status") or "")
        self._turn.function_call_output(call_id, output, is_error=fault is not None)

    def _fail_open_calls(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            raised = type(error.__cause__ or error).__name__  # the SDK wraps what a tool raised
            for call_id in sorted(self._open_calls):
                self._turn.function_call_output(call_id, raised, is_error=True)
            self._open_calls.clear()


def _fields(raw_item: Any) -> dict[str, Any]:
    """Return an item of whichever of the SDK's many types as JSON has it."""
    fields: dict[str, Any] = raw_item if isinstance(raw_item, dict) else raw_item.model_dump(exclude_unset=True)
    return fields


def _arguments(raw: dict[str, Any]) -> str | dict[str, Any]:
    arguments = raw.get("arguments")
    return arguments if isinstance(arguments, str) else {name: raw[name] for name in _INPUTS if name in raw}


def _output_text(output: Any) -> str:
    """Return text as it is, anything else as JSON with its pictures and files cut off: an event is small."""
    return output if isinstance(output, str) else json.dumps(_without_data(output), ensure_ascii=False)


def _without_data(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("data:"):
        return value.partition(",")[0]
    if isinstance(value, list):
        return [_without_data(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _without_data(entry) for name, entry in value.items()}
    return value
