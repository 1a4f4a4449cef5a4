"""Frames to bytes and back. Refuses what it does not know and what is out of shape or bounds.

``link.proto`` is the format. A message is one or more frames; the bytes of several
messages, one behind the other, are one message. What large payloads have to do with
chunks is ``chunks``'s. Decoding raises ``PeerViolation`` alone, which names the
field; whether a payload is what its envelope claims is for those who open it. Fields
that a newer peer adds are skipped; a frame, code or kind that it adds is refused.
"""

import datetime as dt
import enum
import functools
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, Final, TypeVar, assert_never

from google.protobuf.message import DecodeError, EncodeError
from google.protobuf.timestamp_pb2 import Timestamp

from satchel.errors import InvalidRequest, MessageTooLarge, PeerViolation
from satchel.limits import (
    CHAIN_BYTES_MAX,
    EVENT_BYTES_MAX,
    FRAME_BYTES_MAX,
    ID_LENGTH_MAX,
    LINK_MESSAGE_BYTES_MAX,
    METADATA_BYTES_MAX,
    PACKED_BYTES_MAX,
    TEXT_BYTES_MAX,
)
from satchel.model import (
    AgentHandoff,
    AgentSpec,
    Content,
    Encoding,
    Epoch,
    FunctionCall,
    FunctionCallOutput,
    Link,
    Message,
    MessageId,
    OnBusy,
    Payload,
    PayloadKind,
    SchemaName,
    SessionId,
    StateId,
    StateName,
    Version,
    WholeItem,
    WorkerId,
    checked_id,
    rfc3339,
)
from satchel.protocol import link_pb2 as pb
from satchel.protocol.messages import (
    Announced,
    AttemptName,
    Cancel,
    Carried,
    Chunk,
    Committed,
    Credit,
    Event,
    Failure,
    FailureCode,
    HeldState,
    HubFrame,
    NeedSnapshot,
    Pieces,
    Ping,
    Pong,
    Refused,
    Register,
    Registered,
    Release,
    Released,
    Request,
    Result,
    WorkerFrame,
)

_NUMBER_MAX: Final = 2**63 - 1
"""What a SQL integer holds."""

_STATE_ID_BYTES: Final = 16
_CHECKSUM_BYTES: Final = 16
_HASH_BYTES: Final = 32

_SECONDS_MAX: Final = 253_402_300_799
"""9999-12-31T23:59:59Z, the last second that RFC 3339 can write."""

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)

AnyEnum = TypeVar("AnyEnum", bound=enum.Enum)
AnyMessage = TypeVar("AnyMessage", pb.WorkerMessage, pb.HubMessage)


def encode_worker(frame: WorkerFrame | Carried) -> bytes:
    """Return a message with one frame that a worker sends.

    Raises ``InvalidRequest`` for a value that the format cannot hold (text with a
    lone surrogate, a negative number, a malformed time), ``MessageTooLarge`` over
    ``FRAME_BYTES_MAX``. The other bounds are kept by whoever makes the frame.
    """
    return _bytes_of(frame, _worker_frame)


def encode_hub(frame: HubFrame | Carried) -> bytes:
    """Return a message with one frame that a hub sends. Raises as ``encode_worker`` does."""
    return _bytes_of(frame, _hub_frame)


def decode_worker(data: bytes) -> list[WorkerFrame | Carried]:
    """Return the frames of a worker's message, in order, one at least. Raises ``PeerViolation``."""
    frames = _parsed(data, pb.WorkerMessage).frames
    if len(data) > EVENT_BYTES_MAX:  # else no event in it is
        for frame in frames:
            _check_event_size(frame.response)
    return [_read_worker_frame(frame) for frame in frames]


def decode_hub(data: bytes) -> list[HubFrame | Carried]:
    """Return the frames of a hub's message, in order, one at least. Raises ``PeerViolation``."""
    return [_read_hub_frame(frame) for frame in _parsed(data, pb.HubMessage).frames]


