"""What users saw: pauses, shares, and who has no answer."""

from satchel.demo.ledger import Ledger, Told, percentile
from satchel.model import Start, TurnReport


def test_a_pause_is_the_time_between_two_signs_of_progress():
    """Not the length of the turn: a user who sees something happen does not wait in vain."""
    ledger = Ledger(["s1"])

    for now_s in (10.0, 10.5, 12.0, 12.1):
        ledger.waits("s1", "m1", now_s=now_s)
    ledger.waits_no_more("s1", "m1")

    assert (ledger.longest.ms, ledger.longest.message_id, ledger.longest.ended_s) == (1500, "m1", 12.0)
    assert ledger.longest_ms(now_s=99) == 1500


def test_a_pause_that_has_not_ended_counts_for_the_view():
    """Whoever looks on while users hang must not read a small number."""
    ledger = Ledger(["s1"])

    ledger.waits("s1", "m1", now_s=10)

    assert ledger.longest_ms(now_s=18) == 8000


def test_a_repeat_is_not_another_turn():
    ledger = Ledger(["s1"])
    sent = ledger.send("s1", "4 pears")

    first, second = (ledger.acknowledge(sent, Told(1, "so be it")) for _ in range(2))

    assert (first, second) == (True, False)
    assert (ledger.acknowledged, ledger.repeats) == (1, 1)


def test_whoever_has_no_answer_or_an_error_is_named():
    ledger = Ledger(["s1", "s2"])
    answered, silent, failed = (ledger.send(session_id, "4 pears") for session_id in ("s1", "s1", "s2"))
    ledger.acknowledge(answered, Told(1, "so be it"))
    ledger.acknowledge(failed, Told(1, "so be it"))
    failed.error = "INTERNAL_ERROR"

    assert ledger.unanswered() == [("s1", silent), ("s2", failed)]


def test_the_warm_share_is_of_all_turns():
    ledger = Ledger([])

    for start in (Start.NEW, Start.WARM, Start.WARM, Start.COLD):
        ledger.turned(TurnReport(start=start, attempts=1), waited_ms=1)

    assert ledger.warm_share() == 0.5


def test_a_percentile_of_nothing_is_0():
    """The view asks before the first turn."""
    assert percentile([], 0.5) == 0
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([3, 1, 2], 0.99) == 3
