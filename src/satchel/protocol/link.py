"""The rules of a worker link for both roles: who may send which frame when, and when a peer is lost.

Sans-IO: it is handed bytes and the time, and gives back frames and bytes. All that
changes a link's state is in this file; what goes before what, and how large payloads
travel, is in ``chunks``. After an error that side is dead: every later call but
``next_message`` raises ``LinkClosed`` with the reason. One link is used from one thread.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any, Final

from satchel.errors import LinkClosed, LinkError, PeerViolation
from satchel.limits import PING_INTERVAL_S, PINGS_LOST_MAX
from satchel.protocol import codec
from satchel.protocol.chunks import Inbox, Outbox
from satchel.protocol.messages import (
    Announced,
    Cancel,
    Carried,
    Chunk,
    Committed,
    Credit,
    Event,
    Failure,
    Frame,
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
)


class Role(enum.StrEnum):
    WORKER = "worker"
    HUB = "hub"

    @property
    def peer(self) -> "Role":
        return Role.HUB if self is Role.WORKER else Role.WORKER


class LinkState(enum.StrEnum):
    """opened -> registering -> open -> closed; refused, broken or lost: any -> closed."""

    OPENED = "opened"
    REGISTERING = "registering"
    OPEN = "open"
    CLOSED = "closed"


MOVES: Final[dict[Role, dict[LinkState, dict[type[Frame], LinkState]]]] = {
    Role.WORKER: {
        LinkState.OPENED: {Register: LinkState.REGISTERING},
        LinkState.REGISTERING: {},
        LinkState.OPEN: {
            Event: LinkState.OPEN,
            Pieces: LinkState.OPEN,
            Result: LinkState.OPEN,
            Failure: LinkState.OPEN,
            Released: LinkState.OPEN,
            Ping: LinkState.OPEN,
            Pong: LinkState.OPEN,
            Announced: LinkState.OPEN,
            Chunk: LinkState.OPEN,
            Credit: LinkState.OPEN,
        },
        LinkState.CLOSED: {},
    },
    Role.HUB: {
        LinkState.OPENED: {},
        LinkState.REGISTERING: {Registered: LinkState.OPEN, Refused: LinkState.CLOSED},
        LinkState.OPEN: {
            Request: LinkState.OPEN,
            Committed: LinkState.OPEN,
            Cancel: LinkState.OPEN,
            NeedSnapshot: LinkState.OPEN,
            Release: LinkState.OPEN,
            Ping: LinkState.OPEN,
            Pong: LinkState.OPEN,
            Announced: LinkState.OPEN,
            Chunk: LinkState.OPEN,
            Credit: LinkState.OPEN,
        },
        LinkState.CLOSED: {},
    },
}
"""What each role may send in each state, and the state after it. Nothing else is legal.