def _read_worker_frame(message: pb.WorkerFrame) -> WorkerFrame | Carried:
    match message.WhichOneof("frame"):
        case "response":
            return _read_response(message.response)
        case "register":
            return _read_register(message.register)
        case "released":
            return Released(_session_id(message.released.session_id))
        case kind:
            return _read_either(message, kind, "worker")


def _read_hub_frame(message: pb.HubFrame) -> HubFrame | Carried:  # noqa: PLR0911  # one line a frame
    match message.WhichOneof("frame"):
        case "registered":
            return _read_registered(message.registered)
        case "refused":
            refused = message.refused
            return Refused(
                _text(refused.code, "code"), _text(refused.message, "message"), hint=_text(refused.hint, "hint")
            )
        case "request":
            return _read_request(message.request)
        case "committed":
            return Committed(_read_attempt(message.committed.attempt))
        case "cancel":
            return Cancel(_read_attempt(message.cancel.attempt), _text(message.cancel.reason, "reason"))
        case "need_snapshot":
            return NeedSnapshot(_read_attempt(message.need_snapshot.attempt))
        case "release":
            return Release(_session_id(message.release.session_id))
        case kind:
            return _read_either(message, kind, "hub")


def _read_either(message: pb.WorkerFrame | pb.HubFrame, kind: str | None, sender: str) -> Ping | Pong | Chunk | Credit:
    """Return a frame of a kind that both sides send."""
    match kind:
        case "ping":
            return Ping(_number(message.ping.number, "number"))
        case "pong":
            return Pong(_number(message.pong.number, "number"))
        case "chunk":
            return _read_chunk(message.chunk)
        case "credit":
            return Credit(_number(message.credit.bytes, "credit", least=1))
        case _:
            raise _violation("frame", f"is of no kind that a {sender} sends")


_FRAMES_TAG: Final = b"\x0a"
"""How a frame begins in a message: field 1, and its length behind it."""


def _bytes_of(frame: Any, build: Any) -> bytes:  # one of our two frame types, and its builder
    try:
        data: bytes = build(frame).SerializeToString(deterministic=True)
    except (ValueError, EncodeError) as error:  # protobuf raises ValueError for text and numbers it cannot hold
        raise InvalidRequest(f"A {type(frame).__name__} cannot be sent: {error}.") from error
    if len(data) > FRAME_BYTES_MAX:
        raise MessageTooLarge(
            f"A {type(frame).__name__} of {len(data)} bytes is over the bound of {FRAME_BYTES_MAX}.",
            frame_bytes=len(data),
            frame_bytes_max=FRAME_BYTES_MAX,
        )
    return _FRAMES_TAG + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Return a length as protobuf writes it: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:  # noqa: PLR2004  # what seven bits hold
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _parsed(data: bytes, kind: type[AnyMessage]) -> AnyMessage:
    if len(data) > LINK_MESSAGE_BYTES_MAX:
        raise _violation("frame", f"has more than {LINK_MESSAGE_BYTES_MAX} bytes")
    try:
        message = kind.FromString(data)
    except DecodeError as error:
        raise _violation("frame", "is not protobuf of the link's format") from error
    if not message.frames:
        raise _violation("frame", "is missing")
    if len(data) > PACKED_BYTES_MAX and len(message.frames) > 1:
        raise _violation("frame", f"is one of several in a message of more than {PACKED_BYTES_MAX} bytes")
    return message


# --- worker -> hub, written -----------------------------------------------------------------------


