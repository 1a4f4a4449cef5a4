"""Frames survive the wire; nothing else gets in."""

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from satchel.errors import InvalidRequest, MessageTooLarge, PeerViolation
from satchel.limits import (
    CHAIN_BYTES_MAX,
    EVENT_BYTES_MAX,
    FRAME_BYTES_MAX,
    LINK_MESSAGE_BYTES_MAX,
    METADATA_BYTES_MAX,
    PACKED_BYTES_MAX,
    TEXT_BYTES_MAX,
)
from satchel.model import Content, Message, StateName
from satchel.protocol import link_pb2 as pb
from satchel.protocol.codec import decode_hub, decode_worker, encode_hub, encode_worker
from satchel.protocol.messages import Event, Pieces, Ping, Pong, Release
from tests.protocol import frames
from tests.protocol.frames import ATTEMPT, COLD_WITH_DELTAS, HUB_FRAMES, RESULT, WARM, WORKER_FRAMES


@given(frames.worker_frames)
def test_a_worker_frame_survives_the_wire(frame):
    assert decode_worker(encode_worker(frame)) == [frame]


@given(frames.hub_frames)
def test_a_hub_frame_survives_the_wire(frame):
    assert decode_hub(encode_hub(frame)) == [frame]


@pytest.mark.parametrize("frame", WORKER_FRAMES, ids=lambda frame: type(frame).__name__)
def test_each_worker_frame_survives_the_wire(frame):
    assert decode_worker(encode_worker(frame)) == [frame]


@pytest.mark.parametrize("frame", HUB_FRAMES, ids=lambda frame: type(frame).__name__)
def test_each_hub_frame_survives_the_wire(frame):
    assert decode_hub(encode_hub(frame)) == [frame]


@given(st.binary(max_size=300))
@example(b"")
def test_any_bytes_are_a_frame_or_a_violation(data):
    """What a peer sends can end its link, and nothing else."""
    for decode in (decode_worker, decode_hub):
        try:
            decode(data)
        except PeerViolation as violation:
            assert violation.details["field"]  # noqa: PT017  # either outcome is legal


@given(st.data())
def test_a_damaged_frame_is_a_frame_or_a_violation(data):
    """Damage near the format reaches the checks behind the parser."""
    encoded, decode = data.draw(
        st.sampled_from(
            [(encode_worker(frame), decode_worker) for frame in WORKER_FRAMES]
            + [(encode_hub(frame), decode_hub) for frame in HUB_FRAMES]
        )
    )
    at = data.draw(st.integers(0, len(encoded) - 1))
    put = data.draw(st.binary(max_size=3))
    cut = data.draw(st.integers(0, 3))

    try:
        decode(encoded[:at] + put + encoded[at + cut :])
    except PeerViolation as violation:
        assert violation.details["field"]  # noqa: PT017  # either outcome is legal


def test_the_wire_is_pinned():
    """A released peer reads these bytes: they change with the protocol's version, not before."""
    assert encode_worker(Ping(1)).hex() == "0a040a020801"
    assert encode_hub(Release("alice")).hex() == "0a0ab201070a05616c696365"
    assert encode_worker(Pieces(ATTEMPT, 2, "i1", ("Boo",))).hex() == (
        "0a1f221d0a026d311205616c6963658001078801029201090a0269311203426f6f"
    )
    every = b"".join([*map(encode_worker, WORKER_FRAMES), *map(encode_hub, HUB_FRAMES)])
    assert hashlib.sha256(every).hexdigest() == GOLDEN


GOLDEN = "e7b4bddc047e5fbb14ce4ba10d73335697abd06178ab5ecf01f40a8baa4736c6"
"""SHA-256 of one frame of each kind and form, in the order of ``frames``."""


def test_a_chain_with_deltas_behind_a_snapshot_hides_it_from_other_readers():
    """A reader that knows only LiveKit's fields must find no state, not serve the first for the last."""
    state = pb.HubMessage.FromString(encode_hub(COLD_WITH_DELTAS)).frames[0].request.session_state

    assert state.WhichOneof("data") is None
    assert [link.WhichOneof("data") for link in state.chain] == ["snapshot", "delta"]


# --- refused ------------------------------------------------------------------------------------


def damaged_request(frame=WARM, **fields: object):
    message = pb.HubMessage.FromString(encode_hub(frame))
    _put(message.frames[0].request, fields)
    return message.SerializeToString()


