"""How the state that a request names comes from what the worker holds (pure)."""

import enum

from satchel.model import EMPTY, PayloadKind, StateName
from satchel.protocol.messages import Request


class Step(enum.Enum):
    """What to do with the copy so that it is exactly the request's base."""

    NOTHING = enum.auto()
    CREATE = enum.auto()
    """Make the empty session, in place of anything held."""
    CATCH_UP = enum.auto()
    """Apply the chain's deltas to the copy."""
    REPLACE = enum.auto()
    """Open the chain, in place of anything held."""
    NOT_FOUND = enum.auto()


class Resolution(enum.Enum):
    """What to do first with a pending turn."""

    COMMIT = enum.auto()
    ROLL_BACK = enum.auto()


def resolve(request: Request, *, committed: StateName | None, pending: StateName | None) -> tuple[Resolution, Step]:
    """Return what becomes of the pending turn, then how the copy gets to the request's base.

    ==========================================  ===================================
    pending is the base                         commit; nothing more
    committed is the base                       roll back; nothing more
    chain empty, base is version 0              roll back; create
    chain empty, else                           roll back; not found
    chain of deltas, first follows pending      commit; catch up
    chain of deltas, first follows committed    roll back; catch up
    chain of deltas, else                       roll back; not found
    chain with a snapshot first                 roll back; replace
    ==========================================  ===================================

    To commit by version alone is safe before a catch-up: it recomputes every state
    ID from the copy's own, and only the right one ends at the base.
    """
    if pending == request.base:
        return Resolution.COMMIT, Step.NOTHING
    if committed == request.base:
        return Resolution.ROLL_BACK, Step.NOTHING
    if not request.chain:
        is_new = request.base.version == EMPTY
        return Resolution.ROLL_BACK, Step.CREATE if is_new else Step.NOT_FOUND
    first = request.chain[0]
    if first.payload.kind is PayloadKind.SNAPSHOT:
        return Resolution.ROLL_BACK, Step.REPLACE
    follows_pending = pending is not None and pending.version == first.name.version - 1
    follows_committed = committed is not None and committed.version == first.name.version - 1
    return (
        Resolution.COMMIT if follows_pending else Resolution.ROLL_BACK,
        Step.CATCH_UP if follows_pending or follows_committed else Step.NOT_FOUND,
    )