def _worker_frame(frame: WorkerFrame | Carried) -> pb.WorkerFrame:  # noqa: C901, PLR0911  # one line a frame
    match frame:
        case Register():
            return pb.WorkerFrame(register=_register(frame))
        case Event():
            return pb.WorkerFrame(response=_event(frame))
        case Pieces():
            return _pieces(frame)
        case Result():
            return pb.WorkerFrame(response=_response(frame.attempt, complete=_result(frame)))
        case Failure():
            return pb.WorkerFrame(response=_response(frame.attempt, complete=_failure(frame)))
        case Released(session_id=session_id):
            return pb.WorkerFrame(released=pb.Released(session_id=session_id))
        case Ping(number=number):
            return pb.WorkerFrame(ping=pb.Ping(number=number))
        case Pong(number=number):
            return pb.WorkerFrame(pong=pb.Pong(number=number))
        case Announced(frame=result):
            assert isinstance(result, Result), "a worker announces results"
            return pb.WorkerFrame(response=_response(result.attempt, complete=_result(result, frame)))
        case Chunk():
            return pb.WorkerFrame(chunk=_chunk(frame))
        case Credit(size=size):
            return pb.WorkerFrame(credit=pb.Credit(bytes=size))
        case _:
            assert_never(frame)


def _register(frame: Register) -> pb.Register:
    return pb.Register(
        worker_id=frame.worker_id,
        protocol_version=frame.protocol_version,
        build=frame.build,
        slots=frame.slots,
        agents=[_agent(agent) for agent in frame.agents],
        held=[
            pb.HeldState(session_id=held.session_id, name=_state_name(held.name), state_bytes=held.state_bytes)
            for held in frame.held
        ],
        attempts=[_attempt(attempt) for attempt in frame.attempts],
        features=frame.features,
    )


def _agent(agent: AgentSpec) -> pb.AgentSpec:
    return pb.AgentSpec(
        name=agent.name,
        schema=_schema(agent.schema),
        schema_min=agent.schema_min,
        turn_timeout_s=agent.turn_timeout_s,
        max_attempts=agent.max_attempts,
        on_busy=agent.on_busy.value,
    )


def _response(attempt: AttemptName, **content: Any) -> pb.TextMessageResponse:  # fields of the message
    return pb.TextMessageResponse(
        message_id=attempt.message_id, session_id=attempt.session_id, epoch=attempt.epoch, **content
    )


def _pieces(frame: Pieces) -> pb.WorkerFrame:
    """Return the frame of pieces, filled in place: streams are made of these, and parts would be copied twice."""
    written = pb.WorkerFrame()
    response = written.response
    response.session_id = frame.attempt.session_id
    response.message_id = frame.attempt.message_id
    response.epoch = frame.attempt.epoch
    response.index = frame.index
    response.text_delta.item_id = frame.item_id
    response.text_delta.text.extend(frame.texts)
    return written


def _event(frame: Event) -> pb.TextMessageResponse:
    attempt, index, item = frame.attempt, frame.index, frame.item
    match item:
        case Message():
            return _response(attempt, index=index, message=_message(item))
        case FunctionCall():
            call = pb.FunctionCall(
                id=item.id,
                call_id=item.call_id,
                name=item.name,
                arguments=item.arguments,
                created_at=_timestamp(item.created_at),
            )
            return _response(attempt, index=index, function_call=call)
        case FunctionCallOutput():
            output = pb.FunctionCallOutput(
                id=item.id,
                call_id=item.call_id,
                name=item.name,
                output=item.output,
                is_error=item.is_error,
                created_at=_timestamp(item.created_at),
            )
            return _response(attempt, index=index, function_call_output=output)
        case AgentHandoff():
            handoff = pb.AgentHandoff(
                id=item.id,
                old_agent_id=item.old_agent_id,
                new_agent_id=item.new_agent_id,
                created_at=_timestamp(item.created_at),
            )
            return _response(attempt, index=index, agent_handoff=handoff)
        case _:
            assert_never(item)


def _message(item: Message) -> pb.ChatMessage:
    return pb.ChatMessage(
        id=item.id,
        role=item.role,
        content=[pb.ChatMessage.ChatContent(text=part.text) for part in item.content],
        created_at=_timestamp(item.created_at),
    )


