"""A message's events: one rising cursor across attempts, readers at their own pace."""

import asyncio
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satchel.clock import Clock
from satchel.errors import PeerViolation
from satchel.hub import render
from satchel.hub import stream as stream_module
from satchel.hub.stream import TurnStream, ended_lines
from satchel.model import (
    ITEM_TYPES,
    SEQ_PER_START,
    Accepted,
    AgentHandoff,
    CommittedState,
    Complete,
    Content,
    FunctionCall,
    FunctionCallOutput,
    Message,
    MessageId,
    Restarted,
    SessionId,
    SessionKey,
    Tenant,
    TextDelta,
    TurnEvent,
    TurnReport,
    TurnStatus,
)
from satchel.store.base import Turn

DONE = Complete(session_state=CommittedState(version=1), turn=TurnReport())


def turn(*, starts: int = 0) -> Turn:
    return Turn(
        key=SessionKey(Tenant("default"), SessionId("alice")),
        message_id=MessageId("m1"),
        place=1,
        agent="concierge",
        text="hello",
        metadata=None,
        status=TurnStatus.QUEUED,
        starts=starts,
        starts_before=0,
        epoch=None,
        version=None,
        answer=None,
        error=None,
        worker_deadline_ms=None,
        accepted_at_ms=0,
        finished_at_ms=None,
    )


def said(text: str) -> Message:
    return Message(id="i", content=(Content(text),), created_at="2026-01-31T09:30:00.000Z")


async def read(stream: TurnStream, after: int = -1) -> list[tuple[int, str]]:
    events = []
    async for batch in stream.read(after):
        events += [(event["seq"], event["type"]) for event in map(json.loads, batch)]
    return events


async def test_the_cursor_rises_by_one_within_a_start():
    stream = TurnStream(turn(), clock=Clock())
    stream.restart(1, "")
    stream.add_pieces(1, "i", ("hel",))
    stream.add(2, said("hello"))
    stream.finish(DONE)

    events = await read(stream)

    first = SEQ_PER_START
    assert events == [
        (first, "accepted"),
        (first + 1, "text_delta"),
        (first + 2, "message"),
        (first + 3, "complete"),
    ]
    assert stream.answer == "hello"


async def test_a_restart_drops_what_the_lost_attempt_said():
    """A reader is told to drop it; one that comes later never sees it."""
    stream = TurnStream(turn(), clock=Clock())
    stream.restart(1, "")
    early = asyncio.create_task(read(stream))
    stream.add(1, said("half an ans"))
    await asyncio.sleep(0)
    stream.restart(2, "the worker was lost")
    stream.add(1, said("the answer"))
    stream.finish(DONE)

    late = await read(stream)

    assert [kind for _, kind in late] == ["accepted", "restarted", "message", "complete"]
    assert [seq for seq, _ in late[1:]] == [2 * SEQ_PER_START, 2 * SEQ_PER_START + 1, 2 * SEQ_PER_START + 2]
    seen = await early
    assert [seq for seq, _ in seen] == sorted({seq for seq, _ in seen}), "the cursor rises for every reader"
    assert stream.answer == "the answer"


@pytest.mark.parametrize("after_index", [0, 1, 2, 3, 99])
async def test_a_reader_resumes_behind_its_cursor_and_always_gets_the_end(after_index):
    """Somebody past the last event asked whether it ended: silence would be no answer."""
    stream = TurnStream(turn(), clock=Clock())
    stream.restart(1, "")
    stream.add(1, said("one"))
    stream.add(2, said("two"))
    stream.finish(DONE)

    events = await read(stream, SEQ_PER_START + after_index)

    assert [seq - SEQ_PER_START for seq, _ in events] == ([i for i in (1, 2, 3) if i > after_index] or [3])


async def test_events_sent_again_are_taken_once_and_a_gap_is_the_peers_fault():
    """An adopted attempt sends its events again, from the first."""
    stream = TurnStream(turn(starts=1), clock=Clock())
    stream.add(1, said("one"))
    stream.add(1, said("one"))
    stream.add(2, said("two"))

    with pytest.raises(PeerViolation):
        stream.add(4, said("four"))
    assert stream.answer == "one\ntwo"


async def test_a_hub_that_stops_lets_its_readers_go_without_an_end():
    """They resume by cursor at the next hub; an end would say that the turn is over."""
    stream = TurnStream(turn(), clock=Clock())
    reader = asyncio.create_task(read(stream))
    await asyncio.sleep(0)

    stream.cut()

    assert [kind for _, kind in await reader] == ["accepted"]


@pytest.mark.parametrize(("starts", "after"), [(0, -1), (2, -1), (2, 2 * SEQ_PER_START + 17)])
def test_a_turn_that_ended_without_a_commit_replays_with_a_rising_cursor(starts, after):
    """Its events were provisional and are gone; the end must not come before what a reader saw."""
    events = ended_lines(turn(starts=starts), DONE, after=after)

    seqs = [json.loads(line)["seq"] for line in events]
    assert json.loads(events[-1])["type"] == "complete"
    assert seqs == sorted(seqs)
    assert all(seq > after for seq in seqs)


