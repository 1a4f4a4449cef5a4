"""The turn line is documented to the character."""

import pytest

from satchel.cli.turnline import byte_count, printable, turn_line
from satchel.model import CommittedState, Complete, ErrorBody, Start, TurnReport


def line(version: int = 12, **report: object) -> str:
    return turn_line(Complete(turn=TurnReport(**report), session_state=CommittedState(version)))


def test_a_warm_turn():
    assert line(
        start=Start.WARM, received_bytes=212, changed_rows={"booking": (1, 2, 0)}, handler_ms=31.4, total_ms=38.2
    ) == ("  v12  warm      → 0 B      ← 212 B     38 ms (handler 31 ms)   booking +1 ~2")


def test_columns_stay_in_place():
    """Lines are read one below the other."""
    lines = [
        line(1, start=Start.NEW, received_bytes=4096, total_ms=5),
        line(250, start=Start.CATCH_UP, sent_bytes=1023 * 1024, received_bytes=1, total_ms=1234),
        line(12, start=Start.COLD, sent_bytes=14 * 2**20, total_ms=80),
    ]

    assert len({each.index("→") for each in lines}) == 1
    assert len({each.index("←") for each in lines}) == 1
    assert len({each.index(" ms (") for each in lines}) == 1


def test_only_what_changed_is_named():
    changes = {"a": (0, 0, 3), "b": (0, 0, 0), "c": (1, 0, 0)}

    assert line(start=Start.WARM, changed_rows=changes).endswith("(handler 0 ms)   a -3  c +1")
    assert line(start=Start.WARM).endswith("(handler 0 ms)")


def test_a_failed_turn_is_its_error():
    error = ErrorBody("TURN_TIMEOUT", "The attempt ran\nlonger than \x1b[31mit may.")

    assert turn_line(Complete(turn=TurnReport(), error=error)) == (
        "  --  TURN_TIMEOUT  The attempt ran longer than [31mit may."
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KB"),
        (10_188, "9.9 KB"),
        (10_189, "10 KB"),
        (1_048_575, "1024 KB"),
        (1_048_576, "1.0 MB"),
    ],
)
def test_bytes_are_for_people(size: int, text: str):
    assert byte_count(size) == text


def test_what_an_agent_says_does_not_steer_the_terminal():
    assert printable("a\x1b]0;title\x07b\tc\nd\x9b\u202e") == "a]0;titleb\tc\nd"
