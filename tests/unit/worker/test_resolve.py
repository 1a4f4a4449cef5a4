"""How a request's state comes from what is held: the table, row by row."""

import pytest

from satchel.model import (
    Encoding,
    Epoch,
    Link,
    MessageId,
    Payload,
    PayloadKind,
    SchemaName,
    SessionId,
    StateId,
    StateName,
    Version,
)
from satchel.protocol.messages import AttemptName, Request
from satchel.worker.resolve import Resolution, Step, resolve


def state(version, of=b"a"):
    return StateName(Version(version), StateId(of * 16))


def delta(version):
    return Link(state(version), Payload(PayloadKind.DELTA, Encoding.NONE, 0, bytes(16), b""))


def snapshot(version):
    return Link(state(version), Payload(PayloadKind.SNAPSHOT, Encoding.NONE, 0, bytes(16), b""))


def request(base, chain):
    return Request(
        attempt=AttemptName(SessionId("s"), MessageId("m"), Epoch(1)),
        start_number=1,
        attempt_number=1,
        agent="a",
        text="",
        metadata="",
        accepted_at_ms=0,
        base=base,
        chain=tuple(chain),
        schema=SchemaName(1, bytes(32)),
        digest=None,
        wants_digest=False,
        wants_snapshot=False,
        delta_bytes_max=0,
    )


@pytest.mark.parametrize(
    ("base", "chain", "committed", "pending", "first", "then"),
    [
        (state(4), [], state(3), state(4), Resolution.COMMIT, Step.NOTHING),
        (state(3), [], state(3), state(4), Resolution.ROLL_BACK, Step.NOTHING),
        (state(3), [], state(3), None, Resolution.ROLL_BACK, Step.NOTHING),
        (state(4, b"b"), [], state(3), state(4), Resolution.ROLL_BACK, Step.NOT_FOUND),
        (state(3, b"b"), [], state(3), None, Resolution.ROLL_BACK, Step.NOT_FOUND),
        (state(5), [], None, None, Resolution.ROLL_BACK, Step.NOT_FOUND),
        (state(0), [], None, None, Resolution.ROLL_BACK, Step.CREATE),
        (state(0), [], state(7), None, Resolution.ROLL_BACK, Step.CREATE),
        (state(6), [delta(5), delta(6)], state(3), state(4), Resolution.COMMIT, Step.CATCH_UP),
        (state(5), [delta(4), delta(5)], state(3), state(4), Resolution.ROLL_BACK, Step.CATCH_UP),
        (state(6), [delta(6)], state(3), state(4), Resolution.ROLL_BACK, Step.NOT_FOUND),
        (state(6), [delta(6)], None, None, Resolution.ROLL_BACK, Step.NOT_FOUND),
        (state(6), [snapshot(5), delta(6)], state(3), state(4), Resolution.ROLL_BACK, Step.REPLACE),
        (state(6), [snapshot(6)], None, None, Resolution.ROLL_BACK, Step.REPLACE),
        (state(4), [snapshot(4)], state(3), state(4), Resolution.COMMIT, Step.NOTHING),
    ],
)
def test_the_state_is_the_named_one_or_none(base, chain, committed, pending, first, then):
    """EXACT-BASE: a version without its state ID is another attempt's."""
    assert resolve(request(base, chain), committed=committed, pending=pending) == (first, then)
