"""Pydantic AI's conversations in a session's state, one row per message, its runs streamed into the turn.

    messages = SatchelMessages(turn)
    result = await agent.run(turn.text, message_history=messages.all(), event_stream_handler=messages.stream)
    messages.add(result.new_messages())

``SatchelConversations(turn)`` is Pydantic AI's ``ConversationStore`` on the same rows; it keeps usage and
deferred tool calls, too. Stored are ``pydantic_ai_message`` (a message), ``pydantic_ai_conversation`` (what else
a conversation carries) and ``pydantic_ai_branch`` (a history that was left), all as the framework's own JSON.
"""

import dataclasses
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import Any, Final

from satchel.state.values import Row, State
from satchel.worker.context import Turn

try:
    from pydantic import TypeAdapter
    from pydantic_ai import RunContext
    from pydantic_ai.conversation_store import (
        ConversationConflict,
        ConversationEntry,
        ConversationRecord,
        ConversationStore,
    )
    from pydantic_ai.messages import (
        ERROR_OUTCOMES,
        AgentStreamEvent,
        FinalResultEvent,
        FunctionToolCallEvent,
        FunctionToolResultEvent,
        ModelMessage,
        ModelMessagesTypeAdapter,
        NativeToolCallPart,
        NativeToolReturnPart,
        PartDeltaEvent,
        PartEndEvent,
        PartStartEvent,
        TextPart,
        TextPartDelta,
    )
except ImportError as error:
    raise ImportError("This adapter needs Pydantic AI 2.68 or later: pip install 'satchel[pydantic-ai]'.") from error