def damaged_result(**fields: object):
    message = pb.WorkerMessage.FromString(encode_worker(RESULT))
    _put(message.frames[0].response, fields)
    return message.SerializeToString()


def damaged_register(**fields: object):
    message = pb.WorkerMessage.FromString(encode_worker(frames.REGISTER))
    _put(message.frames[0].register, fields)
    return message.SerializeToString()


def _put(message, fields):
    """Set each field; its name may be a path whose steps are parted by two underscores."""
    for path, value in fields.items():
        *steps, last = path.split("__")
        target = message
        for step in steps:
            target = target[int(step)] if step.isdigit() else getattr(target, step)
        if value is None:
            target.ClearField(last)
        else:
            setattr(target, last, value)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("session_id", {"session_id": ".."}),
        ("session_id", {"session_id": "a/b"}),
        ("message_id", {"message_id": ""}),
        ("message_id", {"message_id": "m" * 129}),
        ("agent_name", {"agent_name": "a b"}),
        ("epoch", {"epoch": 0}),
        ("epoch", {"epoch": 2**63}),
        ("start_number", {"start_number": 0}),
        ("attempt_number", {"attempt_number": 0}),
        ("accepted_at_ms", {"accepted_at_ms": 2**63}),
        ("delta_bytes_max", {"delta_bytes_max": 2**63}),
        ("text", {"text": "x" * (TEXT_BYTES_MAX + 1)}),
        ("metadata", {"metadata": "x" * (METADATA_BYTES_MAX + 1)}),
        ("state_id", {"session_state": None}),
        ("state_id", {"session_state__state_id": b"x" * 15}),
        ("version", {"session_state__version": 2**63}),
        ("digest", {"session_state__digest": b"x" * 33}),
        ("fingerprint", {"session_state__schema__fingerprint": b"x" * 31}),
    ],
)
def test_a_request_out_of_shape_is_refused_by_the_fields_name(field, change):
    with pytest.raises(PeerViolation) as caught:
        decode_hub(damaged_request(**change))

    assert caught.value.details == {"field": field}


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("chain", {"session_state__chain__1__version": 7}),
        ("chain", {"session_state__chain__1__state_id": b"z" * 16}),
        ("chain", {"session_state__version": 6}),
        ("chain", {"session_state__chain__1__snapshot": b"x"}),
        ("chain", {"session_state__delta": b"x"}),
        ("version", {"session_state__chain__0__version": 0}),
        ("data", {"session_state__chain__0__snapshot": None}),
        ("checksum", {"session_state__chain__0__envelope": None}),
        ("checksum", {"session_state__chain__0__envelope__checksum": b"x"}),
        ("encoding", {"session_state__chain__0__envelope__encoding": 9}),
        ("raw_size", {"session_state__chain__0__envelope__raw_size": 2**63}),
    ],
)
def test_a_chain_out_of_shape_is_refused(field, change):
    """A gap, a snapshot in the middle, another end, an envelope that is none."""
    with pytest.raises(PeerViolation) as caught:
        decode_hub(damaged_request(COLD_WITH_DELTAS, **change))

    assert caught.value.details == {"field": field}


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("epoch", {"epoch": 0}),
        ("result", {"complete__session_state": None}),
        ("event", {"complete": None, "index": 1}),
        ("data", {"complete__session_state__delta": None}),
        ("base", {"complete__session_state__base": None}),
        ("version", {"complete__session_state__version": 7}),
        ("version", {"complete__session_state__version": 5}),
        ("state_id", {"complete__session_state__state_id": b""}),
        ("fingerprint", {"complete__session_state__schema__fingerprint": b"x"}),
        ("state_bytes", {"complete__session_state__state_bytes": 2**63}),
        ("handler_ms", {"complete__handler_ms": float("nan")}),
        ("handler_ms", {"complete__handler_ms": -1.0}),
        ("events", {"complete__events": 2**63}),
        ("code", {"complete__error__code": 99}),
        ("message", {"complete__error__message": "x" * (TEXT_BYTES_MAX + 1)}),
        ("state_id", {"complete__error__held__state_id": b"x"}),
        ("held", {"complete__error__held__version": 1}),
        ("index", {"text_delta__item_id": "x"}),
        ("text", {"text_delta__item_id": "x", "index": 1}),
        ("role", {"message__role": 9, "index": 1}),
        ("created_at", {"message__id": "x", "index": 1}),
        ("created_at", {"message__created_at__seconds": -1, "index": 1}),
        ("created_at", {"message__created_at__nanos": 10**9, "index": 1}),
    ],
)
def test_a_response_out_of_shape_is_refused_by_the_fields_name(field, change):
    with pytest.raises(PeerViolation) as caught:
        decode_worker(damaged_result(**change))

    assert caught.value.details == {"field": field}


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("worker_id", {"worker_id": ""}),
        ("build", {"build": "x" * 129}),
        ("slots", {"slots": 0}),
        ("agent name", {"agents__0__name": ""}),
        ("schema_min", {"agents__0__schema_min": 4}),
        ("on_busy", {"agents__0__on_busy": "steal"}),
        ("turn_timeout_s", {"agents__0__turn_timeout_s": float("inf")}),
        ("max_attempts", {"agents__0__max_attempts": 0}),
        ("session_id", {"held__0__session_id": ""}),
        ("held", {"held__0__name": None}),
        ("message_id", {"attempts__0__message_id": "/"}),
    ],
)
def test_a_register_out_of_shape_is_refused_by_the_fields_name(field, change):
    with pytest.raises(PeerViolation) as caught:
        decode_worker(damaged_register(**change))

    assert caught.value.details == {"field": field}