def _result(frame: Result, announced: Announced | None = None) -> pb.TextMessageComplete:
    state = pb.AgentSessionState(
        version=frame.name.version,
        state_id=frame.name.state_id,
        base=_state_name(frame.base),
        schema=None if frame.schema is None else _schema(frame.schema),
        digest=frame.digest,
        state_bytes=frame.state_bytes,
        transfer=announced.transfer if announced is not None else 0,
    )
    _put_payload(state, frame.payload, announced.sizes[0] if announced is not None else None)
    return pb.TextMessageComplete(
        session_state=state,
        handler_ms=frame.handler_ms,
        changed_rows={
            table: pb.RowChanges(inserted=inserted, updated=updated, deleted=deleted)
            for table, (inserted, updated, deleted) in frame.changed_rows.items()
        },
        events=frame.events,
    )


def _failure(frame: Failure) -> pb.TextMessageComplete:
    error = pb.TextMessageError(
        message=frame.message,
        code=pb.TextMessageErrorCode.Name(frame.code.value),
        held=None if frame.held is None else _state_name(frame.held),
    )
    return pb.TextMessageComplete(error=error, handler_ms=frame.handler_ms)


# --- hub -> worker, written -----------------------------------------------------------------------


def _hub_frame(frame: HubFrame | Carried) -> pb.HubFrame:  # noqa: C901, PLR0911, PLR0912  # one line a frame
    match frame:
        case Registered():
            adopted = [_attempt(attempt) for attempt in frame.adopted]
            return pb.HubFrame(
                registered=pb.Registered(tenant=frame.tenant, ping_interval_s=frame.ping_interval_s, adopted=adopted)
            )
        case Refused():
            return pb.HubFrame(refused=pb.Refused(code=frame.code, message=frame.message, hint=frame.hint))
        case Request():
            return pb.HubFrame(request=_request(frame))
        case Committed(attempt=attempt):
            return pb.HubFrame(committed=pb.Committed(attempt=_attempt(attempt)))
        case Cancel(attempt=attempt, reason=reason):
            return pb.HubFrame(cancel=pb.Cancel(attempt=_attempt(attempt), reason=reason))
        case NeedSnapshot(attempt=attempt):
            return pb.HubFrame(need_snapshot=pb.NeedSnapshot(attempt=_attempt(attempt)))
        case Release(session_id=session_id):
            return pb.HubFrame(release=pb.Release(session_id=session_id))
        case Ping(number=number):
            return pb.HubFrame(ping=pb.Ping(number=number))
        case Pong(number=number):
            return pb.HubFrame(pong=pb.Pong(number=number))
        case Announced(frame=request):
            assert isinstance(request, Request), "a hub announces requests"
            return pb.HubFrame(request=_request(request, frame))
        case Chunk():
            return pb.HubFrame(chunk=_chunk(frame))
        case Credit(size=size):
            return pb.HubFrame(credit=pb.Credit(bytes=size))
        case _:
            assert_never(frame)


def _request(frame: Request, announced: Announced | None = None) -> pb.TextMessageRequest:
    state = pb.AgentSessionState(
        version=frame.base.version,
        state_id=frame.base.state_id,
        schema=None if frame.schema is None else _schema(frame.schema),
        digest=frame.digest,
        transfer=announced.transfer if announced is not None else 0,
    )
    _put_chain(state, frame.base, frame.chain, [None] * len(frame.chain) if announced is None else announced.sizes)
    return pb.TextMessageRequest(
        text=frame.text,
        message_id=frame.attempt.message_id,
        session_id=frame.attempt.session_id,
        agent_name=frame.agent,
        metadata=frame.metadata,
        session_state=state,
        epoch=frame.attempt.epoch,
        start_number=frame.start_number,
        attempt_number=frame.attempt_number,
        accepted_at_ms=frame.accepted_at_ms,
        wants_digest=frame.wants_digest,
        wants_snapshot=frame.wants_snapshot,
        delta_bytes_max=frame.delta_bytes_max,
    )


