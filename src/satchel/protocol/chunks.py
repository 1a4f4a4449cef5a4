"""How large payloads share a link: in chunks, under credit, between the other frames. Sans-IO.

A frame with more than ``FRAME_DATA_BYTES_MAX`` of payload data is *announced*: sent without
the data, which follows as the chunks of one transfer. The rules, for either side:

* Frames that wait go in one message of up to ``PACKED_BYTES_MAX``, all of them before the
  next chunk; open transfers take turns.
* Frames of one session arrive in the order in which they were sent: what is sent behind
  a transfer of its session waits for its end. Frames of other sessions do not.
* At most ``TRANSFERS_MAX`` transfers are open; the next one is announced when one ends.
* At most ``CREDIT_BYTES_MAX`` of chunk data are under way. Both sides begin with that much
  credit; the receiver gives back what it has taken in, half of it at a time.
* A transfer ends when its announced bytes are there, and dies with its link.
"""

import io
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from satchel import limits
from satchel.errors import PeerViolation
from satchel.model import SessionId
from satchel.protocol.messages import (
    Announced,
    Chunk,
    Credit,
    Frame,
    Request,
    Result,
    payloads_of,
    session_of,
    with_data,
)


class _Transfer:
    """Data on its way out, given up piece by piece."""

    def __init__(self, number: int, session_id: SessionId, announcement: bytes, data: Sequence[bytes]) -> None:
        self.number = number
        self.session_id = session_id
        self.announcement = announcement
        self._parts = deque(memoryview(each) for each in data if each)

    @property
    def is_over(self) -> bool:
        return not self._parts

    def next_piece(self, size: int) -> bytes:
        """Return the next *size* bytes, or all that are left if they are fewer."""
        taken = []
        while size and self._parts:
            part = self._parts.popleft()
            if len(part) > size:
                self._parts.appendleft(part[size:])
                part = part[:size]
            taken.append(part)
            size -= len(part)
        return b"".join(taken)


class Outbox:
    """What one side has to send: frames, encoded as messages that can be joined, and the transfers between them."""

    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self._encode = encode
        self._ready: deque[bytes] = deque()
        self._open: deque[_Transfer] = deque()
        self._unopened: deque[_Transfer] = deque()
        self._behind: dict[SessionId | None, deque[bytes | _Transfer]] = {}
        """What waits for the end of a transfer of its session, for every transfer that has not ended."""
        self._credit = limits.CREDIT_BYTES_MAX
        self._last_number = 0

    def put(self, frame: Frame) -> None:
        """Take a frame. Raises what encoding it raises: then it was not taken."""
        item = self._encoded(frame) if isinstance(frame, Request | Result) else self._encode(frame)
        behind = self._behind.get(session_of(frame)) if self._behind else None
        if behind is not None:
            behind.append(item)
        else:
            self._admit(item)

    def _encoded(self, frame: Request | Result) -> bytes | _Transfer:
        data = [payload.data for payload in payloads_of(frame)]
        sizes = tuple(map(len, data))
        if sum(sizes) <= limits.FRAME_DATA_BYTES_MAX:
            return self._encode(frame)
        self._last_number += 1
        announced = Announced(with_data(frame, [b""] * len(data)), self._last_number, sizes)
        return _Transfer(self._last_number, frame.attempt.session_id, self._encode(announced), data)

    def _admit(self, item: bytes | _Transfer) -> None:
        if isinstance(item, bytes):
            self._ready.append(item)
            return
        self._behind[item.session_id] = deque()
        if len(self._open) < limits.TRANSFERS_MAX:
            self._announce(item)
        else:
            self._unopened.append(item)

    def _announce(self, transfer: _Transfer) -> None:
        self._ready.append(transfer.announcement)
        self._open.append(transfer)

    def next_message(self) -> bytes | None:
        """Return the next message to go out; None if there is none, or none until more credit comes."""
        if self._ready:
            return self._packed()
        if not self._open or not self._credit:
            return None
        transfer = self._open.popleft()
        data = transfer.next_piece(min(limits.CHUNK_BYTES_MAX, self._credit))
        self._credit -= len(data)
        if transfer.is_over:
            self._ended(transfer)
        else:
            self._open.append(transfer)
        return self._encode(Chunk(transfer.number, data))

    def _packed(self) -> bytes:
        """Return the frames that are ready in one message, as many as have room in one."""
        ready = self._ready
        first = ready.popleft()
        packed, size = [first], len(first)
        while ready and size + len(ready[0]) <= limits.PACKED_BYTES_MAX:
            size += len(ready[0])
            packed.append(ready.popleft())
        return b"".join(packed)

    def _ended(self, transfer: _Transfer) -> None:
        """Let what waited for a transfer's end go: the next one, and the frames of its session."""
        if self._unopened:
            self._announce(self._unopened.popleft())
        waiting = self._behind.pop(transfer.session_id)
        while waiting:
            item = waiting.popleft()
            self._admit(item)
            if isinstance(item, _Transfer):
                self._behind[item.session_id] = waiting
                return

    @property
    def is_empty(self) -> bool:
        return not (self._ready or self._open)

    def take_credit(self, size: int) -> None:
        """Hear that the peer took bytes in. Raises ``PeerViolation`` if that many were not under way."""
        if not 0 < size <= limits.CREDIT_BYTES_MAX - self._credit:
            raise PeerViolation("The peer's credit is for chunks that were not sent.", field="credit")
        self._credit += size

    def clear(self) -> None:
        """Drop everything: the link is dead."""
        self._ready.clear()
        self._open.clear()
        self._unopened.clear()
        self._behind.clear()


