"""What waits is sent as few, larger things, and means the same."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from satchel.limits import PACKED_BYTES_MAX
from satchel.model import Content, Message
from satchel.protocol.codec import encode_worker
from satchel.protocol.messages import AttemptName, Event, Pieces, Released, WorkerFrame
from satchel.protocol.packing import merged
from tests.protocol import frames
from tests.protocol.frames import ATTEMPT

OTHER = AttemptName("bob", "m1", 3)


def said(index: int, *texts: str, attempt: AttemptName = ATTEMPT, item_id: str = "i1") -> Pieces:
    return Pieces(attempt, index, item_id, texts)


def told(frames_: list[WorkerFrame], attempt: AttemptName) -> list[tuple[int, object]]:
    """Return an attempt's events as the hub numbers them."""
    events: list[tuple[int, object]] = []
    for frame in frames_:
        match frame:
            case Pieces() if frame.attempt == attempt:
                events += [(frame.index + at, (frame.item_id, text)) for at, text in enumerate(frame.texts)]
            case Event() if frame.attempt == attempt:
                events.append((frame.index, frame.item))
    return events


def test_pieces_that_meet_become_one_frame_and_others_stand_in_no_ones_way():
    """Two hundred streams share a link: what each of them said since the last message is one frame."""
    waiting = [said(1, "a"), said(1, "x", attempt=OTHER), said(2, "b"), Released("carol"), said(2, "y", attempt=OTHER)]

    assert merged(waiting) == [said(1, "a", "b"), said(1, "x", "y", attempt=OTHER), Released("carol")]


def test_a_whole_message_parts_the_pieces_before_it_from_those_behind():
    whole = Event(ATTEMPT, 3, Message("i1", (Content("ab"),), frames.AT))
    waiting = [said(1, "a"), said(2, "b"), whole, said(4, "c", item_id="i2")]

    assert merged(waiting) == [said(1, "a", "b"), whole, said(4, "c", item_id="i2")]


def test_pieces_of_two_messages_or_with_a_gap_between_are_not_taken_for_neighbours():
    """The numbers are the cursor: a piece under another's number would be lost to a reader that resumes."""
    for waiting in ([said(1, "a"), said(2, "b", item_id="i2")], [said(1, "a"), said(3, "c")], [said(2, "b"), said(1)]):
        assert merged(waiting) == waiting


@st.composite
def talk(draw: st.DrawFn) -> list[WorkerFrame]:
    """What several attempts say, each in order, between each other."""
    lanes: list[list[WorkerFrame]] = []
    for attempt in (ATTEMPT, OTHER):
        indices = itertools.count(1)
        lane: list[WorkerFrame] = []
        for item_id, texts, is_whole in draw(
            st.lists(st.tuples(st.sampled_from("ij"), st.lists(st.text(max_size=5), min_size=1), st.booleans()))
        ):
            if is_whole:
                lane.append(Event(attempt, next(indices), Message(item_id, (), frames.AT)))
            else:
                first = next(indices)
                lane.append(Pieces(attempt, first, item_id, tuple(texts)))
                for _ in texts[1:]:
                    next(indices)
        lanes.append(lane)
    order = draw(st.permutations([number for number, lane in enumerate(lanes) for _ in lane]))
    return [lanes[number].pop(0) for number in order]


@given(talk())
def test_merging_changes_no_attempts_events(waiting: list[WorkerFrame]):
    for attempt in (ATTEMPT, OTHER):
        assert told(merged(waiting), attempt) == told(waiting, attempt)


@given(st.lists(st.integers(1, PACKED_BYTES_MAX // 2), max_size=12))
def test_a_merged_frame_has_its_bound(sizes: list[int]):
    """A frame of many pieces must not delay the others for longer than a message may."""
    waiting = [said(index, "é" * size) for index, size in enumerate(sizes, start=1)]

    out = merged(waiting)

    assert told(out, ATTEMPT) == told(waiting, ATTEMPT)
    assert all(len(encode_worker(frame)) <= PACKED_BYTES_MAX for frame in out if len(frame.texts) > 1)
