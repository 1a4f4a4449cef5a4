"""A seed's plan: the same every time, and every kind of fault in it."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from satchel.demo.plan import Fault, FaultKind, faults, session_ids, steps

SECONDS = st.floats(min_value=1, max_value=1800)


@given(seed=st.integers(min_value=0), seconds=SECONDS)
def test_every_kind_of_fault_is_planned_in_order_and_in_time(seed: int, seconds: float):
    """However short the run: a proof that left a fault out would prove less than it says."""
    planned = faults(seed=seed, seconds=seconds)

    assert {fault.kind for fault in planned} == set(FaultKind)
    assert [fault.at_s for fault in planned] == sorted(fault.at_s for fault in planned)
    assert all(0 <= fault.at_s <= seconds and 0 <= fault.pick <= 1 for fault in planned)


@given(seed=st.integers(min_value=0), seconds=SECONDS)
def test_the_schema_change_is_rolled_out_once(seed: int, seconds: float):
    """There are two builds."""
    kinds = [fault.kind for fault in faults(seed=seed, seconds=seconds)]

    assert kinds.count(FaultKind.ROLLOUT) == 1


def test_a_seed_decides_everything():
    """``--seed`` repeats the plan that found something."""

    def drawn(seed: int) -> tuple[tuple[Fault, ...], list[object]]:
        return faults(seed=seed, seconds=60), list(itertools.islice(steps(seed=seed, session_id="s-001"), 20))

    assert drawn(1) == drawn(1)
    assert drawn(1)[0] != drawn(2)[0]
    assert drawn(1)[1] != drawn(2)[1]


def test_users_differ_and_some_do_not_wait():
    """Both ways to repeat a message and to double-text are in what a few users do."""
    done = [
        step for session_id in session_ids(10) for step in itertools.islice(steps(seed=1, session_id=session_id), 10)
    ]

    assert len({step.texts for step in done}) > 50
    assert {len(step.texts) for step in done} == {1, 2}
    assert {step.is_concurrent for step in done} == {True, False}
