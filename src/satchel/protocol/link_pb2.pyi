import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TextMessageErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INTERNAL_ERROR: _ClassVar[TextMessageErrorCode]
    SESSION_STATE_NOT_FOUND: _ClassVar[TextMessageErrorCode]
    TEXT_HANDLER_ERROR: _ClassVar[TextMessageErrorCode]
    PROCESS_CLOSED: _ClassVar[TextMessageErrorCode]
    TURN_REFUSED: _ClassVar[TextMessageErrorCode]
    STATE_TOO_LARGE: _ClassVar[TextMessageErrorCode]
    CANCELLED: _ClassVar[TextMessageErrorCode]

class ChatRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEVELOPER: _ClassVar[ChatRole]
    SYSTEM: _ClassVar[ChatRole]
    USER: _ClassVar[ChatRole]
    ASSISTANT: _ClassVar[ChatRole]
INTERNAL_ERROR: TextMessageErrorCode
SESSION_STATE_NOT_FOUND: TextMessageErrorCode
TEXT_HANDLER_ERROR: TextMessageErrorCode
PROCESS_CLOSED: TextMessageErrorCode
TURN_REFUSED: TextMessageErrorCode
STATE_TOO_LARGE: TextMessageErrorCode
CANCELLED: TextMessageErrorCode
DEVELOPER: ChatRole
SYSTEM: ChatRole
USER: ChatRole
ASSISTANT: ChatRole

class TextMessageRequest(_message.Message):
    __slots__ = ("text", "message_id", "session_id", "agent_name", "metadata", "session_state", "epoch", "start_number", "attempt_number", "accepted_at_ms", "wants_digest", "wants_snapshot", "delta_bytes_max")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SESSION_STATE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    START_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    WANTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WANTS_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    DELTA_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    text: str
    message_id: str
    session_id: str
    agent_name: str
    metadata: str
    session_state: AgentSessionState
    epoch: int
    start_number: int
    attempt_number: int
    accepted_at_ms: int
    wants_digest: bool
    wants_snapshot: bool
    delta_bytes_max: int
    def __init__(self, text: _Optional[str] = ..., message_id: _Optional[str] = ..., session_id: _Optional[str] = ..., agent_name: _Optional[str] = ..., metadata: _Optional[str] = ..., session_state: _Optional[_Union[AgentSessionState, _Mapping]] = ..., epoch: _Optional[int] = ..., start_number: _Optional[int] = ..., attempt_number: _Optional[int] = ..., accepted_at_ms: _Optional[int] = ..., wants_digest: bool = ..., wants_snapshot: bool = ..., delta_bytes_max: _Optional[int] = ...) -> None: ...

class TextMessageResponse(_message.Message):
    __slots__ = ("message_id", "session_id", "message", "function_call", "function_call_output", "agent_handoff", "complete", "text_delta", "epoch", "index")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_CALL_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_CALL_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    AGENT_HANDOFF_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    TEXT_DELTA_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    message_id: str
    session_id: str
    message: ChatMessage
    function_call: FunctionCall
    function_call_output: FunctionCallOutput
    agent_handoff: AgentHandoff
    complete: TextMessageComplete
    text_delta: TextDelta
    epoch: int
    index: int
    def __init__(self, message_id: _Optional[str] = ..., session_id: _Optional[str] = ..., message: _Optional[_Union[ChatMessage, _Mapping]] = ..., function_call: _Optional[_Union[FunctionCall, _Mapping]] = ..., function_call_output: _Optional[_Union[FunctionCallOutput, _Mapping]] = ..., agent_handoff: _Optional[_Union[AgentHandoff, _Mapping]] = ..., complete: _Optional[_Union[TextMessageComplete, _Mapping]] = ..., text_delta: _Optional[_Union[TextDelta, _Mapping]] = ..., epoch: _Optional[int] = ..., index: _Optional[int] = ...) -> None: ...

class TextMessageComplete(_message.Message):
    __slots__ = ("session_state", "error", "handler_ms", "changed_rows", "events")
    class ChangedRowsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: RowChanges
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[RowChanges, _Mapping]] = ...) -> None: ...
    SESSION_STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    HANDLER_MS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_ROWS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    session_state: AgentSessionState
    error: TextMessageError
    handler_ms: float
    changed_rows: _containers.MessageMap[str, RowChanges]
    events: int
    def __init__(self, session_state: _Optional[_Union[AgentSessionState, _Mapping]] = ..., error: _Optional[_Union[TextMessageError, _Mapping]] = ..., handler_ms: _Optional[float] = ..., changed_rows: _Optional[_Mapping[str, RowChanges]] = ..., events: _Optional[int] = ...) -> None: ...