def _put_chain(
    state: pb.AgentSessionState, base: StateName, chain: Sequence[Link], sizes: Sequence[int | None]
) -> None:
    """Write *chain* so that a reader of LiveKit's fields alone never takes a part of it for the whole."""
    assert not chain or chain[-1].name == base, "a chain ends where the request does"
    if len(chain) == 1:
        _put_payload(state, chain[0].payload, sizes[0])
        return
    for link, size in zip(chain, sizes, strict=True):
        _put_payload(state.chain.add(version=link.name.version, state_id=link.name.state_id), link.payload, size)


def _put_payload(target: pb.AgentSessionState | pb.ChainLink, payload: Payload, size: int | None) -> None:
    """Write a payload with its data; with *size*, that as many bytes of it follow."""
    envelope = target.envelope
    envelope.encoding, envelope.raw_size, envelope.checksum = payload.encoding, payload.raw_size, payload.checksum
    if size is None:
        _put_data(target, payload)
    elif payload.kind is PayloadKind.SNAPSHOT:
        envelope.snapshot_size = size
    else:
        envelope.delta_size = size


def _put_data(target: pb.AgentSessionState | pb.ChainLink, payload: Payload) -> None:
    match payload.kind:
        case PayloadKind.SNAPSHOT:
            target.snapshot = payload.data
        case PayloadKind.DELTA:
            target.delta = payload.data
        case _:
            assert_never(payload.kind)


def _chunk(frame: Chunk) -> pb.Chunk:
    return pb.Chunk(transfer=frame.transfer, data=frame.data)


def _attempt(attempt: AttemptName) -> pb.AttemptName:
    return pb.AttemptName(session_id=attempt.session_id, message_id=attempt.message_id, epoch=attempt.epoch)


def _state_name(name: StateName) -> pb.StateName:
    return pb.StateName(version=name.version, state_id=name.state_id)


def _schema(schema: SchemaName) -> pb.SchemaName:
    return pb.SchemaName(number=schema.number, fingerprint=schema.fingerprint)


def _timestamp(text: str) -> Timestamp:
    """Return a time written as ``model.rfc3339`` writes it. Raises ``ValueError``."""
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"created_at {text!r} is not RFC 3339 UTC with milliseconds")
    at = dt.datetime.fromisoformat(text)
    seconds = int(at.replace(microsecond=0).timestamp())
    if seconds < 0:
        raise ValueError(f"created_at {text!r} is before 1970")
    return Timestamp(seconds=seconds, nanos=at.microsecond * 1000)


# --- worker -> hub, read --------------------------------------------------------------------------


def _read_register(message: pb.Register) -> Register:
    if not message.agents:
        raise _violation("agents", "names none")
    return Register(
        worker_id=WorkerId(_id(message.worker_id, "worker_id")),
        protocol_version=message.protocol_version,
        build=_label(message.build, "build"),
        slots=_number(message.slots, "slots", least=1),
        agents=tuple(_read_agent(agent) for agent in message.agents),
        held=tuple(
            HeldState(
                _session_id(held.session_id),
                _read_state_name(held.name, "held"),
                _number(held.state_bytes, "state_bytes"),
            )
            for held in message.held
        ),
        attempts=tuple(_read_attempt(attempt) for attempt in message.attempts),
        features=tuple(_label(feature, "features") for feature in message.features),
    )


def _read_agent(message: pb.AgentSpec) -> AgentSpec:
    schema = _read_schema(message.schema)
    schema_min = _number(message.schema_min, "schema_min")
    if schema_min > schema.number:
        raise _violation("schema_min", "is above the schema's number")
    return AgentSpec(
        name=_id(message.name, "agent name"),
        schema=schema,
        schema_min=schema_min,
        turn_timeout_s=_span(message.turn_timeout_s, "turn_timeout_s"),
        max_attempts=_number(message.max_attempts, "max_attempts", least=1),
        on_busy=_member(OnBusy, message.on_busy, "on_busy"),
    )


