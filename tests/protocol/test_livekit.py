"""LiveKit's own messages read ours, and ours read theirs: names and numbers are kept."""

import pytest
from google.protobuf import json_format
from livekit.protocol.agent_pb import agent_session, agent_text

from satchel.errors import PeerViolation
from satchel.model import rfc3339
from satchel.protocol import link_pb2 as pb
from satchel.protocol.codec import decode_hub, decode_worker, encode_hub, encode_worker
from satchel.protocol.messages import Event, Failure, FailureCode
from tests.protocol import frames
from tests.protocol.frames import ATTEMPT, ITEMS, RESULT

FIRST_OF_OURS = 16

PAIRS = [
    (pb.TextMessageRequest, agent_text.TextMessageRequest),
    (pb.TextMessageResponse, agent_text.TextMessageResponse),
    (pb.TextMessageComplete, agent_text.TextMessageComplete),
    (pb.AgentSessionState, agent_text.AgentSessionState),
    (pb.TextMessageError, agent_text.TextMessageError),
    (pb.ChatMessage, agent_session.ChatMessage),
    (pb.ChatMessage.ChatContent, agent_session.ChatMessage.ChatContent),
    (pb.FunctionCall, agent_session.FunctionCall),
    (pb.FunctionCallOutput, agent_session.FunctionCallOutput),
    (pb.AgentHandoff, agent_session.AgentHandoff),
]


def request_of(frame):
    return pb.HubMessage.FromString(encode_hub(frame)).frames[0].request.SerializeToString()


def response_of(frame):
    return pb.WorkerMessage.FromString(encode_worker(frame)).frames[0].response.SerializeToString()


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda kind: kind.DESCRIPTOR.name)
def test_fields_below_16_are_livekits_and_those_above_are_not(ours, theirs):
    """One number with two meanings would be read as the wrong one, silently."""
    theirs_by_number = {field.number: field for field in theirs.DESCRIPTOR.fields}
    for field in ours.DESCRIPTOR.fields:
        if field.number >= FIRST_OF_OURS:
            assert field.number not in theirs_by_number
        else:
            same = theirs_by_number[field.number]
            assert (field.name, field.type, field.is_repeated, field.has_presence) == (
                same.name, same.type, same.is_repeated, same.has_presence,
            )  # fmt: skip


def test_enums_are_livekits():
    assert pb.ChatRole.items() == agent_session.ChatRole.items()
    theirs = agent_text.TextMessageErrorCode.items()
    assert [item for item in pb.TextMessageErrorCode.items() if item[1] < FIRST_OF_OURS] == theirs
    assert {code.name: code.value for code in FailureCode} == dict(pb.TextMessageErrorCode.items())


def test_livekit_reads_our_request():
    message = agent_text.TextMessageRequest.FromString(request_of(frames.COLD_ALONE))

    assert (message.text, message.message_id, message.session_id) == ("a room", "m1", "alice")
    assert (message.agent_name, message.metadata) == ("concierge", '{"from":"sms"}')
    assert (message.session_state.version, message.session_state.snapshot) == (5, b"data")


@pytest.mark.parametrize(
    ("frame", "form"),
    [
        (frames.WARM, None),
        (frames.CATCH_UP_ONE, "delta"),
        (frames.CATCH_UP_MANY, None),
        (frames.COLD_ALONE, "snapshot"),
        (frames.COLD_WITH_DELTAS, None),
        (frames.ANNOUNCED_ALONE, None),
        (frames.ANNOUNCED_CHAIN, None),
    ],
)
def test_livekit_never_finds_a_part_of_a_state(frame, form):
    """It finds the whole payload, or none and answers not found."""
    message = agent_text.TextMessageRequest.FromString(request_of(frame))

    assert message.session_state.version == 5
    assert message.session_state.WhichOneof("data") == form


@pytest.mark.parametrize("item", ITEMS)
def test_livekit_reads_our_events(item):
    message = agent_text.TextMessageResponse.FromString(response_of(Event(ATTEMPT, 3, item)))

    name = message.WhichOneof("event")
    read = json_format.MessageToDict(getattr(message, name), preserving_proto_field_name=True)
    assert (message.message_id, message.session_id) == ("m1", "alice")
    assert read["id"] == item.id
    assert read["created_at"] == item.created_at


def test_livekit_sees_no_event_in_a_text_delta():
    """It skips what it does not know; the whole text follows as a message."""
    message = agent_text.TextMessageResponse.FromString(response_of(frames.PIECES))

    assert message.WhichOneof("event") is None


def test_livekit_reads_our_result_and_our_failure():
    done = agent_text.TextMessageResponse.FromString(response_of(RESULT)).complete
    failed = agent_text.TextMessageResponse.FromString(
        response_of(Failure(ATTEMPT, FailureCode.TEXT_HANDLER_ERROR, "ValueError"))
    ).complete

    assert (done.session_state.version, done.session_state.delta) == (6, b"data")
    assert (failed.error.message, failed.error.code) == ("ValueError", agent_text.TEXT_HANDLER_ERROR)


def test_we_read_livekits_events():
    """Theirs with our attempt beside it: an adapter adds the epoch and the index, no more."""
    theirs = agent_text.TextMessageResponse(
        message_id="m1",
        session_id="alice",
        message=agent_session.ChatMessage(
            id="i1", role=agent_session.ASSISTANT, content=[agent_session.ChatMessage.ChatContent(text="Booked.")]
        ),
    )
    theirs.message.created_at.FromMilliseconds(1_769_851_800_125)
    response = pb.TextMessageResponse.FromString(theirs.SerializeToString())
    response.epoch, response.index = 7, 1

    (frame,) = decode_worker(pb.WorkerMessage(frames=[pb.WorkerFrame(response=response)]).SerializeToString())

    assert frame == Event(ATTEMPT, 1, frames.Message("i1", (frames.Content("Booked."),), rfc3339(1_769_851_800_125)))


def test_we_read_livekits_request_and_error():
    theirs = agent_text.TextMessageRequest(
        text="a room",
        message_id="m1",
        session_id="alice",
        agent_name="concierge",
        session_state=agent_text.AgentSessionState(version=5, delta=b"data"),
    )
    error = agent_text.TextMessageError(message="gone", code=agent_text.SESSION_STATE_NOT_FOUND)

    request = pb.TextMessageRequest.FromString(theirs.SerializeToString())
    read = pb.TextMessageError.FromString(error.SerializeToString())

    assert (request.text, request.session_state.version, request.session_state.delta) == ("a room", 5, b"data")
    assert (read.message, read.code) == ("gone", FailureCode.SESSION_STATE_NOT_FOUND)


def test_a_request_in_livekits_bytes_alone_is_refused():
    """Without state ID and epoch there is no attempt to name, and nothing to fence."""
    theirs = agent_text.TextMessageRequest(text="x", message_id="m1", session_id="alice", agent_name="concierge")
    bare = pb.HubFrame(request=pb.TextMessageRequest.FromString(theirs.SerializeToString()))

    with pytest.raises(PeerViolation):
        decode_hub(pb.HubMessage(frames=[bare]).SerializeToString())
