"""One message's events in the owner hub's memory, and reading them by cursor.

Uncommitted events live only here, as the lines that readers get and the store keeps. A
restart drops what the lost attempt sent; every reader keeps its own cursor, and none
slows the turn.
"""

import asyncio
import bisect
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from satchel.clock import Clock
from satchel.errors import PeerViolation
from satchel.limits import TURN_EVENTS_BYTES_MAX
from satchel.model import (
    ITEM_TYPES,
    SEQ_PER_START,
    Accepted,
    Complete,
    Message,
    Restarted,
    TurnEvent,
    TurnStatus,
    WholeItem,
    rfc3339,
)
from satchel.store.base import Turn

_json = msgspec.json.Encoder().encode


class TurnStream:
    """The events of one message while it is queued or running, and shortly after."""

    def __init__(self, turn: Turn, *, clock: Clock, waited_ms: float = 0) -> None:
        """*waited_ms*: how old the message was when this hub took it up."""
        self._waited_ms = waited_ms
        self._start = start_of_end(turn)
        self._index = 0
        self._bytes = 0
        self._texts: list[str] = []
        self._readers: dict[Reader, None] = {}
        self._stopwatch_s = clock.stopwatch_s
        self._since = self._stopwatch_s()
        self._is_over = asyncio.Event()
        self.is_done = False
        self.is_closed = False
        """Whether nothing will come any more."""
        self._ids = _ids(turn)
        self._piece_of: str | None = None
        self._piece_before = b""
        accepted = Accepted(agent=turn.agent, accepted_at=rfc3339(turn.accepted_at_ms))
        self._seqs = [SEQ_PER_START]
        self._lines = [_line(SEQ_PER_START, 1, self._ids, "accepted", accepted)]
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
        self._piece_of = None
        if start_number > 1:
            del self._lines[1:], self._seqs[1:]
            self._append("restarted", Restarted(reason=reason), index=0)

    def add(self, index: int, item: WholeItem) -> None:
        """Append an attempt's *index*-th event. Raises ``PeerViolation`` for a gap or too much."""
        if index <= self._index:
            return  # sent again after an adoption
        self._check_next(index)
        if isinstance(item, Message):
            self._texts.append(item.text)
        self._append(ITEM_TYPES[type(item)], item, index=index)
        self._check_size()

    def add_pieces(self, index: int, item_id: str, texts: Sequence[str]) -> None:
        """Append pieces of a message as the events from the *index*-th on. Raises as ``add`` does."""
        if index <= self._index:
            texts = texts[self._index + 1 - index :]  # the others are sent again after an adoption
            if not texts:
                return
            index = self._index + 1
        self._check_next(index)
        before = self._before_piece(item_id)
        for seq, text in enumerate(texts, start=self._start * SEQ_PER_START + index):
            self._keep(seq, b'{"seq":%d%b%b}}\n' % (seq, before, _json(text)))
            self._check_size()
        self._index = index + len(texts) - 1
        self._tell()

    def _before_piece(self, item_id: str) -> bytes:
        """Return a piece's line from behind its number up to its text: as long as an item lasts, the same."""
        if item_id != self._piece_of:
            before = _before(self._start, self._ids, "text_delta")
            self._piece_of, self._piece_before = item_id, b'%b{"item_id":%b,"text":' % (before, _json(item_id))
        return self._piece_before

    def _check_next(self, index: int) -> None:
        if index != self._index + 1:
            raise PeerViolation(f"Event {index} follows event {self._index}.")

    def _check_size(self) -> None:
        if self._bytes > TURN_EVENTS_BYTES_MAX:
            raise PeerViolation("The attempt sent more event bytes than one attempt may.")

    def last(self, complete: Complete) -> bytes:
        """Return the line that ``finish`` would append: it is stored before it is shown."""
        seq = self._start * SEQ_PER_START + self._index + 1
        return _line(seq, self._start, self._ids, "complete", complete)

    def lines(self) -> bytes:
        """Return what is stored with the commit, without the last line."""
        return b"".join(self._lines)

    def finish(self, complete: Complete) -> None:
        """Append the last event and let the readers go.

        The end of a turn that was not committed has the last number of its start: it is
        beyond every event, also those that only a hub before this one has seen.
        """
        self.is_done = self.is_closed = True
        self._is_over.set()
        index = self._index + 1 if complete.error is None else SEQ_PER_START - 1
        self._append("complete", complete, index=index)

    def replay(self, lines: bytes) -> None:
        """Replace what is here by what was stored with the commit, but for the last event, which ``finish`` appends."""
        self._lines = lines.splitlines(keepends=True)[:-1]
        self._seqs = [msgspec.json.decode(line, type=TurnEvent).seq for line in self._lines]
        self._start, self._index = divmod(self._seqs[-1], SEQ_PER_START)

    def cut(self) -> None:
        """Let the readers go without an end: the hub stops, and they resume at the next one."""
        self.is_closed = True
        self._is_over.set()
        self._tell()

    async def ended(self) -> None:
        """Wait until readers get no more: the message has ended, or the hub stops."""
        await self._is_over.wait()

    def reader(self, after: int) -> "Reader":
        """Return a reader of what comes behind cursor *after*; ``close`` it."""
        reader = Reader(self, after)
        self._readers[reader] = None
        return reader

    async def read(self, after: int) -> AsyncIterator[list[bytes]]:
        """Yield what comes behind cursor *after* as a reader takes it, until there is no more."""
        with contextlib.closing(self.reader(after)) as reader:
            while not reader.is_over:
                if lines := reader.take():
                    yield lines
                elif not reader.is_over:
                    await reader.changed()

    # --- what a reader asks ------------------------------------------------------------------

    def behind(self, after: int) -> list[bytes]:
        """Return the lines with ``seq > after``; of a stream that is done the last one at least.

        A reader that is past it asked whether it ended.
        """
        if len(self._seqs) > 1 and self._seqs[-2] <= after < self._seqs[-1]:
            return self._lines[-1:]  # what a reader that keeps up asks for
        lines = self._lines[bisect.bisect_right(self._seqs, after) :]
        return lines or (self._lines[-1:] if self.is_done else [])

    @property
    def last_seq(self) -> int:
        return self._seqs[-1]

    def leave(self, reader: "Reader") -> None:
        self._readers.pop(reader, None)

    # --- appending ---------------------------------------------------------------------------

    def _append(self, kind: str, content: object, *, index: int) -> None:
        seq = self._start * SEQ_PER_START + index
        self._index = index
        self._keep(seq, _line(seq, self._start, self._ids, kind, content))
        self._tell()

    def _keep(self, seq: int, line: bytes) -> None:
        self._bytes += len(line)
        self._seqs.append(seq)
        self._lines.append(line)

    def _tell(self) -> None:
        for reader in self._readers:
            reader.tell()


