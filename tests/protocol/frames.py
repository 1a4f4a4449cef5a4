"""Frames for the tests of the protocol: one of each kind, and strategies for any."""

import hypothesis.strategies as st

from satchel.limits import ID_LENGTH_MAX
from satchel.model import (
    AgentHandoff,
    AgentSpec,
    Content,
    Encoding,
    FunctionCall,
    FunctionCallOutput,
    Link,
    Message,
    OnBusy,
    Payload,
    PayloadKind,
    SchemaName,
    StateName,
    rfc3339,
)
from satchel.protocol.messages import (
    Announced,
    AttemptName,
    Cancel,
    Chunk,
    Committed,
    Credit,
    Event,
    Failure,
    FailureCode,
    HeldState,
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
    payloads_of,
    with_data,
)

AT = "2026-01-31T09:30:00.125Z"
ATTEMPT = AttemptName("alice", "m1", 7)
SCHEMA = SchemaName(3, b"f" * 32)
DIGEST = b"d" * 32


def state(version: int) -> StateName:
    return StateName(version, bytes([version]) * 16)


def payload(kind: PayloadKind, data: bytes = b"data") -> Payload:
    return Payload(kind, Encoding.ZSTD, 9, b"c" * 16, data)


SNAPSHOT, DELTA = payload(PayloadKind.SNAPSHOT), payload(PayloadKind.DELTA)
SPEC = AgentSpec("concierge", SCHEMA, 1, 600.0, 3, OnBusy.QUEUE)
REGISTER = Register("w1", 1, "2026.1", 32, (SPEC,), (HeldState("alice", state(4), 8192),), (ATTEMPT,), ("x",))
REGISTERED = Registered("default", 5.0, (ATTEMPT,))
RESULT = Result(ATTEMPT, state(6), state(5), DELTA, SCHEMA, 8192, DIGEST, {"booking": (1, 2, 0)}, 31.5, 2)


def request(*chain: Link, base: StateName) -> Request:
    return Request(
        attempt=ATTEMPT,
        start_number=2,
        attempt_number=1,
        agent="concierge",
        text="a room",
        metadata='{"from":"sms"}',
        accepted_at_ms=1_769_851_800_125,
        base=base,
        chain=chain,
        schema=None if base.version == 0 else SCHEMA,
        digest=DIGEST,
        wants_digest=True,
        wants_snapshot=False,
        delta_bytes_max=1000,
    )


NO_DATA = payload(PayloadKind.SNAPSHOT, b"")
ANNOUNCED_RESULT = Announced(
    Result(ATTEMPT, state(6), state(5), NO_DATA, SCHEMA, 8192, None, {}, 31.5, 2), transfer=3, sizes=(70_000,)
)
WARM = request(base=state(5))
CATCH_UP_ONE = request(Link(state(5), DELTA), base=state(5))
CATCH_UP_MANY = request(Link(state(4), DELTA), Link(state(5), DELTA), base=state(5))
COLD_ALONE = request(Link(state(5), SNAPSHOT), base=state(5))
COLD_WITH_DELTAS = request(Link(state(4), SNAPSHOT), Link(state(5), DELTA), base=state(5))

ANNOUNCED_ALONE = Announced(request(Link(state(5), NO_DATA), base=state(5)), transfer=1, sizes=(70_000,))
ANNOUNCED_CHAIN = Announced(
    request(Link(state(4), NO_DATA), Link(state(5), payload(PayloadKind.DELTA, b"")), base=state(5)),
    transfer=2,
    sizes=(70_000, 3),
)
CHUNK, CREDIT = Chunk(1, b"piece"), Credit(262_144)

MESSAGE = Message("i1", (Content("Booked."),), AT)
ITEMS = (
    MESSAGE,
    FunctionCall("i2", "c1", "book", '{"guest":"Ada"}', AT),
    FunctionCallOutput("i3", "c1", "book", "no room", AT, is_error=True),
    AgentHandoff("i4", "billing", AT, "concierge"),
)

PIECES = Pieces(ATTEMPT, 2, "i1", ("Boo", "ked."))

WORKER_FRAMES = (
    REGISTER,
    *(Event(ATTEMPT, index, item) for index, item in enumerate(ITEMS, start=1)),
    PIECES,
    RESULT,
    Failure(ATTEMPT, FailureCode.SESSION_STATE_NOT_FOUND, held=state(3)),
    Failure(ATTEMPT, FailureCode.TURN_REFUSED, "No rooms on Mondays.", handler_ms=2.5),
    Released("alice"),
    Ping(1),
    Pong(1),
    ANNOUNCED_RESULT,
    CHUNK,
    CREDIT,
)
HUB_FRAMES = (
    REGISTERED,
    Refused("LINK_REFUSED", "The schema is another.", "Deploy the same build."),
    request(base=state(0)),
    WARM,
    CATCH_UP_ONE,
    CATCH_UP_MANY,
    COLD_ALONE,
    COLD_WITH_DELTAS,
    Committed(ATTEMPT),
    Cancel(ATTEMPT, "timeout"),
    NeedSnapshot(ATTEMPT),
    Release("alice"),
    Ping(2),
    Pong(2),
    ANNOUNCED_ALONE,
    ANNOUNCED_CHAIN,
    CHUNK,
    CREDIT,
)

