"""The API's JSON shapes and stream frames, from rows and members (pure)."""

from typing import Any

import msgspec

from satchel.hub.fleet import Member
from satchel.model import rfc3339
from satchel.store.base import Session, Turn


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


class _Named(msgspec.Struct):
    """What a line says before its content."""

    seq: int
    type: str


_named = msgspec.json.Decoder(_Named).decode


def sse(line: bytes) -> bytes:
    """Return one event line as a server-sent event."""
    named = _named(line)
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (named.seq, named.type.encode(), line.rstrip(b"\n"))


def stored(events: bytes, *, after: int) -> list[bytes]:
    """Return a committed turn's lines behind a cursor; the last is always among them."""
    lines = events.splitlines(keepends=True)
    return [line for line in lines if _named(line).seq > after] or lines[-1:]
