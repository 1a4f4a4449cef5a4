"""What happens to a message when it arrives (pure). Every store carries out this decision."""

import enum

import msgspec

from satchel.errors import MessageIdReused, QueueFull, SessionBusy
from satchel.model import OnBusy, TurnStatus


class Arrival(enum.Enum):
    NEW = enum.auto()
    """Insert it, last in the session's order."""
    REPEAT = enum.auto()
    """Change nothing: replay the stored answer, join the running turn, or say it was cancelled."""
    RESEND = enum.auto()
    """It failed: queue it again, last in order, with a new count of attempts."""


class Known(msgspec.Struct, frozen=True):
    """The row of a message that was sent before."""

    status: TurnStatus
    request_digest: bytes


class Busy(msgspec.Struct, frozen=True):
    """What the session has to do already."""

    running_message_id: str | None
    waiting: int

    @property
    def is_busy(self) -> bool:
        return self.running_message_id is not None or self.waiting > 0


def admit(known: Known | None, busy: Busy, *, request_digest: bytes, on_busy: OnBusy, queue_length_max: int) -> Arrival:
    """Decide one arrival.

    ======================  ==========================================
    known, other request    ``MessageIdReused``
    known, not failed       REPEAT (the queue's bound does not matter)
    else, session idle      NEW or RESEND
    else, ``reject``        ``SessionBusy``
    else, queue full        ``QueueFull``
    else                    NEW or RESEND
    ======================  ==========================================
    """
    if known is not None:
        if known.request_digest != request_digest:
            raise MessageIdReused
        if known.status is not TurnStatus.FAILED:
            return Arrival.REPEAT
    if busy.is_busy and on_busy is OnBusy.REJECT:
        raise SessionBusy(running_message_id=busy.running_message_id, waiting=busy.waiting)
    if busy.waiting >= queue_length_max:
        raise QueueFull(f"{busy.waiting} messages wait in this session.", waiting=busy.waiting)
    return Arrival.NEW if known is None else Arrival.RESEND
