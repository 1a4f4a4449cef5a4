"""The cheapest way from what a worker holds to the head (pure)."""

from collections.abc import Mapping

import msgspec

from satchel.model import EMPTY, Start, Version


class Plan(msgspec.Struct, frozen=True):
    """How a worker is brought to the head, and the encoded bytes that takes."""

    start: Start
    send_bytes: int


def cheapest_plan(
    held: Version | None,
    head: Version,
    *,
    cold_bytes: int,
    delta_bytes: Mapping[Version, int],
) -> Plan:
    """Return the form of the state with the fewest bytes to send.

    *held* is the version the worker holds of this chain, *cold_bytes* the encoded size
    of the newest snapshot and the deltas behind it, *delta_bytes* that of each known
    delta by the version it makes.

    =============================================  ========
    the head is 0                                  new
    *held* is the head                             warm
    all deltas after *held* known, and smaller     catch-up
    else                                           cold
    =============================================  ========
    """
    if head == EMPTY:
        return Plan(Start.NEW, 0)
    if held == head:
        return Plan(Start.WARM, 0)
    missing = range(held + 1, head + 1) if held is not None and EMPTY < held < head else ()
    if missing and all(version in delta_bytes for version in missing):
        catch_up_bytes = sum(delta_bytes[Version(v)] for v in missing)
        if catch_up_bytes < cold_bytes:
            return Plan(Start.CATCH_UP, catch_up_bytes)
    return Plan(Start.COLD, cold_bytes)