def _read_response(message: pb.TextMessageResponse) -> Event | Pieces | Result | Failure | Announced:
    attempt = _attempt_name(message.session_id, message.message_id, message.epoch)
    kind = message.WhichOneof("event")
    if kind == "complete":
        return _read_complete(attempt, message.complete)
    index = _number(message.index, "index", least=1)
    if kind == "text_delta":
        return _read_pieces(attempt, index, message.text_delta)
    return Event(attempt, index, _read_item(message))


def _read_pieces(attempt: AttemptName, index: int, message: pb.TextDelta) -> Pieces:
    texts = tuple(message.text[:])
    if not texts:
        raise _violation("text", "is missing")
    return Pieces(attempt, index, message.item_id, texts)


def _read_item(message: pb.TextMessageResponse) -> WholeItem:
    match message.WhichOneof("event"):
        case "message":
            return _read_message(message.message)
        case "function_call":
            call = message.function_call
            return FunctionCall(call.id, call.call_id, call.name, call.arguments, _read_time(call))
        case "function_call_output":
            output = message.function_call_output
            return FunctionCallOutput(
                output.id, output.call_id, output.name, output.output, _read_time(output), output.is_error
            )
        case "agent_handoff":
            handoff = message.agent_handoff
            old = handoff.old_agent_id if handoff.HasField("old_agent_id") else None
            return AgentHandoff(handoff.id, handoff.new_agent_id, _read_time(handoff), old)
        case _:
            raise _violation("event", "is of no kind that a handler emits")


def _read_message(message: pb.ChatMessage) -> Message:
    if message.role not in pb.ChatRole.values():
        raise _violation("role", "is unknown")
    if not all(part.HasField("text") for part in message.content):
        raise _violation("content", "has a part that is not text")
    return Message(
        id=message.id,
        content=tuple(Content(part.text) for part in message.content),
        created_at=_read_time(message),
        role=pb.ChatRole.Name(message.role),
    )


def _read_complete(attempt: AttemptName, message: pb.TextMessageComplete) -> Result | Failure | Announced:
    match message.WhichOneof("result"):
        case "session_state":
            return _read_result(attempt, message)
        case "error":
            return _read_failure(attempt, message)
        case _:
            raise _violation("result", "is missing")


def _read_result(attempt: AttemptName, message: pb.TextMessageComplete) -> Result | Announced:
    state = message.session_state
    name = _named_by(state)
    base = _read_state_name(state.base, "base")
    if name.version != base.version + 1:
        raise _violation("version", "is not the one after its base")
    result = Result(
        attempt=attempt,
        name=name,
        base=base,
        payload=_read_payload(state, is_announced=state.transfer != 0),
        schema=_read_schema(state.schema) if state.HasField("schema") else None,
        state_bytes=_number(state.state_bytes, "state_bytes"),
        digest=_read_digest(state),
        changed_rows={table: _read_changes(changes) for table, changes in sorted(message.changed_rows.items())},
        handler_ms=_span(message.handler_ms, "handler_ms"),
        events=_number(message.events, "events"),
    )
    return _announced(result, state) if state.transfer else result


def _read_changes(message: pb.RowChanges) -> tuple[int, int, int]:
    return (
        _number(message.inserted, "changed_rows"),
        _number(message.updated, "changed_rows"),
        _number(message.deleted, "changed_rows"),
    )


def _read_failure(attempt: AttemptName, message: pb.TextMessageComplete) -> Failure:
    error = message.error
    return Failure(
        attempt=attempt,
        code=_member(FailureCode, error.code, "code"),
        message=_text(error.message, "message"),
        held=_read_state_name(error.held, "held") if error.HasField("held") else None,
        handler_ms=_span(message.handler_ms, "handler_ms"),
    )


# --- hub -> worker, read --------------------------------------------------------------------------


