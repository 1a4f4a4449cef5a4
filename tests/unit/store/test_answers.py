"""A turn's answer and events, as one frame that leans on the turn's delta."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satchel.errors import CorruptPayload
from satchel.limits import INLINE_BYTES_MAX
from satchel.model import Payload, PayloadKind
from satchel.state.payload import seal
from satchel.store.answers import answer_and_lines, rested, standing_alone
from satchel.store.base import StoredEvents, StoredPayload

ALONE = (None, None, None, None)


def columns(payload: Payload) -> tuple[object, ...]:
    return int(payload.encoding), payload.raw_size, payload.checksum, payload.data


@given(
    st.text(),
    st.binary(max_size=2_000),
    st.binary(max_size=2_000) | st.binary(max_size=50).map(lambda part: part * 5_000),
    st.sampled_from(PayloadKind),
)
def test_what_rests_is_read_again(answer: str, lines: bytes, raw: bytes, kind: PayloadKind) -> None:
    payload = seal(kind, raw + answer.encode() + lines)
    data, leans = rested(answer, StoredEvents(lines), StoredPayload(payload), None)
    delta = columns(payload) if leans else ALONE

    assert leans == (kind is PayloadKind.DELTA and payload.raw_size <= 4 * INLINE_BYTES_MAX)
    assert answer_and_lines(len(answer.encode()), data, *delta) == (answer, lines)
    assert answer_and_lines(len(answer.encode()), standing_alone(data, *delta), *ALONE) == (answer, lines)


def test_text_that_the_delta_holds_is_not_stored_again() -> None:
    text = " ".join(str(number**3) for number in range(300))
    alone, _ = rested(text, StoredEvents(text.encode()), StoredPayload(seal(PayloadKind.SNAPSHOT, b"")), None)
    payload = StoredPayload(seal(PayloadKind.DELTA, text.encode()))
    leaning, _ = rested(text, StoredEvents(text.encode()), payload, None)
    assert 10 * len(leaning) < len(alone)


@pytest.mark.parametrize("delta", [seal(PayloadKind.DELTA, b"other words, as many as there were"), None])
def test_another_delta_never_gives_another_answer(delta: Payload | None) -> None:
    payload = seal(PayloadKind.DELTA, b"all of the words of the answer was")
    data, _ = rested("the words of the answer", StoredEvents(b""), StoredPayload(payload), None)
    frame = ALONE if delta is None else columns(delta)
    with pytest.raises(CorruptPayload):
        answer_and_lines(23, data, *frame)
    assert standing_alone(data, *frame) == b""
    with pytest.raises(CorruptPayload):
        answer_and_lines(23, b"", *ALONE)


def test_a_damaged_delta_is_named() -> None:
    payload = seal(PayloadKind.DELTA, b"words of the answer" * 9)
    data, _ = rested("words of the answer", StoredEvents(b""), StoredPayload(payload), None)
    damaged = msgspec.structs.replace(payload, data=bytes(len(payload.data)))
    with pytest.raises(CorruptPayload, match="checksum of a delta"):
        answer_and_lines(19, data, *columns(damaged))