The worker registers first; until the hub has answered, neither sends anything else,
not even a ping.
"""

OWN_FRAMES: Final[frozenset[type[Frame]]] = frozenset({Ping, Pong, Announced, Chunk, Credit, Registered, Refused})
"""What the link itself acts on; of these, its shell sees the last two."""

_ENCODE: Final[dict[Role, Callable[[Any], bytes]]] = {Role.WORKER: codec.encode_worker, Role.HUB: codec.encode_hub}
_DECODE: Final[dict[Role, Callable[[bytes], Sequence[Frame]]]] = {
    Role.WORKER: codec.decode_worker,
    Role.HUB: codec.decode_hub,
}


class Link:
    """One side of a link.

    Call ``receive`` with every message that arrives and ``tick`` at ``next_deadline``.
    After each of these, and after ``send``, there may be something to send: ask
    ``next_message`` for one message at a time, each once the transport has room for it.
    Times are seconds of any clock that never goes back.
    """

    def __init__(self, role: Role, *, now: float) -> None:
        self._role = role
        self._decode = _DECODE[role.peer]
        self._enter(LinkState.OPENED)
        self._reason = "The link is closed."
        self._ping_interval_s = PING_INTERVAL_S
        self._ticked_at = now
        self._pings_sent = 0
        self._silent_ticks = 0
        self._outbox = Outbox(_ENCODE[role])
        self._inbox = Inbox()

    @property
    def state(self) -> LinkState:
        return self._state

    def receive(self, data: bytes, now: float) -> list[Frame]:
        """Return the frames for the shell that a message completes, in order: none if all were the link's own.

        Raises ``PeerViolation`` when the peer broke the rules, ``LinkClosed`` when this
        side is dead.
        """
        self._check_alive()
        try:
            taken = [self._take(frame, now) for frame in self._decode(data)]
        except PeerViolation as error:
            self._die(error.message)
            raise
        return [frame for frame in taken if frame is not None]

    def _take(self, frame: Frame, now: float) -> Frame | None:
        """Follow one frame of the peer's; return the one for the shell. Raises ``PeerViolation``."""
        after = self._may_hear.get(type(frame))
        if after is None:
            name = type(frame).__name__
            raise PeerViolation(f"The {self._role.peer} sent {name} while the link was {self._state}.", field="frame")
        if after is not self._state:
            self._enter(after)
        return self._follow(frame, now) if type(frame) in OWN_FRAMES else frame

    def _follow(self, frame: Frame, now: float) -> Frame | None:
        """Do what the link itself does about a frame of the peer's; return the one for the shell."""
        match frame:
            case Registered():
                self._ticked_at = now
                self._agree(frame)
                return frame
            case Refused():
                self._agree(frame)
                return frame
            case Ping(number=number):
                self._outbox.put(Pong(number))
            case Pong(number=number):
                if not 0 <= self._pings_sent - number < self._silent_ticks:
                    raise PeerViolation("The peer's number is of no ping that waits for an answer.", field="number")
                self._silent_ticks = self._pings_sent - number
            case Announced():
                self._inbox.announce(frame)
            case Chunk():
                return self._completed(frame)
            case Credit(size=size):
                self._outbox.take_credit(size)
        return None

    def _completed(self, chunk: Chunk) -> Frame | None:
        """Take a chunk; return the frame that is whole with it."""
        whole = self._inbox.take(chunk)
        credit = self._inbox.credit_due()
        if credit is not None:
            self._outbox.put(credit)
        return whole

    def send(self, frame: Frame) -> None:
        """Take a frame to be sent, behind those of its session that were taken before it.

        Raises ``LinkClosed`` when this side is dead and ``LinkError`` when the frame is
        not legal now. What ``codec`` cannot encode raises as it says there; the link
        lives on, and the frame was not taken.
        """
        self._check_alive()
        after = self._may_send.get(type(frame))
        if after is None or isinstance(frame, Carried):  # the link's own are made by itself
            raise LinkError(f"A {self._role} does not send {type(frame).__name__} while the link is {self._state}.")
        self._outbox.put(frame)
        self._agree(frame)
        if after is not self._state:
            self._enter(after)

    def next_message(self) -> bytes | None:
        """Return the next message for the transport; None if there is none now.

        A chunk is made only when nothing else waits: ask again after each message, so
        that what was sent meanwhile goes before the next one.
        """
        return self._outbox.next_message()

    @property
    def is_idle(self) -> bool:
        """Whether everything that was taken has been given to the transport."""
        return self._outbox.is_empty

    def tick(self, now: float) -> None:
        """Send the ping that is due, if one is. Raises ``LinkClosed`` when the peer is lost.

        A peer is lost an interval after it left ``PINGS_LOST_MAX`` pings unanswered. A
        link that is not open after as much time is lost too.
        """
        self._check_alive()
        if now < self.next_deadline():
            return
        if self._silent_ticks >= PINGS_LOST_MAX:
            self._die(f"The {self._role.peer} did not answer for {PINGS_LOST_MAX} pings.")
            self._check_alive()
        self._silent_ticks += 1
        # From now, not from the deadline: a process that was suspended sends no burst.
        self._ticked_at = now
        if self._state is LinkState.OPEN:
            self._pings_sent += 1
            self._outbox.put(Ping(self._pings_sent))

    def next_deadline(self) -> float:
        """Return when ``tick`` has something to do."""
        return self._ticked_at + self._ping_interval_s

    def _enter(self, state: LinkState) -> None:
        """Make a move. What is legal after it is looked up here, once, and not for every frame."""
        self._state = state
        self._may_send, self._may_hear = MOVES[self._role][state], MOVES[self._role.peer][state]

    def _agree(self, frame: Frame) -> None:
        """Keep what *frame*, sent or received, says about the link."""
        if isinstance(frame, Registered):
            self._ping_interval_s = frame.ping_interval_s
            self._silent_ticks = 0
        elif isinstance(frame, Refused):
            self._reason = f"The hub refused the worker: {frame.message}"

    def _die(self, reason: str) -> None:
        self._reason = reason
        self._enter(LinkState.CLOSED)
        self._outbox.clear()
        self._inbox.clear()

    def _check_alive(self) -> None:
        if self._state is LinkState.CLOSED:
            raise LinkClosed(self._reason)