__all__ = ["SatchelConversations", "SatchelMessages"]

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS pydantic_ai_message (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    parent_id TEXT,
    message TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS pydantic_ai_branch (
    position INTEGER PRIMARY KEY,
    conversation_id TEXT NOT NULL,
    head_id TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS pydantic_ai_conversation (
    conversation_id TEXT NOT NULL PRIMARY KEY,
    head_id TEXT,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""
_HAS_TABLES: Final = "SELECT 1 FROM sqlite_schema WHERE name = 'pydantic_ai_conversation'"

_READ_RECORDS: Final = "SELECT conversation_id, head_id, record FROM pydantic_ai_conversation"
_READ_RECORD: Final = f"{_READ_RECORDS} WHERE conversation_id = ?"
_READ_BRANCHES: Final = "SELECT position, head_id FROM pydantic_ai_branch WHERE conversation_id = ? ORDER BY position"
_READ_MESSAGE: Final = "SELECT id, parent_id, message FROM pydantic_ai_message WHERE id = ?"
_READ_HISTORY: Final = """
WITH RECURSIVE line (position, parent_id) AS (
    SELECT position, parent_id FROM pydantic_ai_message WHERE id = ?
    UNION ALL
    SELECT m.position, m.parent_id FROM line JOIN pydantic_ai_message AS m ON m.id = line.parent_id
    LIMIT ?
)
SELECT m.id, m.parent_id, m.message FROM line JOIN pydantic_ai_message AS m USING (position) ORDER BY m.position
"""  # a message is always inserted after its parent

_WRITE_RECORD: Final = """
INSERT INTO pydantic_ai_conversation VALUES (?, ?, ?)
ON CONFLICT (conversation_id) DO UPDATE SET head_id = excluded.head_id, record = excluded.record
"""
_WRITE_BRANCH: Final = "INSERT INTO pydantic_ai_branch (conversation_id, head_id) VALUES (?, ?)"
_WRITE_MESSAGE: Final = "INSERT INTO pydantic_ai_message (id, parent_id, message) VALUES (?, ?, ?)"
_DELETE_RECORD: Final = "DELETE FROM pydantic_ai_conversation WHERE conversation_id = ?"
_DELETE_BRANCH: Final = "DELETE FROM pydantic_ai_branch WHERE position = ?"
_DELETE_UNREACHED: Final = """
WITH RECURSIVE reached (id) AS (
    SELECT head_id FROM pydantic_ai_conversation UNION SELECT head_id FROM pydantic_ai_branch
    UNION
    SELECT m.parent_id FROM reached JOIN pydantic_ai_message AS m USING (id)
)
DELETE FROM pydantic_ai_message WHERE id NOT IN (SELECT id FROM reached WHERE id IS NOT NULL)
"""

_RECORDS: Final = TypeAdapter(ConversationRecord)
_IN_COLUMNS: Final = {"conversation_id", "head_id", "branches"}


class SatchelMessages:
    """The messages of the session's conversation, for an agent that is run with ``message_history=``.

    They are the conversation that ``SatchelConversations`` has under the session's ID.
    """

    def __init__(self, turn: Turn[Any]) -> None:
        self._turn = turn
        self._rows = _Rows(turn.state)

    def all(self) -> list[ModelMessage]:
        """Return every message, oldest first."""
        return self._read(None)

    def last(self, count: int) -> list[ModelMessage]:
        """Return the newest *count* messages, oldest first; reading costs what is read.

        They may begin in the middle of a run, which Pydantic AI repairs before it asks the model.
        """
        return self._read(max(count, 0))

    def add(self, messages: Iterable[ModelMessage]) -> None:
        """Store *messages*, a run's ``new_messages()``, at the end; not idempotent: twice is two copies."""
        named = self._turn.session_id
        record = self._rows.record(named) or ConversationRecord(conversation_id=named, head_id=None)
        entries: list[ConversationEntry] = []
        for message in messages:
            entries.append(ConversationEntry(parent_id=entries[-1].id if entries else record.head_id, message=message))
        if entries:
            fresh = ConversationRecord(conversation_id=named, head_id=entries[-1].id)
            carried = dataclasses.replace(
                record, head_id=fresh.head_id, revision=fresh.revision, updated_at=fresh.updated_at
            )
            self._rows.write(carried, entries)

    async def stream(self, ctx: RunContext[Any], events: AsyncIterable[AgentStreamEvent]) -> None:  # noqa: ARG002  # the shape of an event_stream_handler
        """Say a run's text as it comes and emit its tool calls, as ``event_stream_handler=`` of the run.

        The text is said then: do not return it from the handler, too. A structured output
        is not text, and nothing is said of it. Of a tool's exception the output has the
        class alone, with ``is_error``.
        """
        await _stream(self._turn, events)

    def _read(self, limit: int | None) -> list[ModelMessage]:
        record = self._rows.record(self._turn.session_id)
        return [] if record is None else _messages(self._rows.history(record.head_id, limit))


class SatchelConversations(ConversationStore):
    """Pydantic AI's ``ConversationStore`` in a session's state: valid while the handler of *turn* runs.

        conversation = await store.load(turn.session_id) or Conversation(conversation_id=turn.session_id)
        result = await agent.run(turn.text, conversation=conversation, event_stream_handler=store.stream)
        await store.save(result)

    It knows the conversations of this session and no others, and is all or nothing with
    the turn. ``delete`` also deletes the messages that no conversation of the session uses.
    """

    def __init__(self, turn: Turn[Any]) -> None:
        self._turn = turn
        self._rows = _Rows(turn.state)

    async def stream(self, ctx: RunContext[Any], events: AsyncIterable[AgentStreamEvent]) -> None:  # noqa: ARG002  # the shape of an event_stream_handler
        """Say a run's text as it comes and emit its tool calls: as ``SatchelMessages.stream``."""
        await _stream(self._turn, events)

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        return self._rows.record(conversation_id)

    async def read_records(self, *, scope: str | None = None, limit: int | None = None) -> Sequence[ConversationRecord]:
        records = [record for record in self._rows.records() if scope is None or record.scope == scope]
        return sorted(records, key=lambda record: record.updated_at, reverse=True)[:limit]

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        self._check_revision(record.conversation_id, expected_revision)
        is_new = any(entry.id == record.head_id for entry in new_entries)
        if record.head_id is not None and not is_new and self._rows.message(record.head_id) is None:
            raise ConversationConflict(record.conversation_id)
        self._rows.write(record, new_entries)

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        self._check_revision(conversation_id, expected_revision)
        self._rows.delete(conversation_id)

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        row = self._rows.message(entry_id)
        if row is None:
            raise KeyError(entry_id)
        return _entries([row])[0]

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        return _entries(self._rows.history(head_id, limit))

    def _check_revision(self, conversation_id: str, expected: str | None) -> None:
        record = self._rows.record(conversation_id)
        if (None if record is None else record.revision) != expected:
            raise ConversationConflict(conversation_id)


class _Rows:
    """The three tables, made when the session has none."""

    def __init__(self, state: State) -> None:
        self._state = state
        if not state.execute(_HAS_TABLES):
            state.execute(_TABLES)

    def record(self, conversation_id: str) -> ConversationRecord | None:
        row = self._state.execute(_READ_RECORD, (conversation_id,)).first()
        return None if row is None else self._record(row)

    def records(self) -> list[ConversationRecord]:
        return [self._record(row) for row in self._state.execute(_READ_RECORDS)]

    def _record(self, row: Row) -> ConversationRecord:
        conversation_id, head_id, text = row
        branches = [branch["head_id"] for branch in self._state.execute(_READ_BRANCHES, (conversation_id,))]
        columns = {"conversation_id": conversation_id, "head_id": head_id, "branches": branches}
        return _RECORDS.validate_python({**json.loads(text), **columns})

    def history(self, head_id: str | None, limit: int | None) -> Sequence[Row]:
        """Return the rows of the messages up to *head_id*, oldest first. Raises ``LookupError`` if it is not there."""
        if head_id is None or limit == 0:
            return []
        rows = self._state.execute(_READ_HISTORY, (head_id, -1 if limit is None else limit))
        if not rows:
            raise LookupError(head_id)
        return rows

    def message(self, entry_id: str) -> Row | None:
        return self._state.execute(_READ_MESSAGE, (entry_id,)).first()

    def write(self, record: ConversationRecord, new_entries: Iterable[ConversationEntry]) -> None:
        """Write what is new: the messages, the branches that came or went, and the record."""
        for entry in new_entries:
            self._state.execute(_WRITE_MESSAGE, (entry.id, entry.parent_id, _message_json(entry.message)))
        self._write_branches(record)
        text = _RECORDS.dump_json(record, exclude=_IN_COLUMNS).decode()
        self._state.execute(_WRITE_RECORD, (record.conversation_id, record.head_id, text))

    def _write_branches(self, record: ConversationRecord) -> None:
        """Keep the rows that are still in order, drop the others, append the rest: a row per change, however many."""
        kept = 0
        for position, head_id in self._state.execute(_READ_BRANCHES, (record.conversation_id,)):
            if record.branches[kept : kept + 1] == [head_id]:
                kept += 1
            else:
                self._state.execute(_DELETE_BRANCH, (position,))
        for head_id in record.branches[kept:]:
            self._state.execute(_WRITE_BRANCH, (record.conversation_id, head_id))

    def delete(self, conversation_id: str) -> None:
        self._state.execute(_DELETE_RECORD, (conversation_id,))
        for position, _ in self._state.execute(_READ_BRANCHES, (conversation_id,)):
            self._state.execute(_DELETE_BRANCH, (position,))
        self._state.execute(_DELETE_UNREACHED)


def _message_json(message: ModelMessage) -> str:
    """Return *message* as the framework writes it in a list: its bytes are base64 only there."""
    return ModelMessagesTypeAdapter.dump_json([message])[1:-1].decode()


def _messages(rows: Iterable[Row]) -> list[ModelMessage]:
    """Parse the messages of *rows* at once, which is the fast way."""
    return ModelMessagesTypeAdapter.validate_json("[" + ",".join(row["message"] for row in rows) + "]")


def _entries(rows: Sequence[Row]) -> list[ConversationEntry]:
    return [
        ConversationEntry(id=row["id"], parent_id=row["parent_id"], message=message)
        for row, message in zip(rows, _messages(rows), strict=True)
    ]


async def _stream(turn: Turn[Any], events: AsyncIterable[AgentStreamEvent]) -> None:
    await _Step(turn, events).run()


class _Step:
    """One step of a run, a model's response or its tool calls, put into the turn's events."""

    def __init__(self, turn: Turn[Any], events: AsyncIterable[AgentStreamEvent]) -> None:
        self._turn = turn
        self._events = aiter(events)
        self._after_text: AgentStreamEvent | None = None
        self._open_calls: set[str] = set()

    async def run(self) -> None:
        try:
            while (event := await self._next()) is not None:
                if text := _text(event):
                    await self._turn.say(self._say(text))
                else:
                    self._emit(event)
        except Exception as error:
            for call_id in sorted(self._open_calls):
                self._turn.function_call_output(call_id, type(error).__name__, is_error=True)
            raise

    async def _next(self) -> AgentStreamEvent | None:
        event, self._after_text = self._after_text, None
        return event or await anext(self._events, None)

    async def _say(self, text: str) -> AsyncIterator[str]:
        """Yield *text* and the pieces after it; parts that follow one another are one text, as in the run's output."""
        yield text
        async for event in self._events:
            piece = _text(event)
            if piece is not None:
                yield piece
            elif not isinstance(event, PartDeltaEvent | PartEndEvent | FinalResultEvent):
                self._after_text = event
                return

    def _emit(self, event: AgentStreamEvent) -> None:
        match event:
            case FunctionToolCallEvent(part=call) | PartEndEvent(part=NativeToolCallPart() as call):
                self._turn.function_call(call.tool_name, call.args_as_json_str(), call_id=call.tool_call_id)
                self._open_calls.add(call.tool_call_id)
            case FunctionToolResultEvent(part=result) | PartStartEvent(part=NativeToolReturnPart() as result):
                self._open_calls.discard(result.tool_call_id)
                output = result.model_response_str(wrap_if_error=False)
                self._turn.function_call_output(result.tool_call_id, output, is_error=result.outcome in ERROR_OUTCOMES)
            case _:
                pass  # thinking, files and what is for user interfaces alone


def _text(event: AgentStreamEvent) -> str | None:
    match event:
        case PartStartEvent(part=TextPart(content=text)) | PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            return text
        case _:
            return None