def _read_registered(message: pb.Registered) -> Registered:
    interval = _span(message.ping_interval_s, "ping_interval_s")
    if interval == 0:
        raise _violation("ping_interval_s", "is zero")
    return Registered(
        tenant=_id(message.tenant, "tenant"),
        ping_interval_s=interval,
        adopted=tuple(_read_attempt(attempt) for attempt in message.adopted),
    )


def _read_request(message: pb.TextMessageRequest) -> Request | Announced:
    state = message.session_state
    base = _named_by(state)
    request = Request(
        attempt=_attempt_name(message.session_id, message.message_id, message.epoch),
        start_number=_number(message.start_number, "start_number", least=1),
        attempt_number=_number(message.attempt_number, "attempt_number", least=1),
        agent=_id(message.agent_name, "agent_name"),
        text=_text(message.text, "text"),
        metadata=_text(message.metadata, "metadata", most=METADATA_BYTES_MAX),
        accepted_at_ms=_number(message.accepted_at_ms, "accepted_at_ms"),
        base=base,
        chain=_read_chain(state, base),
        schema=_read_schema(state.schema) if state.HasField("schema") else None,
        digest=_read_digest(state),
        wants_digest=message.wants_digest,
        wants_snapshot=message.wants_snapshot,
        delta_bytes_max=_number(message.delta_bytes_max, "delta_bytes_max"),
    )
    return _announced(request, state) if state.transfer else request


def _announced(frame: Request | Result, state: pb.AgentSessionState) -> Announced:
    """Return *frame* with the sizes of what follows it."""
    envelopes = [link.envelope for link in state.chain] or [state.envelope]
    sizes = tuple(envelope.snapshot_size or envelope.delta_size for envelope in envelopes)
    if not 0 < sum(sizes) <= CHAIN_BYTES_MAX:
        raise _violation("transfer", f"does not have from 1 to {CHAIN_BYTES_MAX} bytes")
    return Announced(frame, _number(state.transfer, "transfer"), sizes)


def _read_chunk(message: pb.Chunk) -> Chunk:
    if not message.data:
        raise _violation("chunk", "is empty")
    return Chunk(_number(message.transfer, "transfer", least=1), message.data)


def _read_chain(state: pb.AgentSessionState, base: StateName) -> tuple[Link, ...]:
    is_announced = state.transfer != 0
    if state.WhichOneof("data") or state.envelope.WhichOneof("announced"):
        if state.chain:
            raise _violation("chain", "stands beside a payload")
        return (Link(base, _read_payload(state, is_announced=is_announced)),)
    chain = tuple(
        Link(_named_by(link, least=1), _read_payload(link, is_announced=is_announced)) for link in state.chain
    )
    if chain:
        _check_chain(chain, base)
    return chain


def _check_chain(chain: Sequence[Link], base: StateName) -> None:
    """Refuse a chain with a gap, with a snapshot behind its first link, or that ends elsewhere than at *base*."""
    for before, link in itertools.pairwise(chain):
        if link.name.version != before.name.version + 1:
            raise _violation("chain", "has a gap")
        if link.payload.kind is not PayloadKind.DELTA:
            raise _violation("chain", "has a snapshot behind its first link")
    if chain[-1].name != base:
        raise _violation("chain", "does not end at the state that the request names")


# --- fields -------------------------------------------------------------------------------------


def _read_payload(message: pb.AgentSessionState | pb.ChainLink, *, is_announced: bool) -> Payload:
    """Return a payload; one that is announced has no data yet."""
    envelope = message.envelope
    kind, announced = message.WhichOneof("data"), envelope.WhichOneof("announced")
    if (announced if is_announced else kind) is None:
        raise _violation("data", "is missing")
    if (kind if is_announced else announced) is not None:
        raise _violation("data", "both stands in its frame and follows it")
    return Payload(
        kind=PayloadKind(kind or announced.removesuffix("_size")),
        encoding=_member(Encoding, envelope.encoding, "encoding"),
        raw_size=_number(envelope.raw_size, "raw_size"),
        checksum=_sized(envelope.checksum, _CHECKSUM_BYTES, "checksum"),
        data=b"" if is_announced else message.snapshot or message.delta,
    )


