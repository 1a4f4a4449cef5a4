"""The API's JSON shapes and stream frames, from rows and members (pure)."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from satchel.hub.fleet import Member
from satchel.model import rfc3339
from satchel.store.base import Session, Turn

Batches = AsyncIterator[list[tuple[int, bytes]]]
"""A stream's events in batches of (seq, line)."""


def message(turn: Turn) -> dict[str, Any]:
    """Return one message of the transcript."""
    return {
        "message_id": turn.message_id,
        "status": turn.status,
        "text": turn.text,
        "metadata": turn.metadata,
        "answer": None if turn.answer is None else {"text": turn.answer},
        "version": turn.version,
        "attempts": turn.starts,
        "error": turn.error,
        "accepted_at": rfc3339(turn.accepted_at_ms),
        "finished_at": None if turn.finished_at_ms is None else rfc3339(turn.finished_at_ms),
    }


def session(row: Session) -> dict[str, Any]:
    """Return a session, without the worker that holds it warm."""
    return {
        "session_id": row.key.session_id,
        "agent": row.agent,
        "status": "idle" if row.running_message_id is None else "running",
        "head": row.head.version,
        "waiting": row.waiting,
        "running_message_id": row.running_message_id,
        "state_bytes": row.state_bytes,
        "chain_bytes": row.chain_bytes,
        "schema_number": None if row.schema is None else row.schema.number,
        "worker_id": None,
        "metadata": row.metadata,
        "created_at": rfc3339(row.created_at_ms),
        "updated_at": rfc3339(row.updated_at_ms),
    }


def worker(member: Member) -> dict[str, Any]:
    """Return one connected worker."""
    return {
        "worker_id": member.worker_id,
        "agents": sorted(member.agents),
        "build": member.build,
        "slots": member.slots,
        "running": len(member.busy),
        "warm_sessions": len(member.held),
        "warm_bytes": sum(held.state_bytes for held in member.held.values()),
        "draining": False,
        "connected_at": rfc3339(member.connected_at_ms),
    }


class _Seq(msgspec.Struct):
    seq: int
    type: str


def sse(seq: int, line: bytes) -> bytes:
    """Return one event line as a server-sent event."""
    kind = msgspec.json.decode(line, type=_Seq).type
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (seq, kind.encode(), line.rstrip(b"\n"))


async def stored(lines: bytes, *, after: int) -> Batches:
    """Yield a committed turn's events after a cursor; the last is always among them."""
    events = [(msgspec.json.decode(line, type=_Seq).seq, line) for line in lines.splitlines(keepends=True)]
    yield [event for event in events if event[0] > after] or events[-1:]


async def once(events: list[tuple[int, bytes]]) -> Batches:
    """Yield all of *events*."""
    yield events