# --- any frame --------------------------------------------------------------------------------

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_labels = st.text(st.characters(exclude_categories=["Cs"]), max_size=ID_LENGTH_MAX)
_ids = st.from_regex(r"[A-Za-z0-9_~:@+-][A-Za-z0-9._~:@+-]{0,127}", fullmatch=True)
_numbers = st.integers(0, 2**63 - 1)
_counts = st.integers(1, 2**31)
_spans = st.floats(0, allow_nan=False, allow_infinity=False)
_times = st.integers(0, 253_402_300_799_999).map(rfc3339)
_hashes = st.binary(min_size=32, max_size=32)
_state_ids = st.binary(min_size=16, max_size=16)
_attempts = st.builds(AttemptName, _ids, _ids, st.integers(1, 2**63 - 1))
_schemas = st.builds(SchemaName, _numbers, _hashes)
_states = st.builds(StateName, st.integers(0, 2**62), _state_ids)


def _payloads(*kinds: PayloadKind) -> st.SearchStrategy[Payload]:
    return st.builds(
        Payload, st.sampled_from(kinds), st.sampled_from(Encoding), _numbers, _state_ids, st.binary(max_size=40)
    )


@st.composite
def _chains(draw: st.DrawFn, base: StateName) -> tuple[Link, ...]:
    length = draw(st.integers(0, min(4, base.version)))
    names = [StateName(base.version - back, draw(_state_ids)) for back in range(length - 1, 0, -1)] + [base]
    first = _payloads(*PayloadKind)
    later = _payloads(PayloadKind.DELTA)
    return tuple(Link(names[index], draw(first if index == 0 else later)) for index in range(length))


@st.composite
def _requests(draw: st.DrawFn) -> Request:
    base = draw(_states)
    return Request(
        attempt=draw(_attempts),
        start_number=draw(st.integers(1, 2**40)),
        attempt_number=draw(st.integers(1, 2**40)),
        agent=draw(_ids),
        text=draw(_texts),
        metadata=draw(_texts),
        accepted_at_ms=draw(_numbers),
        base=base,
        chain=draw(_chains(base)),
        schema=draw(st.none() | _schemas),
        digest=draw(st.none() | _hashes),
        wants_digest=draw(st.booleans()),
        wants_snapshot=draw(st.booleans()),
        delta_bytes_max=draw(_numbers),
    )


@st.composite
def _specs(draw: st.DrawFn) -> AgentSpec:
    schema = draw(_schemas)
    return AgentSpec(
        draw(_ids),
        schema,
        draw(st.integers(0, schema.number)),
        draw(_spans),
        draw(_counts),
        draw(st.sampled_from(OnBusy)),
    )


@st.composite
def _results(draw: st.DrawFn) -> Result:
    base = draw(_states)
    return Result(
        attempt=draw(_attempts),
        name=StateName(base.version + 1, draw(_state_ids)),
        base=base,
        payload=draw(_payloads(*PayloadKind)),
        schema=draw(st.none() | _schemas),
        state_bytes=draw(_numbers),
        digest=draw(st.none() | _hashes),
        changed_rows=draw(st.dictionaries(_texts, st.tuples(_numbers, _numbers, _numbers), max_size=3)),
        handler_ms=draw(_spans),
        events=draw(_numbers),
    )


def _tuples(each: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(each, max_size=3).map(tuple)


_items = st.one_of(
    st.builds(
        Message,
        _texts,
        _tuples(st.builds(Content, _texts)),
        _times,
        st.sampled_from(["DEVELOPER", "SYSTEM", "USER", "ASSISTANT"]),
    ),
    st.builds(FunctionCall, _texts, _texts, _texts, _texts, _times),
    st.builds(FunctionCallOutput, _texts, _texts, _texts, _texts, _times, st.booleans()),
    st.builds(AgentHandoff, _texts, _texts, _times, st.none() | _texts),
)
_beats = st.one_of(st.builds(Ping, _numbers), st.builds(Pong, _numbers))
_carried = st.one_of(
    st.builds(Chunk, st.integers(1, 2**63 - 1), st.binary(min_size=1, max_size=40)),
    st.builds(Credit, st.integers(1, 2**63 - 1)),
)


@st.composite
def _announced(draw: st.DrawFn, frames: st.SearchStrategy) -> Announced:
    frame = draw(frames.filter(payloads_of))
    payloads = payloads_of(frame)
    sizes = draw(st.lists(st.integers(0, 2**24), min_size=len(payloads), max_size=len(payloads)).filter(any))
    return Announced(with_data(frame, [b""] * len(payloads)), draw(st.integers(1, 2**63 - 1)), tuple(sizes))


worker_frames = st.one_of(
    st.builds(
        Register,
        _ids,
        st.integers(0, 2**32 - 1),
        _labels,
        _counts,
        st.lists(_specs(), min_size=1, max_size=3).map(tuple),
        _tuples(st.builds(HeldState, _ids, _states, _numbers)),
        _tuples(_attempts),
        _tuples(_labels),
    ),
    st.builds(Event, _attempts, st.integers(1, 2**40), _items),
    st.builds(Pieces, _attempts, st.integers(1, 2**40), _texts, st.lists(_texts, min_size=1, max_size=3).map(tuple)),
    _results(),
    st.builds(Failure, _attempts, st.sampled_from(FailureCode), _texts, st.none() | _states, _spans),
    st.builds(Released, _ids),
    _beats,
    _carried,
    _announced(_results()),
)
hub_frames = st.one_of(
    st.builds(Registered, _ids, st.floats(0.001, 1000), _tuples(_attempts)),
    st.builds(Refused, _texts, _texts, _texts),
    _requests(),
    st.builds(Committed, _attempts),
    st.builds(Cancel, _attempts, _texts),
    st.builds(NeedSnapshot, _attempts),
    st.builds(Release, _ids),
    _beats,
    _carried,
    _announced(_requests()),
)