@pytest.mark.parametrize("version", [3, 5])
def test_a_chain_with_a_gap_is_refused(version):
    """It ends where it should: only the step from link to link shows that one is missing, or twice there."""
    with pytest.raises(PeerViolation, match="gap"):
        decode_hub(damaged_request(COLD_WITH_DELTAS, session_state__chain__0__version=version))


@pytest.mark.parametrize(
    ("frame", "field", "change"),
    [
        (frames.ANNOUNCED_ALONE, "data", {"session_state__snapshot": b"x"}),
        (frames.ANNOUNCED_CHAIN, "data", {"session_state__chain__1__delta": b"x"}),
        (frames.ANNOUNCED_CHAIN, "data", {"session_state__chain__1__envelope__delta_size": None}),
        (COLD_WITH_DELTAS, "data", {"session_state__chain__1__envelope__delta_size": 3}),
        (frames.ANNOUNCED_ALONE, "data", {"session_state__transfer": 0}),
        (frames.COLD_ALONE, "data", {"session_state__transfer": 1}),
        (WARM, "transfer", {"session_state__transfer": 1}),
        (frames.ANNOUNCED_ALONE, "transfer", {"session_state__transfer": 2**63}),
        (frames.ANNOUNCED_ALONE, "transfer", {"session_state__envelope__snapshot_size": 0}),
        (frames.ANNOUNCED_ALONE, "transfer", {"session_state__envelope__snapshot_size": CHAIN_BYTES_MAX + 1}),
        (frames.ANNOUNCED_CHAIN, "transfer", {"session_state__chain__1__envelope__delta_size": CHAIN_BYTES_MAX}),
    ],
)
def test_data_stands_in_its_frame_or_follows_it(frame, field, change):
    """All of a frame's payloads in one way, and within the bound of a chain: else bytes would be nobody's."""
    with pytest.raises(PeerViolation) as caught:
        decode_hub(damaged_request(frame, **change))

    assert caught.value.details == {"field": field}


@pytest.mark.parametrize(("field", "frame"), [("chunk", pb.Chunk(transfer=1)), ("transfer", pb.Chunk(data=b"x"))])
def test_a_chunk_has_bytes_and_says_whose(field, frame):
    """An empty one costs the receiver work that no credit bounds."""
    with pytest.raises(PeerViolation) as caught:
        decode_hub(pb.HubMessage(frames=[pb.HubFrame(chunk=frame)]).SerializeToString())

    assert caught.value.details == {"field": field}


def test_a_worker_without_agents_is_refused():
    message = pb.WorkerMessage.FromString(encode_worker(frames.REGISTER))
    del message.frames[0].register.agents[:]

    with pytest.raises(PeerViolation, match="agents"):
        decode_worker(message.SerializeToString())


def test_content_that_is_not_text_is_refused():
    """LiveKit has other parts; showing half of a message would be silent loss."""
    message = pb.WorkerMessage.FromString(encode_worker(Event(ATTEMPT, 1, frames.MESSAGE)))
    message.frames[0].response.message.content.add()

    with pytest.raises(PeerViolation, match="content"):
        decode_worker(message.SerializeToString())