class _Arriving:
    """An announced frame whose data comes in."""

    def __init__(self, announced: Announced) -> None:
        self._frame = announced.frame
        self._sizes = announced.sizes
        self._left = sum(announced.sizes)
        self._data: list[bytes] = []
        # Grows with what arrives, not to what was announced, and gives its bytes up without a copy.
        self._part = io.BytesIO()
        self._close_full()

    @property
    def is_over(self) -> bool:
        return not self._left

    def take(self, data: bytes) -> None:
        if len(data) > self._left:
            raise PeerViolation("The peer's transfer has more bytes than it announced.", field="chunk")
        self._left -= len(data)
        rest = memoryview(data)
        while rest:
            room = self._sizes[len(self._data)] - self._part.tell()
            self._part.write(rest[:room])
            rest = rest[room:]
            self._close_full()

    def _close_full(self) -> None:
        while len(self._data) < len(self._sizes) and self._part.tell() == self._sizes[len(self._data)]:
            self._data.append(self._part.getvalue())
            self._part = io.BytesIO()

    def frame(self) -> Request | Result:
        return with_data(self._frame, self._data)


class Inbox:
    """What one side has received of its peer's transfers."""

    def __init__(self) -> None:
        self._arriving: dict[int, _Arriving] = {}
        self._credit_left = limits.CREDIT_BYTES_MAX
        self._taken = 0
        """Bytes that were taken in since credit was last given."""

    def announce(self, announced: Announced) -> None:
        """Take the announcement of a transfer. Raises ``PeerViolation``."""
        if announced.transfer in self._arriving:
            raise PeerViolation("The peer's transfer has the number of an open one.", field="transfer")
        if len(self._arriving) >= limits.TRANSFERS_MAX:
            raise PeerViolation(f"The peer has more than {limits.TRANSFERS_MAX} transfers open.", field="transfer")
        self._arriving[announced.transfer] = _Arriving(announced)

    def take(self, chunk: Chunk) -> Request | Result | None:
        """Take a chunk; return the frame whose data it completes. Raises ``PeerViolation``."""
        arriving = self._arriving.get(chunk.transfer)
        if arriving is None:
            raise PeerViolation("The peer's chunk is of no open transfer.", field="chunk")
        if len(chunk.data) > self._credit_left:
            raise PeerViolation("The peer sent more than its credit.", field="chunk")
        self._credit_left -= len(chunk.data)
        self._taken += len(chunk.data)
        arriving.take(chunk.data)
        if not arriving.is_over:
            return None
        del self._arriving[chunk.transfer]
        return arriving.frame()

    def credit_due(self) -> Credit | None:
        """Return the credit to be given now, if any is due."""
        if 2 * self._taken < limits.CREDIT_BYTES_MAX:
            return None
        credit = Credit(self._taken)
        self._credit_left += self._taken
        self._taken = 0
        return credit

    def clear(self) -> None:
        """Drop everything: the link is dead."""
        self._arriving.clear()