# --- the bytes of a line ----------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ids = st.from_regex(r"[A-Za-z0-9_~:@+-][A-Za-z0-9._~:@+-]{0,127}", fullmatch=True)
contents = st.one_of(
    st.builds(Message, texts, st.lists(st.builds(Content, texts), max_size=3).map(tuple), texts),
    st.builds(FunctionCall, texts, texts, texts, texts, texts),
    st.builds(FunctionCallOutput, texts, texts, texts, texts, texts, st.booleans()),
    st.builds(AgentHandoff, texts, texts, texts, st.none() | texts),
)


def encoded(seq: int, attempt: int, names: Turn, kind: str, content: object) -> bytes:
    """Return a line as msgspec makes it of the whole event."""
    event = TurnEvent(
        seq=seq,
        attempt=attempt,
        type=kind,
        session_id=names.key.session_id,
        message_id=names.message_id,
        **{kind: content},
    )
    return msgspec.json.encode(event) + b"\n"


@given(ids, ids, st.integers(1, 2**20), st.lists(contents | st.lists(texts, min_size=1), max_size=5), texts)
def test_a_line_is_put_together_as_it_would_be_encoded(session_id, message_id, start, said_, item_id):
    """Readers, the store and the cursor take it for one: every byte is that of the encoded event."""
    names = msgspec.structs.replace(
        turn(), key=SessionKey(Tenant("t"), SessionId(session_id)), message_id=MessageId(message_id)
    )
    stream = TurnStream(names, clock=Clock())
    expected = [encoded(SEQ_PER_START, 1, names, "accepted", Accepted(names.agent, "1970-01-01T00:00:00.000Z"))]
    stream.restart(start, item_id)
    if start > 1:
        expected.append(encoded(start * SEQ_PER_START, start, names, "restarted", Restarted(item_id)))
    index = 0
    for content in said_:
        first = index + 1
        if isinstance(content, list):
            stream.add_pieces(first, item_id, tuple(content))
            events = [("text_delta", TextDelta(item_id, text)) for text in content]
        else:
            stream.add(first, content)
            events = [(ITEM_TYPES[type(content)], content)]
        for index, (kind, event) in enumerate(events, start=first):
            expected.append(encoded(start * SEQ_PER_START + index, start, names, kind, event))
    expected.append(encoded(start * SEQ_PER_START + index + 1, start, names, "complete", DONE))

    whole = stream.lines() + stream.last(DONE)
    stream.finish(DONE)

    assert whole == b"".join(expected)
    assert stream.reader(-1).take() == expected
    assert render.stored(whole, after=start * SEQ_PER_START + index) == expected[-1:]


# --- pieces ---------------------------------------------------------------------------------


def test_pieces_sent_again_are_taken_once():
    """An adopted attempt sends its pieces from the first; those that meet are merged otherwise than before."""
    stream = TurnStream(turn(starts=1), clock=Clock())
    stream.add_pieces(1, "i", ("a", "b"))
    before = stream.lines()

    stream.add_pieces(1, "i", ("a",))
    stream.add_pieces(1, "i", ("a", "b"))
    assert stream.lines() == before

    stream.add_pieces(2, "i", ("b", "c", "d"))
    assert stream.event_count == 4
    assert [json.loads(line)["text_delta"]["text"] for line in stream.reader(SEQ_PER_START).take()] == list("abcd")
    with pytest.raises(PeerViolation, match="Event 6 follows event 4"):
        stream.add_pieces(6, "i", ("f",))


def test_more_pieces_than_an_attempt_may_send_are_the_peers_fault(monkeypatch):
    """They are held in memory until the commit; a frame of many must not pass the bound by one frame."""
    stream = TurnStream(turn(starts=1), clock=Clock())
    stream.add_pieces(1, "i", ("x",))
    monkeypatch.setattr(stream_module, "TURN_EVENTS_BYTES_MAX", 3 * len(stream.reader(SEQ_PER_START).take()[0]))

    stream.add_pieces(2, "i", ("x", "x"))
    with pytest.raises(PeerViolation, match="more event bytes"):
        stream.add_pieces(4, "i", ("x",) * 1000)
    assert len(stream.reader(-1).take()) == 5


# --- readers --------------------------------------------------------------------------------


async def test_a_reader_takes_all_that_came_since_it_looked():
    """However many events met in one pass of the loop, it is woken once."""
    stream = TurnStream(turn(starts=1), clock=Clock())
    reader = stream.reader(SEQ_PER_START)
    waiting = reader.changed()
    assert not waiting.done()

    stream.add(1, said("one"))
    stream.add_pieces(2, "i", ("a", "b"))
    await waiting

    assert len(reader.take()) == 3
    assert reader.take() == []
    assert not reader.is_over


async def test_a_reader_that_is_ahead_of_what_this_hub_has_waits_for_what_is_behind_its_cursor():
    """It resumes after the hub before this one, whose attempt is sent again from the first event."""
    stream = TurnStream(turn(starts=1), clock=Clock())
    reader = stream.reader(SEQ_PER_START + 2)
    for index in (1, 2, 3):
        assert reader.take() == []
        stream.add(index, said(str(index)))

    assert [json.loads(line)["seq"] for line in reader.take()] == [SEQ_PER_START + 3]


async def test_a_reader_that_left_is_not_kept():
    stream = TurnStream(turn(starts=1), clock=Clock())
    reader = stream.reader(-1)

    reader.close()
    reader.close()

    assert not stream._readers
