"""Warm sessions: open copies, bounded in bytes; the least recently used idle one goes first.

A copy with an attempt on it, running or pending, is busy and stays, whatever it weighs.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from satchel.model import SessionId


class Copy(Protocol):
    """An open session."""

    @property
    def state_bytes(self) -> int: ...
    def close(self) -> None: ...


Kept = TypeVar("Kept", bound=Copy)


class WarmCache(Generic[Kept]):
    """Copies by session ID. *evicted* hears of each that had to go; dropping one is not evicting it."""

    def __init__(self, bytes_max: int, *, evicted: Callable[[SessionId], None]) -> None:
        self._bytes_max = bytes_max
        self._evicted = evicted
        self._copies: OrderedDict[SessionId, Kept] = OrderedDict()
        self._weights: dict[SessionId, int] = {}
        self._busy: set[SessionId] = set()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._copies)

    def __iter__(self) -> Iterator[tuple[SessionId, Kept]]:
        """Yield copies, least recently used first."""
        return iter(list(self._copies.items()))

    @property
    def total_bytes(self) -> int:
        """What the copies weighed when each was last idle or put."""
        return self._bytes

    def get(self, session_id: SessionId) -> Kept | None:
        return self._copies.get(session_id)

    def occupy(self, session_id: SessionId) -> None:
        """Keep the session's copy, there or yet to come, until ``vacate``. Idempotent."""
        self._busy.add(session_id)

    def put(self, session_id: SessionId, copy: Kept) -> None:
        """Keep *copy* in place of the session's older one, which is closed."""
        self.drop(session_id)
        self._copies[session_id] = copy
        self._weigh(session_id, copy)

    def vacate(self, session_id: SessionId) -> None:
        """Let the session's copy go when room is needed: it is idle, and was just used. Idempotent."""
        self._busy.discard(session_id)
        copy = self._copies.get(session_id)
        if copy is not None:
            self._copies.move_to_end(session_id)
            self._weigh(session_id, copy)
        self._make_room()

    def drop(self, session_id: SessionId) -> bool:
        """Close the session's copy, busy or not; tell whether there was one."""
        copy = self.remove(session_id)
        if copy is not None:
            copy.close()
        return copy is not None

    def remove(self, session_id: SessionId) -> Kept | None:
        """Return the session's copy, which is the caller's to close now; None if there is none."""
        self._bytes -= self._weights.pop(session_id, 0)
        return self._copies.pop(session_id, None)

    def is_busy(self, session_id: SessionId) -> bool:
        return session_id in self._busy

    def _weigh(self, session_id: SessionId, copy: Kept) -> None:
        self._bytes += copy.state_bytes - self._weights.get(session_id, 0)
        self._weights[session_id] = copy.state_bytes

    def _make_room(self) -> None:
        while self._bytes > self._bytes_max:
            oldest = next((session_id for session_id in self._copies if session_id not in self._busy), None)
            if oldest is None:
                return
            self.drop(oldest)
            self._evicted(oldest)
