"""What the users sent and were told, and what they saw while they waited: all that the audit believes.

It is kept beside the product, in the users' memory, and only ever appended to.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

import msgspec

from satchel.model import Start, TurnReport

RECENT_TURNS: Final = 2000
"""Turns whose waiting the view's percentiles are of."""


class Told(msgspec.Struct, frozen=True):
    """One acknowledgement: a version and an answer."""

    version: int
    answer: str


class Sent(msgspec.Struct):
    """A message that a user sent, and every acknowledgement of it: one for each time it was sent."""

    message_id: str
    text: str
    told: list[Told] = []
    error: str = ""
    """The error that its user was left with."""


class Pause(msgspec.Struct, frozen=True, order=True):
    """The time between two signs of progress that a user saw."""

    ms: float = 0.0
    session_id: str = ""
    message_id: str = ""
    ended_s: float = 0.0
    """When it ended, in monotonic seconds."""


class Ledger:
    """Sessions, their messages in the order in which they were sent, and the counts of the run."""

    def __init__(self, session_ids: list[str]) -> None:
        self.sessions: dict[str, dict[str, Sent]] = {session_id: {} for session_id in session_ids}
        self.starts: Counter[Start] = Counter()
        self.errors: Counter[str] = Counter()
        """Errors that users met and answered by sending the message again, by code."""
        self.waits_ms: list[float] = []
        """How long each turn's user waited for its end."""
        self.recent_ms: deque[float] = deque(maxlen=RECENT_TURNS)
        self.longest = Pause()
        self.waiting_since: dict[tuple[str, str], float] = {}
        """Since when (monotonic seconds) a user waits for a sign of progress, by session and message."""
        self.acknowledged = self.repeats = self.double_texts = self.restarts = 0
        self.sent_bytes = self.received_bytes = 0

    def send(self, session_id: str, text: str) -> Sent:
        """Write down a new message before it is sent."""
        messages = self.sessions[session_id]
        sent = Sent(message_id=f"m{len(messages) + 1:04}", text=text)
        messages[sent.message_id] = sent
        return sent

    def acknowledge(self, sent: Sent, told: Told) -> bool:
        """Write down an acknowledgement; tell whether it is the message's first."""
        sent.told.append(told)
        if len(sent.told) > 1:
            self.repeats += 1
            return False
        self.acknowledged += 1
        return True

    def turned(self, report: TurnReport, *, waited_ms: float) -> None:
        """Count what a turn cost."""
        if report.start is not None:
            self.starts[report.start] += 1
        self.sent_bytes += report.sent_bytes
        self.received_bytes += report.received_bytes
        self.restarts += report.attempts - 1
        self.waits_ms.append(waited_ms)
        self.recent_ms.append(waited_ms)

    def waits(self, session_id: str, message_id: str, *, now_s: float) -> None:
        """Hear that a user begins to wait, or sees a sign of progress and waits on."""
        began_s = self.waiting_since.get((session_id, message_id), now_s)
        self.longest = max(self.longest, Pause(1000 * (now_s - began_s), session_id, message_id, ended_s=now_s))
        self.waiting_since[session_id, message_id] = now_s

    def waits_no_more(self, session_id: str, message_id: str) -> None:
        self.waiting_since.pop((session_id, message_id), None)

    def longest_ms(self, *, now_s: float) -> float:
        """Return the longest pause, those that have not ended too."""
        return max(self.longest.ms, *(1000 * (now_s - since_s) for since_s in self.waiting_since.values()), 0.0)

    def unanswered(self) -> list[tuple[str, Sent]]:
        """Return every message, by session, whose user has no answer, or was left with an error."""
        return [
            (session_id, sent)
            for session_id, messages in self.sessions.items()
            for sent in messages.values()
            if sent.error or not sent.told
        ]

    def warm_share(self) -> float:
        return self.starts[Start.WARM] / max(self.starts.total(), 1)


def percentile(values: Iterable[float], part: float) -> float:
    """Return the value below which *part* of *values* is; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else 0.0
