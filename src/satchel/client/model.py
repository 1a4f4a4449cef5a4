"""What the API answers, one frozen struct each. Field names are the API's."""

from typing import Any

import msgspec

from satchel.model import ErrorBody, TurnEvent, TurnStatus


class Answer(msgspec.Struct, frozen=True):
    """A committed turn's answer.

    ``text`` is what the agent said, messages joined by a newline. ``changed_rows`` is
    ``{table: (inserted, updated, deleted)}``. ``events`` are those of the attempt that
    was committed, from ``accepted`` to ``complete``.
    """

    text: str
    version: int
    attempts: int
    changed_rows: dict[str, tuple[int, int, int]]
    message_id: str
    events: tuple[TurnEvent, ...]


class AnswerText(msgspec.Struct, frozen=True):
    text: str


class MessageRow(msgspec.Struct, frozen=True):
    """One message of a transcript. ``answer`` and ``version`` are ``None`` before the commit."""

    message_id: str
    status: TurnStatus
    text: str
    metadata: dict[str, Any] | None
    answer: AnswerText | None
    version: int | None
    attempts: int
    error: ErrorBody | None
    accepted_at: str
    finished_at: str | None


class MessagePage(msgspec.Struct, frozen=True):
    """Messages, oldest first. ``next_cursor`` is the *before* of the page of older ones; ``None``: there are none."""

    messages: tuple[MessageRow, ...]
    next_cursor: str | None = None


class SessionRow(msgspec.Struct, frozen=True):
    """A session as the hub sees it. ``worker_id`` is a worker that holds its head warm."""

    session_id: str
    agent: str
    status: str
    head: int
    waiting: int
    running_message_id: str | None
    state_bytes: int
    chain_bytes: int
    schema_number: int | None
    worker_id: str | None
    metadata: dict[str, Any] | None
    created_at: str
    updated_at: str


class SessionPage(msgspec.Struct, frozen=True):
    """Sessions. ``next_cursor`` is the *cursor* of the next page; ``None``: there is none."""

    sessions: tuple[SessionRow, ...]
    next_cursor: str | None = None


class WorkerRow(msgspec.Struct, frozen=True):
    """A connected worker."""

    worker_id: str
    agents: tuple[str, ...]
    build: str
    slots: int
    running: int
    warm_sessions: int
    warm_bytes: int
    draining: bool
    connected_at: str


class WorkerList(msgspec.Struct, frozen=True):
    workers: tuple[WorkerRow, ...]
