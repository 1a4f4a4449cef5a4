"""Whatever is wrong with a session is found and named; a session that is sound has no finding."""

from typing import Any

import msgspec
import pytest

from satchel.client.model import AnswerText
from satchel.demo.audit import Verdict
from satchel.demo.findings import Evidence, FindingKind, findings
from satchel.demo.ledger import Sent, Told
from satchel.model import TurnStatus
from tests.unit.demo.evidence import TURNS, answer, evidence, exported, row


def found(spoilt: Evidence) -> set[tuple[str, str]]:
    return {(finding.kind.value, finding.message_id) for finding in findings(spoilt)}


def with_sent(sent: Sent) -> Evidence:
    return evidence(sent={**evidence().sent, sent.message_id: sent})


def with_row(number: int, **changes: Any) -> Evidence:
    rows = list(evidence().transcript)
    rows[number - 1] = row(number, **changes)
    return evidence(transcript=rows)


def test_a_sound_session_has_no_finding():
    """Else every run would fail, and nobody would look any more."""
    assert findings(evidence()) == []


def test_a_message_without_an_answer_is_no_loss():
    """It was never acknowledged; whether it committed is not known to its user."""
    assert findings(with_sent(Sent("m9", "9 pears"))) == []


def test_a_failed_turn_makes_no_version():
    """It is in the transcript, and neither a gap nor a row."""
    failed = row(9, status=TurnStatus.FAILED, version=None, answer=None)

    spoilt = with_sent(Sent("m9", "9 pears"))

    assert findings(msgspec.structs.replace(spoilt, transcript=[*spoilt.transcript, failed])) == []


LOST = Sent("m4", "4 pears", [Told(4, answer(4))])


@pytest.mark.parametrize(
    ("spoilt", "kind", "message_id"),
    [
        pytest.param(with_sent(LOST), "lost", "m4", id="acknowledged and not in the transcript"),
        pytest.param(
            evidence(transcript=[row(1), row(3)]), "lost", "m2", id="gone from the transcript"
        ),
        pytest.param(
            with_row(2, status=TurnStatus.FAILED, version=None, answer=None), "lost", "m2", id="failed after all"
        ),
        pytest.param(
            evidence(exported=exported(notes=((1, "m1"), (3, "m3")))), "lost", "m2", id="gone from the rows"
        ),
        pytest.param(evidence(head=0, transcript=[], exported=None), "lost", "m1", id="the whole session is gone"),
        pytest.param(
            evidence(transcript=[row(1), row(2), row(3), row(4, message_id="m2")], head=4),
            "doubled", "m2", id="committed twice",
        ),
        pytest.param(
            evidence(exported=exported(notes=((1, "m1"), (2, "m2"), (3, "m2")))), "doubled", "m2", id="two rows"
        ),
        pytest.param(
            with_sent(Sent("m2", "2 pears", [Told(2, answer(2)), Told(3, answer(2))])),
            "doubled", "m2", id="acknowledged as two versions",
        ),
        pytest.param(
            evidence(transcript=[*evidence().transcript, row(4)], head=4), "doubled", "m4", id="nobody sent it"
        ),
        pytest.param(
            with_sent(Sent("m2", "2 pears", [Told(2, answer(2)), Told(2, "another")])),
            "mismatch", "m2", id="two answers",
        ),
        pytest.param(with_row(2, answer=AnswerText(answer(1))), "mismatch", "m2", id="another answer"),
        pytest.param(with_row(2, answer=None), "mismatch", "m2", id="no answer any more"),
        pytest.param(with_row(2, text="5 pears"), "mismatch", "m2", id="another text"),
        pytest.param(with_row(2, version=3), "mismatch", "m2", id="another version"),
        pytest.param(evidence(head=4), "gap", "", id="a version without a turn"),
        pytest.param(with_row(2, version=1), "gap", "", id="two turns of one version"),
        pytest.param(
            evidence(exported=exported(notes=((1, "m2"), (2, "m1"), (3, "m3")))), "gap", "", id="rows in another order"
        ),
        pytest.param(
            evidence(exported=exported(notes=(*exported().notes, (4, "m9")))), "gap", "", id="a row of no turn"
        ),
        pytest.param(evidence(exported=exported(version=2)), "mismatch", "", id="the export is of another version"),
        pytest.param(evidence(exported=exported(session_id="s2")), "mismatch", "", id="the export is another session"),
        pytest.param(evidence(exported=exported(digest="0" * 16)), "mismatch", f"m{TURNS}", id="the rows differ"),
        pytest.param(
            evidence(exported=exported(said=exported().said[:-1])), "mismatch", "", id="the last answer was not kept"
        ),
        pytest.param(
            evidence(exported=exported(said=(("USER", "m1", "5 pears"), *exported().said[1:]))),
            "mismatch", "m1", id="the conversation differs",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_and_named(spoilt: Evidence, kind: str, message_id: str):
    """The proof is worth what its audit can find."""
    assert (kind, message_id) in found(spoilt)


def test_a_finding_says_which_session_and_message():
    in_transcript, in_rows = findings(with_sent(LOST))

    assert in_transcript.kind is in_rows.kind is FindingKind.LOST
    assert str(in_transcript).startswith("lost: session s1 message m4: ")


def test_a_message_that_is_lost_in_two_places_is_one_loss():
    """The figures count messages, the findings say all that was seen."""
    verdict = Verdict(findings=tuple(findings(with_sent(LOST))), heads={}, migrated=0)

    assert verdict.count(FindingKind.LOST) == 1