class AgentSessionState(_message.Message):
    __slots__ = ("version", "snapshot", "delta", "state_id", "base", "envelope", "chain", "schema", "digest", "state_bytes", "transfer")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    STATE_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    version: int
    snapshot: bytes
    delta: bytes
    state_id: bytes
    base: StateName
    envelope: Envelope
    chain: _containers.RepeatedCompositeFieldContainer[ChainLink]
    schema: SchemaName
    digest: bytes
    state_bytes: int
    transfer: int
    def __init__(self, version: _Optional[int] = ..., snapshot: _Optional[bytes] = ..., delta: _Optional[bytes] = ..., state_id: _Optional[bytes] = ..., base: _Optional[_Union[StateName, _Mapping]] = ..., envelope: _Optional[_Union[Envelope, _Mapping]] = ..., chain: _Optional[_Iterable[_Union[ChainLink, _Mapping]]] = ..., schema: _Optional[_Union[SchemaName, _Mapping]] = ..., digest: _Optional[bytes] = ..., state_bytes: _Optional[int] = ..., transfer: _Optional[int] = ...) -> None: ...

class TextMessageError(_message.Message):
    __slots__ = ("message", "code", "held")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    message: str
    code: TextMessageErrorCode
    held: StateName
    def __init__(self, message: _Optional[str] = ..., code: _Optional[_Union[TextMessageErrorCode, str]] = ..., held: _Optional[_Union[StateName, _Mapping]] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("id", "role", "content", "created_at")
    class ChatContent(_message.Message):
        __slots__ = ("text",)
        TEXT_FIELD_NUMBER: _ClassVar[int]
        text: str
        def __init__(self, text: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    role: ChatRole
    content: _containers.RepeatedCompositeFieldContainer[ChatMessage.ChatContent]
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., role: _Optional[_Union[ChatRole, str]] = ..., content: _Optional[_Iterable[_Union[ChatMessage.ChatContent, _Mapping]]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class FunctionCall(_message.Message):
    __slots__ = ("id", "call_id", "arguments", "name", "created_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    call_id: str
    arguments: str
    name: str
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., call_id: _Optional[str] = ..., arguments: _Optional[str] = ..., name: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class FunctionCallOutput(_message.Message):
    __slots__ = ("id", "name", "call_id", "output", "is_error", "created_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    IS_ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    call_id: str
    output: str
    is_error: bool
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., call_id: _Optional[str] = ..., output: _Optional[str] = ..., is_error: bool = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AgentHandoff(_message.Message):
    __slots__ = ("id", "old_agent_id", "new_agent_id", "created_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    OLD_AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    NEW_AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    old_agent_id: str
    new_agent_id: str
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., old_agent_id: _Optional[str] = ..., new_agent_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TextDelta(_message.Message):
    __slots__ = ("item_id", "text")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    text: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_id: _Optional[str] = ..., text: _Optional[_Iterable[str]] = ...) -> None: ...

class RowChanges(_message.Message):
    __slots__ = ("inserted", "updated", "deleted")
    INSERTED_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    inserted: int
    updated: int
    deleted: int
    def __init__(self, inserted: _Optional[int] = ..., updated: _Optional[int] = ..., deleted: _Optional[int] = ...) -> None: ...

class StateName(_message.Message):
    __slots__ = ("version", "state_id")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_ID_FIELD_NUMBER: _ClassVar[int]
    version: int
    state_id: bytes
    def __init__(self, version: _Optional[int] = ..., state_id: _Optional[bytes] = ...) -> None: ...

class SchemaName(_message.Message):
    __slots__ = ("number", "fingerprint")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    number: int
    fingerprint: bytes
    def __init__(self, number: _Optional[int] = ..., fingerprint: _Optional[bytes] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("encoding", "raw_size", "checksum", "snapshot_size", "delta_size")
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    RAW_SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_SIZE_FIELD_NUMBER: _ClassVar[int]
    DELTA_SIZE_FIELD_NUMBER: _ClassVar[int]
    encoding: int
    raw_size: int
    checksum: bytes
    snapshot_size: int
    delta_size: int
    def __init__(self, encoding: _Optional[int] = ..., raw_size: _Optional[int] = ..., checksum: _Optional[bytes] = ..., snapshot_size: _Optional[int] = ..., delta_size: _Optional[int] = ...) -> None: ...

class ChainLink(_message.Message):
    __slots__ = ("version", "snapshot", "delta", "state_id", "envelope")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    STATE_ID_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    version: int
    snapshot: bytes
    delta: bytes
    state_id: bytes
    envelope: Envelope
    def __init__(self, version: _Optional[int] = ..., snapshot: _Optional[bytes] = ..., delta: _Optional[bytes] = ..., state_id: _Optional[bytes] = ..., envelope: _Optional[_Union[Envelope, _Mapping]] = ...) -> None: ...

class AttemptName(_message.Message):
    __slots__ = ("session_id", "message_id", "epoch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    message_id: str
    epoch: int
    def __init__(self, session_id: _Optional[str] = ..., message_id: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class AgentSpec(_message.Message):
    __slots__ = ("name", "schema", "schema_min", "turn_timeout_s", "max_attempts", "on_busy")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_MIN_FIELD_NUMBER: _ClassVar[int]
    TURN_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    ON_BUSY_FIELD_NUMBER: _ClassVar[int]
    name: str
    schema: SchemaName
    schema_min: int
    turn_timeout_s: float
    max_attempts: int
    on_busy: str
    def __init__(self, name: _Optional[str] = ..., schema: _Optional[_Union[SchemaName, _Mapping]] = ..., schema_min: _Optional[int] = ..., turn_timeout_s: _Optional[float] = ..., max_attempts: _Optional[int] = ..., on_busy: _Optional[str] = ...) -> None: ...

class HeldState(_message.Message):
    __slots__ = ("session_id", "name", "state_bytes")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    name: StateName
    state_bytes: int
    def __init__(self, session_id: _Optional[str] = ..., name: _Optional[_Union[StateName, _Mapping]] = ..., state_bytes: _Optional[int] = ...) -> None: ...

class Register(_message.Message):
    __slots__ = ("worker_id", "protocol_version", "build", "slots", "agents", "held", "attempts", "features")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    BUILD_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    protocol_version: int
    build: str
    slots: int
    agents: _containers.RepeatedCompositeFieldContainer[AgentSpec]
    held: _containers.RepeatedCompositeFieldContainer[HeldState]
    attempts: _containers.RepeatedCompositeFieldContainer[AttemptName]
    features: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, worker_id: _Optional[str] = ..., protocol_version: _Optional[int] = ..., build: _Optional[str] = ..., slots: _Optional[int] = ..., agents: _Optional[_Iterable[_Union[AgentSpec, _Mapping]]] = ..., held: _Optional[_Iterable[_Union[HeldState, _Mapping]]] = ..., attempts: _Optional[_Iterable[_Union[AttemptName, _Mapping]]] = ..., features: _Optional[_Iterable[str]] = ...) -> None: ...

class Registered(_message.Message):
    __slots__ = ("tenant", "ping_interval_s", "adopted")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PING_INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    ADOPTED_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    ping_interval_s: float
    adopted: _containers.RepeatedCompositeFieldContainer[AttemptName]
    def __init__(self, tenant: _Optional[str] = ..., ping_interval_s: _Optional[float] = ..., adopted: _Optional[_Iterable[_Union[AttemptName, _Mapping]]] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("code", "message", "hint")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    hint: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class Released(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class Committed(_message.Message):
    __slots__ = ("attempt",)
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    attempt: AttemptName
    def __init__(self, attempt: _Optional[_Union[AttemptName, _Mapping]] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("attempt", "reason")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    attempt: AttemptName
    reason: str
    def __init__(self, attempt: _Optional[_Union[AttemptName, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class NeedSnapshot(_message.Message):
    __slots__ = ("attempt",)
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    attempt: AttemptName
    def __init__(self, attempt: _Optional[_Union[AttemptName, _Mapping]] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("transfer", "data")
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    transfer: int
    data: bytes
    def __init__(self, transfer: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Credit(_message.Message):
    __slots__ = ("bytes",)
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    def __init__(self, bytes: _Optional[int] = ...) -> None: ...

class WorkerMessage(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[WorkerFrame]
    def __init__(self, frames: _Optional[_Iterable[_Union[WorkerFrame, _Mapping]]] = ...) -> None: ...

class HubMessage(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[HubFrame]
    def __init__(self, frames: _Optional[_Iterable[_Union[HubFrame, _Mapping]]] = ...) -> None: ...

class WorkerFrame(_message.Message):
    __slots__ = ("ping", "pong", "register", "response", "released", "chunk", "credit")
    PING_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    ping: Ping
    pong: Pong
    register: Register
    response: TextMessageResponse
    released: Released
    chunk: Chunk
    credit: Credit
    def __init__(self, ping: _Optional[_Union[Ping, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., register: _Optional[_Union[Register, _Mapping]] = ..., response: _Optional[_Union[TextMessageResponse, _Mapping]] = ..., released: _Optional[_Union[Released, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ...) -> None: ...

class HubFrame(_message.Message):
    __slots__ = ("ping", "pong", "registered", "refused", "request", "committed", "cancel", "need_snapshot", "release", "chunk", "credit")
    PING_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    NEED_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    ping: Ping
    pong: Pong
    registered: Registered
    refused: Refused
    request: TextMessageRequest
    committed: Committed
    cancel: Cancel
    need_snapshot: NeedSnapshot
    release: Release
    chunk: Chunk
    credit: Credit
    def __init__(self, ping: _Optional[_Union[Ping, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., registered: _Optional[_Union[Registered, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., request: _Optional[_Union[TextMessageRequest, _Mapping]] = ..., committed: _Optional[_Union[Committed, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., need_snapshot: _Optional[_Union[NeedSnapshot, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ...) -> None: ...
