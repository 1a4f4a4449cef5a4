"""Rows of the log ⇄ the values of the contract."""

import json
from typing import Any

import apsw
import msgspec

from satchel.model import (
    AgentSpec,
    Encoding,
    Epoch,
    ErrorBody,
    MessageId,
    OnBusy,
    Payload,
    PayloadKind,
    SchemaName,
    SessionId,
    SessionKey,
    StateId,
    StateName,
    Tenant,
    TurnStatus,
    Version,
    canonical_json,
)
from satchel.store.answers import answer_and_lines, rested
from satchel.store.base import ChainLink, Commit, ObjectName, Session, StoredEvents, StoredPayload, Turn, VersionRow

Row = tuple[Any, ...]
"""A row of SQLite: its columns' types are those of the STRICT schema."""

Bindings = dict[str, "apsw.SQLiteValue"]
"""What a statement is given by name. (apsw defines the type for checkers only.)"""


def key_bindings(key: SessionKey) -> Bindings:
    return {"tenant": key.tenant, "session_id": key.session_id}


def json_text(value: dict[str, Any] | None) -> str | None:
    return None if value is None else canonical_json(value).decode()


def error_text(error: ErrorBody | None) -> str | None:
    return None if error is None else msgspec.json.encode(error).decode()


def payload_bindings(stored: StoredPayload) -> Bindings:
    payload = stored.payload
    return {
        "encoding": int(payload.encoding),
        "raw_size": payload.raw_size,
        "checksum": payload.checksum,
        "size": stored.size,
        "object_hash": None if stored.object is None else stored.object.content_hash,
        "data": payload.data if stored.object is None else None,
    }


def schema_bindings(schema: SchemaName) -> Bindings:
    return {"schema_number": schema.number, "schema_fingerprint": schema.fingerprint}


def agent_row(row: Row) -> AgentSpec:
    name, number, fingerprint, schema_min, turn_timeout_s, max_attempts, on_busy = row
    return AgentSpec(
        name=name,
        schema=SchemaName(number, fingerprint),
        schema_min=schema_min,
        turn_timeout_s=turn_timeout_s,
        max_attempts=max_attempts,
        on_busy=OnBusy(on_busy),
    )


def session_row(row: Row) -> Session:
    (
        tenant,
        session_id,
        agent,
        epoch,
        head,
        state_id,
        schema_number,
        schema_fingerprint,
        state_bytes,
        chain_bytes,
        chain_deltas,
        snapshot_version,
        snapshot_bytes,
        digest,
        waiting,
        running_message_id,
        metadata,
        created_at_ms,
        updated_at_ms,
    ) = row
    return Session(
        key=SessionKey(Tenant(tenant), SessionId(session_id)),
        agent=agent,
        epoch=Epoch(epoch),
        head=StateName(Version(head), StateId(state_id)),
        schema=None if schema_number is None else SchemaName(schema_number, schema_fingerprint),
        state_bytes=state_bytes,
        chain_bytes=chain_bytes,
        chain_deltas=chain_deltas,
        snapshot_version=Version(snapshot_version),
        snapshot_bytes=snapshot_bytes,
        digest=digest,
        waiting=waiting,
        running_message_id=None if running_message_id is None else MessageId(running_message_id),
        metadata=None if metadata is None else json.loads(metadata),
        created_at_ms=created_at_ms,
        updated_at_ms=updated_at_ms,
    )


def turn_row(row: Row) -> Turn:
    (
        tenant,
        session_id,
        message_id,
        place,
        agent,
        text,
        metadata,
        status,
        starts,
        starts_before,
        epoch,
        version,
        answer_bytes,
        data,
        *delta,
        error,
        worker_deadline_ms,
        accepted_at_ms,
        finished_at_ms,
    ) = row
    return Turn(
        key=SessionKey(Tenant(tenant), SessionId(session_id)),
        message_id=MessageId(message_id),
        place=place,
        agent=agent,
        text=text,
        metadata=None if metadata is None else json.loads(metadata),
        status=TurnStatus(status),
        starts=starts,
        starts_before=starts_before,
        epoch=None if epoch is None else Epoch(epoch),
        version=None if version is None else Version(version),
        answer=None if data is None else answer_and_lines(answer_bytes, data, *delta)[0],
        error=None if error is None else msgspec.json.decode(error, type=ErrorBody),
        worker_deadline_ms=worker_deadline_ms,
        accepted_at_ms=accepted_at_ms,
        finished_at_ms=finished_at_ms,
    )


def object_name(key: SessionKey, content_hash: bytes | None, size: int) -> ObjectName | None:
    return None if content_hash is None else ObjectName(key, content_hash, size)


def chain_link(key: SessionKey, row: Row) -> ChainLink:
    version, state_id, kind, digest, number, fingerprint, encoding, raw_size, checksum, size, object_hash, data = row
    return ChainLink(
        name=StateName(Version(version), StateId(state_id)),
        stored=StoredPayload(
            payload=Payload(
                kind=PayloadKind(kind),
                encoding=Encoding(encoding),
                raw_size=raw_size,
                checksum=checksum,
                data=b"" if data is None else data,
            ),
            object=object_name(key, object_hash, size),
        ),
        digest=digest,
        schema=SchemaName(number, fingerprint),
    )


def version_row(row: Row) -> VersionRow:
    version, state_id, kind, size, raw_size, message_id, digest, number, fingerprint, committed_at_ms = row
    return VersionRow(
        name=StateName(Version(version), StateId(state_id)),
        kind=PayloadKind(kind),
        size=size,
        raw_size=raw_size,
        message_id=MessageId(message_id),
        digest=digest,
        schema=SchemaName(number, fingerprint),
        committed_at_ms=committed_at_ms,
    )


def events_row(key: SessionKey, row: Row) -> StoredEvents:
    size, object_hash, *frame = row
    _, lines = answer_and_lines(*frame)
    return StoredEvents(lines=lines, object=object_name(key, object_hash, size))


def events_bindings(commit: Commit) -> Bindings:
    events = commit.events
    data, leans_on_delta = rested(commit.answer, events, commit.payload, commit.raw)
    return {
        "answer_bytes": len(commit.answer.encode()),
        "size": len(events.lines) if events.object is None else events.object.size,
        "object_hash": None if events.object is None else events.object.content_hash,
        "data": data,
        "delta_version": commit.name.version if leans_on_delta else None,
    }