def test_fields_of_a_newer_peer_are_skipped():
    """A field can be added without a new protocol version; a kind of frame cannot."""
    unknown_field = bytes([0xFA, 0x3F, 0x01, 0x78])  # number 1023, one byte
    ping = pb.WorkerFrame(ping=pb.Ping(number=1)).SerializeToString()

    assert decode_worker(message_of(ping + unknown_field) + unknown_field) == [Ping(1)]
    with pytest.raises(PeerViolation, match="of no kind"):
        decode_worker(message_of(unknown_field))


def message_of(frame: bytes) -> bytes:
    """Return a message with one frame of less than 128 bytes."""
    return bytes([0x0A, len(frame)]) + frame


def test_each_side_refuses_the_others_frames():
    """No number is used by both: a frame that came back must not be read as something else."""
    for encode, decode, sent in ((encode_worker, decode_hub, WORKER_FRAMES), (encode_hub, decode_worker, HUB_FRAMES)):
        for frame in sent:
            if not isinstance(frame, Ping | Pong):
                with pytest.raises(PeerViolation, match="of no kind"):
                    decode(encode(frame))


# --- bounds ----------------------------------------------------------------------------------


def test_an_event_may_have_its_bound_and_no_more():
    fits = "x" * (EVENT_BYTES_MAX - len("i1") - 6)

    decode_worker(encode_worker(Pieces(ATTEMPT, 1, "i1", (fits,))))
    with pytest.raises(PeerViolation, match="event"):
        decode_worker(encode_worker(Pieces(ATTEMPT, 1, "i1", (fits + "x",))))


def test_a_frame_over_its_bound_is_not_sent():
    """The peer would close the link, and every turn on it would pay."""
    huge = frames.payload(frames.PayloadKind.DELTA, bytes(FRAME_BYTES_MAX))

    with pytest.raises(MessageTooLarge):
        encode_hub(frames.request(frames.Link(frames.state(5), huge), base=frames.state(5)))


def test_a_frame_over_its_bound_is_not_read():
    with pytest.raises(PeerViolation, match="frame"):
        decode_worker(bytes(LINK_MESSAGE_BYTES_MAX + 1))


@pytest.mark.parametrize(
    "item",
    [
        Message("i1", (Content("\ud800"),), frames.AT),
        Message("i1", (Content("x"),), "2026-01-31 09:30:00"),
        Message("i1", (Content("x"),), "1969-12-31T23:59:59.000Z"),
        Message("i1", (Content("x"),), "2026-02-31T09:30:00.125Z"),
        Message("i1", (Content("x"),), "2026-01-31T09:30:00.125Z", role="NOBODY"),
    ],
)
def test_what_the_format_cannot_hold_is_told_to_the_sender(item):
    """The handler's mistake is its own turn's, not the link's."""
    with pytest.raises(InvalidRequest):
        encode_worker(Event(ATTEMPT, 1, item))


def test_a_chain_that_ends_elsewhere_is_our_own_bug():
    with pytest.raises(AssertionError):
        encode_hub(frames.request(frames.Link(StateName(4, b"x" * 16), frames.DELTA), base=frames.state(5)))


# --- several frames in one message -----------------------------------------------------------


@given(st.lists(frames.worker_frames, min_size=1, max_size=5))
def test_the_bytes_of_messages_behind_each_other_are_one_message(sent):
    """A writer joins what waits without encoding it again."""
    assert decode_worker(b"".join(map(encode_worker, sent))) == sent


@given(st.lists(frames.hub_frames, min_size=1, max_size=5))
def test_the_same_of_a_hubs_messages(sent):
    assert decode_hub(b"".join(map(encode_hub, sent))) == sent


def test_a_message_is_as_protobuf_writes_it():
    """A worker in another language makes it with its own library."""
    for frame in (*WORKER_FRAMES, Event(ATTEMPT, 1, Message("i", (Content("x" * 20_000),), frames.AT))):
        data = encode_worker(frame)
        assert pb.WorkerMessage.FromString(data).SerializeToString(deterministic=True) == data


@pytest.mark.parametrize("decode", [decode_worker, decode_hub])
def test_a_message_without_a_frame_is_refused(decode):
    with pytest.raises(PeerViolation, match="frame is missing"):
        decode(b"")


def test_several_frames_share_a_message_up_to_its_bound():
    """A reader follows a whole message before it does anything else: a million pings must not hold it up."""
    ping = encode_worker(Ping(1))
    most = PACKED_BYTES_MAX // len(ping)

    assert len(decode_worker(ping * most)) == most
    with pytest.raises(PeerViolation, match="one of several"):
        decode_worker(ping * (most + 1))
