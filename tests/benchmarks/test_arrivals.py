"""Open-loop load is honest only if the times are fixed in advance and follow their rate."""

import collections

from benchmarks.load.arrivals import arrivals

PLAN = arrivals(7, rate=50, seconds=200, sessions=100, burst_every_s=10, burst=20)


def test_arrivals_are_the_same_for_the_same_seed():
    """Two hubs are compared under one load."""
    assert arrivals(7, rate=50, seconds=200, sessions=100, burst_every_s=10, burst=20) == PLAN


def test_arrivals_keep_their_rate_and_their_bursts():
    """10,000 independent arrivals are within four standard deviations; 19 bursts of 20 fall before the end."""
    at = collections.Counter(arrival.at_s for arrival in PLAN)

    assert [at[float(10 * number)] for number in range(1, 21)] == [20] * 19 + [0]
    assert abs(len(PLAN) - 380 - 10_000) < 400
    assert [arrival.at_s for arrival in PLAN] == sorted(arrival.at_s for arrival in PLAN)


def test_few_sessions_have_most_of_the_messages():
    """Zipf's law over 100 sessions: the first has a fifth, the last tenth together less than it."""
    sent = collections.Counter(arrival.session for arrival in PLAN)

    assert 0.15 < sent[0] / len(PLAN) < 0.25
    assert sum(sent[number] for number in range(90, 100)) < sent[0]
