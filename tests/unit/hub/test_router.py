"""Which worker gets a turn: the choice is a function of bytes, room and nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from satchel.hub.router import Candidate, choose_worker
from satchel.model import StateId, StateName, Version, WorkerId

HEAD = StateName(Version(7), StateId(b"h" * 16))
OLDER = StateName(Version(5), StateId(b"o" * 16))
OTHER = StateName(Version(7), StateId(b"x" * 16))
SHIP = {None: 50_000, Version(7): 0, Version(5): 900}


def candidate(worker_id: str, held: StateName | None, *, free: int = 2, warm: int = 0) -> Candidate:
    return Candidate(worker_id=WorkerId(worker_id), held=held, free_slots=free, warm_sessions=warm)


def test_a_full_warm_worker_is_passed_over():
    """Affinity is a preference: it must not make a turn wait."""
    chosen = choose_worker([candidate("a", HEAD, free=0), candidate("b", None)], head=HEAD, ship_bytes=SHIP)

    assert chosen is not None
    assert chosen.worker_id == "b"


def test_a_stale_copy_is_cheaper_than_none():
    """The deltas it lacks are fewer bytes than a snapshot."""
    chosen = choose_worker([candidate("a", None), candidate("b", OLDER, free=1)], head=HEAD, ship_bytes=SHIP)

    assert chosen is not None
    assert chosen.worker_id == "b"


def test_another_attempts_version_is_no_copy_of_the_head():
    """The number alone does not name a state: the copy would be refused by the worker anyway."""
    chosen = choose_worker([candidate("a", OTHER), candidate("b", OLDER)], head=HEAD, ship_bytes=SHIP)

    assert chosen is not None
    assert chosen.worker_id == "b"


held = st.sampled_from([None, HEAD, OLDER, OTHER])
candidates = st.lists(
    st.builds(
        candidate,
        st.text("abcdef", min_size=1, max_size=3),
        held,
        free=st.integers(0, 3),
        warm=st.integers(0, 3),
    ),
    unique_by=lambda c: c.worker_id,
    max_size=6,
)


@given(candidates, st.randoms())
def test_the_choice_has_room_is_cheapest_and_ignores_order(pool, random):
    """The same fleet always gives the same worker, and never a full one or a dearer one."""
    cost = {HEAD: 0, OLDER: 900, OTHER: 50_000, None: 50_000}

    chosen = choose_worker(pool, head=HEAD, ship_bytes=SHIP)

    able = [each for each in pool if each.free_slots > 0]
    random.shuffle(pool)
    assert chosen == choose_worker(pool, head=HEAD, ship_bytes=SHIP)
    assert (chosen is None) == (not able)
    if chosen is not None:
        assert chosen.free_slots > 0
        assert cost[chosen.held] == min(cost[each.held] for each in able)
