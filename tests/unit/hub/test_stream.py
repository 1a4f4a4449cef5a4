"""A message's events: one rising cursor across attempts, readers at their own pace."""

import asyncio
import json

import pytest

from satchel.clock import Clock
from satchel.errors import PeerViolation
from satchel.hub.stream import TurnStream, ended_lines
from satchel.model import (
    SEQ_PER_START,
    CommittedState,
    Complete,
    Content,
    Message,
    MessageId,
    SessionId,
    SessionKey,
    Tenant,
    TextDelta,
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
        events += [(seq, json.loads(line)["type"]) for seq, line in batch]
    return events


async def test_the_cursor_rises_by_one_within_a_start():
    stream = TurnStream(turn(), clock=Clock())
    stream.restart(1, "")
    stream.add(1, TextDelta("i", "hel"))
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

    seqs = [seq for seq, _ in events]
    assert json.loads(events[-1][1])["type"] == "complete"
    assert seqs == sorted(seqs)
    assert all(seq > after for seq in seqs)
