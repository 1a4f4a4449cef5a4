"""Checks an attempt's result against what it was started from. Needs no database.

What is checked here is what a commit promises about bytes: envelope, state ID,
base, sizes, and the ``_satchel_turn`` row at the end of a delta. The store's
comparison of (head, state ID, epoch) is the fence; this only keeps damage out.
"""

import asyncio

from satchel.errors import CorruptPayload
from satchel.limits import CHAIN_BYTES_MAX, INLINE_BYTES_MAX, STATE_BYTES_MAX
from satchel.model import PayloadKind, SchemaName, SessionId, StateId, StateName, next_state_id, next_state_id_of_pieces
from satchel.protocol.messages import Result
from satchel.state.delta import check_turn_mark
from satchel.state.payload import unseal, unsealed
from satchel.store.base import Started

OFF_LOOP_BYTES = 256 * 1024
"""Hashing and decompressing more than this would hold the event loop for a millisecond."""


async def check_result(result: Result, started: Started) -> bytes | None:
    """Return the raw bytes of a delta, None for a snapshot. Raises ``CorruptPayload`` that names what is wrong."""
    if max(result.payload.raw_size, result.payload.size) > OFF_LOOP_BYTES:
        return await asyncio.to_thread(_check, result, started)
    return _check(result, started)


def _check(result: Result, started: Started) -> bytes | None:
    head, payload = started.session.head, result.payload
    if result.base != head:
        raise CorruptPayload("The result's base is not the head its attempt was started from.")
    if result.name.version != head.version + 1:
        raise CorruptPayload("The result's version does not follow its base.")
    is_snapshot = payload.kind is PayloadKind.SNAPSHOT
    if not is_snapshot and head.version == 0:
        raise CorruptPayload("The first version of a session is a snapshot.")
    left_schema(result, started)
    if payload.size > CHAIN_BYTES_MAX or result.state_bytes > STATE_BYTES_MAX:
        raise CorruptPayload("The result is over the bounds that its request named.")
    if is_snapshot:
        _check_snapshot(result, head)
        return None
    return _check_delta(result, head, started.turn.key.session_id)


def _check_snapshot(result: Result, head: StateName) -> None:
    pieces = unsealed(result.payload, raw_size_max=STATE_BYTES_MAX)
    _check_name(result, next_state_id_of_pieces(head.state_id, result.name.version, PayloadKind.SNAPSHOT, pieces))


def _check_delta(result: Result, head: StateName, session_id: SessionId) -> bytes:
    raw = unseal(result.payload, raw_size_max=STATE_BYTES_MAX)  # one as large as its state is sent as a snapshot
    _check_name(result, next_state_id(head.state_id, result.name.version, PayloadKind.DELTA, raw))
    check_turn_mark(raw, session_id=session_id, version=result.name.version, epoch=result.attempt.epoch, base=head)
    return raw


def _check_name(result: Result, state_id: StateId) -> None:
    if result.name.state_id != state_id:
        raise CorruptPayload("The result's state ID is not that of its bytes.")


def left_schema(result: Result, started: Started) -> SchemaName:
    """Return the schema that the turn left: the session's, unless the result names another."""
    schema = result.schema or started.session.schema
    if schema is None:
        raise CorruptPayload("The result of a session's first turn does not name its schema.")
    return schema


def rests_inline(result: Result) -> bool:
    """Tell whether the payload rests in the log: a small delta does, a snapshot never."""
    return result.payload.kind is PayloadKind.DELTA and result.payload.size <= INLINE_BYTES_MAX
