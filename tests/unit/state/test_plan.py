"""Planning: the fewest bytes, and only ways that lead to the head."""

from hypothesis import given
from hypothesis import strategies as st

from satchel.model import Start, Version
from satchel.state.plan import Plan, cheapest_plan

SIZES = {Version(4): 10, Version(5): 20, Version(6): 30}


def planned(held: int | None) -> Plan:
    version = None if held is None else Version(held)
    return cheapest_plan(version, Version(6), cold_bytes=1060, delta_bytes=SIZES)


def test_the_empty_session_needs_nothing():
    """Every worker can make version 0."""
    assert cheapest_plan(None, Version(0), cold_bytes=0, delta_bytes={}) == Plan(Start.NEW, 0)


def test_a_worker_that_holds_the_head_is_sent_nothing():
    """This is what makes a turn cheap, and sessions stick."""
    assert planned(6) == Plan(Start.WARM, 0)


def test_a_stale_worker_is_sent_the_deltas_it_lacks():
    """Only those, in order, behind the version it holds."""
    assert planned(4) == Plan(Start.CATCH_UP, 50)


def test_a_worker_that_holds_nothing_is_sent_the_snapshot_and_the_deltas():
    """The bytes behind the snapshot count, too."""
    assert planned(None) == Plan(Start.COLD, 1060)


def test_deltas_that_are_not_smaller_give_way_to_the_snapshot():
    """At equal bytes the cold start wins: it does not depend on what the worker holds."""
    sizes = {Version(4): 1, Version(5): 500, Version(6): 500}

    assert cheapest_plan(Version(4), Version(6), cold_bytes=1000, delta_bytes=sizes) == Plan(Start.COLD, 1000)


def test_a_version_whose_deltas_are_not_known_starts_cold():
    """A snapshot in between ends the catch-up: what came before it is gone."""
    assert planned(2) == Plan(Start.COLD, 1060)


def test_a_worker_ahead_of_the_head_starts_cold():
    """It holds a version that was never committed; what it has is worth nothing."""
    assert planned(7) == Plan(Start.COLD, 1060)


def test_a_worker_with_only_the_empty_session_starts_cold():
    """The first version is always a snapshot, so no delta leads from version 0."""
    sizes = {Version(1): 1, Version(2): 1}

    assert cheapest_plan(Version(0), Version(2), cold_bytes=51, delta_bytes=sizes).start is Start.COLD


@given(
    held=st.none() | st.integers(0, 12),
    head=st.integers(1, 10),
    cold_bytes=st.integers(0, 300),
    sizes=st.lists(st.integers(0, 50), min_size=10, max_size=10),
    first_known=st.integers(1, 10),
)
def test_no_way_to_the_head_is_cheaper(
    held: int | None, head: int, cold_bytes: int, sizes: list[int], first_known: int
):
    """The plan is the minimum over every legal way, and it is one of them."""
    known = {Version(version): sizes[version - 1] for version in range(first_known, head + 1)}
    ways = [(cold_bytes, Start.COLD)]
    if held == head:
        ways.append((0, Start.WARM))
    elif held and held < head and held + 1 >= first_known:
        ways.append((sum(known[Version(v)] for v in range(held + 1, head + 1)), Start.CATCH_UP))

    plan = cheapest_plan(
        None if held is None else Version(held), Version(head), cold_bytes=cold_bytes, delta_bytes=known
    )

    assert plan.send_bytes == min(ways)[0]
    assert (plan.send_bytes, plan.start) in ways
