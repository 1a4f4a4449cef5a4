"""Which worker gets a turn (pure)."""

from collections.abc import Mapping, Sequence

import msgspec

from satchel.model import StateName, Version, WorkerId


class Candidate(msgspec.Struct, frozen=True):
    """A connected worker that serves the turn's agent and schema."""

    worker_id: WorkerId
    held: StateName | None
    """What it holds of the session."""
    free_slots: int
    warm_sessions: int


def choose_worker(
    candidates: Sequence[Candidate], *, head: StateName, ship_bytes: Mapping[Version | None, int]
) -> Candidate | None:
    """Pick the worker that can start this turn with the fewest bytes sent.

    A worker without a free slot is never chosen. *ship_bytes* gives, for each held
    version, the cost of bringing it to *head* (None: a cold start, also the cost of
    a version that is not listed). A copy of the head's version with another state ID
    is another attempt's and costs a cold start. Ties go to the worker with more free
    slots, then to the one that holds fewer sessions, then to the lower ID: the same
    inputs always give the same answer.

    Returns ``None`` if every worker is full: the turn waits, it does not fail.
    """

    def cost(candidate: Candidate) -> int:
        held = candidate.held
        if held == head:
            return 0
        if held is None or held.version >= head.version:
            return ship_bytes[None]
        return min(ship_bytes.get(held.version, ship_bytes[None]), ship_bytes[None])

    able = [candidate for candidate in candidates if candidate.free_slots > 0]
    return min(able, key=lambda c: (cost(c), -c.free_slots, c.warm_sessions, c.worker_id), default=None)
