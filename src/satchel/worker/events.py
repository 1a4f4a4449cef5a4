"""One attempt's events: bounded, numbered from 1, kept until the commit so that they can be sent again.

A handler may emit from any thread; everything that numbers or sends an event is
under one lock, so that the hub sees them in order and without a gap.
"""

import threading
from collections.abc import Callable
from typing import Final

import msgspec

from satchel.errors import Cancelled, TurnMisused
from satchel.limits import EVENT_BYTES_MAX, TURN_EVENTS_BYTES_MAX, TURN_EVENTS_MAX
from satchel.model import WholeItem
from satchel.protocol.messages import AttemptName, Event, Pieces

ENVELOPE_BYTES: Final = 512
"""What an event's line has around its item: two IDs of 128 characters, two numbers, the names."""

EVENTS_MAX: Final = TURN_EVENTS_MAX - 1
"""The cursor's last number of a start belongs to ``complete``."""


class AttemptEvents:
    """What one attempt emitted."""

    def __init__(self, name: AttemptName, send: Callable[[Event | Pieces], None]) -> None:
        self._name = name
        self._send = send
        self._events: list[Event | Pieces] = []
        self._bytes = 0
        self._is_live = True
        self._is_closed = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._events)

    def add(self, item: WholeItem) -> None:
        """Append *item*, and send it if the link is up.

        Raises ``TurnMisused`` that names the bound it is over, ``Cancelled`` once
        the attempt is over.
        """
        size = _size(item)
        with self._lock:
            self._append(Event(self._name, len(self._events) + 1, item), size)

    def add_piece(self, item_id: str, text: str) -> None:
        """Append the next piece of message *item_id*. Raises as ``add`` does."""
        size = _size(text)
        with self._lock:
            self._append(Pieces(self._name, len(self._events) + 1, item_id, (text,)), size)

    def mute(self) -> None:
        """Only keep events from now on: the link is down. Idempotent."""
        with self._lock:
            self._is_live = False

    def send_again(self) -> None:
        """Send every event from the first, and those to come at once."""
        with self._lock:
            for event in self._events:
                self._send(event)
            self._is_live = True

    def close(self) -> None:
        """Refuse further events: the handler is over. Idempotent."""
        with self._lock:
            self._is_closed = True

    def _append(self, frame: Event | Pieces, size: int) -> None:
        """Keep one event as its frame, and send it. The lock is held."""
        if self._is_closed:
            raise Cancelled("The turn is over: nothing can be sent for it any more.")
        if len(self._events) >= EVENTS_MAX:
            raise TurnMisused(f"A turn has at most {EVENTS_MAX} events.", hint="Stream text in larger pieces.")
        if self._bytes + size > TURN_EVENTS_BYTES_MAX:
            raise TurnMisused(
                f"A turn's events have at most {TURN_EVENTS_BYTES_MAX} bytes.",
                hint="Stream text in larger pieces, and keep documents in tables.",
            )
        self._events.append(frame)
        self._bytes += size
        if self._is_live:
            self._send(frame)


_encode = msgspec.json.Encoder().encode


def _size(content: WholeItem | str) -> int:
    """Return the bytes of an event's line. Raises ``TurnMisused`` for more than one event may have."""
    try:
        size = len(_encode(content)) + ENVELOPE_BYTES
    except UnicodeEncodeError as error:
        raise TurnMisused("The text holds half a surrogate pair, which is not Unicode.") from error
    if size > EVENT_BYTES_MAX:
        raise TurnMisused(
            f"An event of {size} bytes is over the bound of {EVENT_BYTES_MAX}.",
            hint="Say a long text in several messages; keep documents in tables.",
        )
    return size