def _named_by(message: pb.AgentSessionState | pb.ChainLink | pb.StateName, *, least: int = 0) -> StateName:
    return StateName(
        Version(_number(message.version, "version", least=least)),
        StateId(_sized(message.state_id, _STATE_ID_BYTES, "state_id")),
    )


def _read_state_name(message: pb.StateName, field: str) -> StateName:
    if not message.state_id:
        raise _violation(field, "is missing")
    return _named_by(message)


def _read_schema(message: pb.SchemaName) -> SchemaName:
    return SchemaName(_number(message.number, "schema number"), _sized(message.fingerprint, _HASH_BYTES, "fingerprint"))


def _read_digest(message: pb.AgentSessionState) -> bytes | None:
    return _sized(message.digest, _HASH_BYTES, "digest") if message.HasField("digest") else None


def _read_attempt(message: pb.AttemptName) -> AttemptName:
    return _attempt_name(message.session_id, message.message_id, message.epoch)


@functools.lru_cache(maxsize=4096)
def _attempt_name(session_id: str, message_id: str, epoch: int) -> AttemptName:
    """Return a name that was checked; each of an attempt's frames carries it, and the first pays."""
    return AttemptName(
        _session_id(session_id),
        MessageId(_id(message_id, "message_id")),
        Epoch(_number(epoch, "epoch", least=1)),
    )


def _read_time(message: pb.ChatMessage | pb.FunctionCall | pb.FunctionCallOutput | pb.AgentHandoff) -> str:
    at = message.created_at
    if not message.HasField("created_at") or not 0 <= at.seconds <= _SECONDS_MAX or not 0 <= at.nanos < 10**9:
        raise _violation("created_at", "is not a time from 1970 to 9999")
    return rfc3339(at.seconds * 1000 + at.nanos // 1_000_000)


def _check_event_size(message: pb.TextMessageResponse) -> None:
    kind = message.WhichOneof("event")
    if kind not in {None, "complete"} and getattr(message, kind).ByteSize() > EVENT_BYTES_MAX:
        raise _violation("event", f"has more than {EVENT_BYTES_MAX} bytes")


def _session_id(text: str) -> SessionId:
    return SessionId(_id(text, "session_id"))


def _id(text: str, field: str) -> str:
    try:
        return checked_id(text, field)
    except InvalidRequest as error:
        raise _violation(field, "is not an ID") from error


def _label(text: str, field: str) -> str:
    if len(text) > ID_LENGTH_MAX:
        raise _violation(field, f"has more than {ID_LENGTH_MAX} characters")
    return text


def _text(text: str, field: str, *, most: int = TEXT_BYTES_MAX) -> str:
    if len(text.encode()) > most:
        raise _violation(field, f"has more than {most} bytes")
    return text


def _member(kind: type[AnyEnum], value: object, field: str) -> AnyEnum:
    try:
        return kind(value)
    except ValueError as error:
        raise _violation(field, "is unknown") from error


def _number(value: int, field: str, *, least: int = 0) -> int:
    if not least <= value <= _NUMBER_MAX:
        raise _violation(field, f"is not a number from {least} to {_NUMBER_MAX}")
    return value


def _span(value: float, field: str) -> float:
    """Return a length of time."""
    if not (math.isfinite(value) and value >= 0):
        raise _violation(field, "is not a length of time")
    return value


def _sized(value: bytes, size: int, field: str) -> bytes:
    if len(value) != size:
        raise _violation(field, f"has {len(value)} bytes, not {size}")
    return value


def _violation(field: str, fault: str) -> PeerViolation:
    return PeerViolation(f"The peer's {field} {fault}.", field=field)