class Reader:
    """One reader of a stream, at its own pace: ``take`` what is there, then wait until it ``changed``."""

    def __init__(self, stream: TurnStream, after: int) -> None:
        self._stream = stream
        self._after = after
        self._waiter: asyncio.Future[None] | None = None
        self.told: Callable[[], None] | None = None
        """Called in place of ``wake`` when something came or the stream ended."""
        self.is_over = False
        """Whether all that will come was taken: up to the last event, or up to where a hub that stops cut it."""

    def take(self) -> list[bytes]:
        """Return the lines that were not taken yet, in order."""
        stream = self._stream
        lines = stream.behind(self._after)
        self.is_over = stream.is_closed
        self._after = max(self._after, stream.last_seq)
        return lines

    def changed(self) -> "asyncio.Future[None]":
        """Return what is done once there is something to take, the stream ended, or somebody called ``wake``."""
        self._waiter = asyncio.get_running_loop().create_future()
        if self._stream.last_seq > self._after or self._stream.is_closed:
            self.wake()
        return self._waiter

    def tell(self) -> None:
        """Hear that something came or the stream ended."""
        if self.told is None:
            self.wake()
        else:
            self.told()

    @property
    def is_waiting(self) -> bool:
        """Whether somebody waits in ``changed``, having taken all that was there."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def is_ending(self) -> bool:
        """Whether what is there is all that will come."""
        return self._stream.is_closed

    def wake(self) -> None:
        """End the wait of ``changed``."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Hear no more. Idempotent."""
        self._stream.leave(self)
        self.told = None


def start_of_end(turn: Turn) -> int:
    """Return the start whose numbers the end of a turn has: its last, or the one it waits for since it was sent."""
    return turn.starts + (turn.starts == turn.starts_before)


def _ids(turn: Turn) -> bytes:
    """Return the part of a line that is the same in each of a message's: its names."""
    names = _json({"session_id": turn.key.session_id, "message_id": turn.message_id})
    return b"," + names[1:-1]


def _before(attempt: int, ids: bytes, kind: str) -> bytes:
    """Return a line from behind its number up to its content, which is named like the type."""
    return b',"attempt":%d,"type":"%b"%b,"%b":' % (attempt, kind.encode(), ids, kind.encode())


def _line(seq: int, attempt: int, ids: bytes, kind: str, content: object) -> bytes:
    """Return one event as a line of JSON: the bytes that encoding a ``TurnEvent`` would give."""
    return b'{"seq":%d%b%b}\n' % (seq, _before(attempt, ids, kind), _json(content))


def ended_lines(turn: Turn, complete: Complete, *, after: int) -> list[bytes]:
    """Return what a reader of a turn that ended without a commit gets: accepted, and its end.

    The events between were provisional and are gone.
    """
    start, ids = start_of_end(turn), _ids(turn)
    lines = []
    if after < SEQ_PER_START:
        accepted = Accepted(agent=turn.agent, accepted_at=rfc3339(turn.accepted_at_ms))
        lines.append(_line(SEQ_PER_START, 1, ids, "accepted", accepted))
    seq = start * SEQ_PER_START + SEQ_PER_START - 1
    return [*lines, _line(seq, start, ids, "complete", complete)]
