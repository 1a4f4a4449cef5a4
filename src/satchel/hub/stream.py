"""One message's events in the owner hub's memory, and reading them by cursor.

Uncommitted events live only here. A restart drops what the lost attempt sent;
every reader keeps its own cursor, and none slows the turn.
"""

import asyncio
import bisect
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from satchel.clock import Clock
from satchel.errors import PeerViolation
from satchel.limits import TURN_EVENTS_BYTES_MAX
from satchel.model import (
    ITEM_TYPES,
    SEQ_PER_START,
    Accepted,
    Complete,
    Item,
    Message,
    Restarted,
    TurnEvent,
    TurnStatus,
    rfc3339,
)
from satchel.store.base import Turn


class TurnStream:
    """The events of one message while it is queued or running, and shortly after."""

    def __init__(self, turn: Turn, *, clock: Clock, waited_ms: float = 0) -> None:
        """*waited_ms*: how old the message was when this hub took it up."""
        self._turn = turn
        self._waited_ms = waited_ms
        self._start = start_of_end(turn)
        self._index = 0
        self._bytes = 0
        self._texts: list[str] = []
        self._changed = asyncio.Event()
        self._stopwatch_s = clock.stopwatch_s
        self._since = self._stopwatch_s()
        self.is_done = False
        self._is_cut = False
        self._accepted = self._line(
            1, 0, "accepted", Accepted(agent=turn.agent, accepted_at=rfc3339(turn.accepted_at_ms))
        )
        self._events: list[tuple[int, bytes]] = [(SEQ_PER_START, self._accepted)]
        if turn.status is TurnStatus.RUNNING and turn.starts > 1:
            self._append("restarted", Restarted(reason="the message runs again"), index=0)

    @property
    def answer(self) -> str:
        """The texts said so far in this start, joined by newlines."""
        return "\n".join(self._texts)

    @property
    def event_count(self) -> int:
        """How many events of this start arrived."""
        return self._index

    def age_ms(self) -> float:
        """Milliseconds since the message was accepted."""
        return self._waited_ms + 1000 * (self._stopwatch_s() - self._since)

    def restart(self, start_number: int, reason: str) -> None:
        """Begin the events of start *start_number*; the first has nothing to drop."""
        self._start, self._index, self._bytes, self._texts = start_number, 0, 0, []
        if start_number > 1:
            del self._events[1:]
            self._append("restarted", Restarted(reason=reason), index=0)

    def add(self, index: int, item: Item) -> None:
        """Append an attempt's *index*-th event. Raises ``PeerViolation`` for a gap or too much."""
        if index <= self._index:
            return  # sent again after an adoption
        if index != self._index + 1:
            raise PeerViolation(f"Event {index} follows event {self._index}.")
        if isinstance(item, Message):
            self._texts.append(item.text)
        self._append(ITEM_TYPES[type(item)], item, index=index)
        if self._bytes > TURN_EVENTS_BYTES_MAX:
            raise PeerViolation("The attempt sent more event bytes than one attempt may.")

    def last(self, complete: Complete) -> bytes:
        """Return the line that ``finish`` would append: it is stored before it is shown."""
        return self._line(self._start, self._index + 1, "complete", complete)

    def lines(self) -> bytes:
        """Return what is stored with the commit, without the last line."""
        return b"".join(line for _, line in self._events)

    def finish(self, complete: Complete) -> None:
        """Append the last event and let the readers go.

        The end of a turn that was not committed has the last number of its start: it is
        beyond every event, also those that only a hub before this one has seen.
        """
        self.is_done = True
        index = self._index + 1 if complete.error is None else SEQ_PER_START - 1
        self._append("complete", complete, index=index)

    def replay(self, lines: bytes) -> None:
        """Replace what is here by what was stored with the commit, but for the last event, which ``finish`` appends."""
        stored = [(msgspec.json.decode(line, type=TurnEvent).seq, line) for line in lines.splitlines(keepends=True)]
        self._events = stored[:-1]
        self._start, self._index = divmod(self._events[-1][0], SEQ_PER_START)

    def cut(self) -> None:
        """Let the readers go without an end: the hub stops, and they resume at the next one."""
        self._is_cut = True
        self._changed.set()

    async def read(self, after: int) -> AsyncIterator[list[tuple[int, bytes]]]:
        """Yield batches of (seq, line) with ``seq > after``, until the last event was among them.

        The last event is always sent: a reader that is past it asked whether it ended.
        A hub that stops ends the reading without it.
        """
        while True:
            changed = self._changed
            batch = self._events[bisect.bisect_right(self._events, after, key=_seq) :]
            if self.is_done and not batch:
                batch = self._events[-1:]
            if batch:
                after = batch[-1][0]
                yield batch
            elif self._is_cut:
                return
            else:
                await changed.wait()
            if self.is_done and after >= self._events[-1][0]:
                return

    def _append(self, kind: str, content: object, *, index: int) -> None:
        line = self._line(self._start, index, kind, content)
        self._index = index
        self._bytes += len(line)
        self._events.append((self._start * SEQ_PER_START + index, line))
        self._changed.set()
        self._changed = asyncio.Event()

    def _line(self, start: int, index: int, kind: str, content: object) -> bytes:
        return event_line(self._turn, start * SEQ_PER_START + index, start, kind, content)


def _seq(event: tuple[int, bytes]) -> int:
    return event[0]


def start_of_end(turn: Turn) -> int:
    """Return the start whose numbers the end of a turn has: its last, or the one it waits for since it was sent."""
    return turn.starts + (turn.starts == turn.starts_before)


def event_line(turn: Turn, seq: int, attempt: int, kind: str, content: object) -> bytes:
    """Return one event as a line of JSON."""
    named: dict[str, Any] = {kind: content}  # the field is named like the type
    event = TurnEvent(
        seq=seq,
        attempt=attempt,
        type=kind,
        session_id=turn.key.session_id,
        message_id=turn.message_id,
        **named,
    )
    return msgspec.json.encode(event) + b"\n"


def ended_lines(turn: Turn, complete: Complete, *, after: int) -> list[tuple[int, bytes]]:
    """Return what a reader of a turn that ended without a commit gets: accepted, and its end.

    The events between were provisional and are gone.
    """
    start = start_of_end(turn)
    events = []
    if after < SEQ_PER_START:
        accepted = Accepted(agent=turn.agent, accepted_at=rfc3339(turn.accepted_at_ms))
        events.append((SEQ_PER_START, event_line(turn, SEQ_PER_START, 1, "accepted", accepted)))
    seq = start * SEQ_PER_START + SEQ_PER_START - 1
    return [*events, (seq, event_line(turn, seq, start, "complete", complete))]
