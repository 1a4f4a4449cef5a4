"""Envelopes: what comes out is what went in, and nothing damaged comes out."""

import hashlib
import struct
from collections.abc import Callable

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from satchel.errors import CorruptPayload
from satchel.model import Encoding, Payload, PayloadKind
from satchel.state.payload import PIECE_BYTES, checksum, seal, unseal, unsealed

RAW_MAX = 1_000_000
WAYS = {
    "whole": unseal,
    "in pieces": lambda payload, raw_size_max: b"".join(unsealed(payload, raw_size_max=raw_size_max)),
}

both_ways = pytest.mark.parametrize("way", WAYS)
"""A small payload is opened whole, a large one in pieces: what is wrong is wrong in both."""


def envelope(data: bytes, *, raw_size: int, encoding: Encoding = Encoding.ZSTD) -> Payload:
    return Payload(PayloadKind.DELTA, encoding, raw_size, checksum(data), data)


@both_ways
@given(st.sampled_from(PayloadKind), st.binary(max_size=3000), st.integers(1, 20))
def test_what_is_sealed_comes_out(way: str, kind: PayloadKind, piece: bytes, times: int):
    """Compressed or not, the raw bytes are the same, and their size is stated."""
    raw = piece * times

    payload = seal(kind, raw)

    assert WAYS[way](payload, raw_size_max=len(raw)) == raw
    assert payload.raw_size == len(raw)
    assert payload.size <= len(raw)


def test_bytes_that_do_not_shrink_travel_as_they_are():
    """Compressing noise costs time on both sides and gains nothing."""
    noise = hashlib.sha256(b"noise").digest()

    payload = seal(PayloadKind.DELTA, noise)

    assert (payload.encoding, payload.data) == (Encoding.NONE, noise)


@both_ways
@given(st.data())
def test_any_changed_byte_is_named(way: str, data: st.DataObject):
    """A changeset with one changed byte often applies without an error: the checksum is what stops it."""
    payload = seal(PayloadKind.DELTA, b"some rows " * 100)
    position = data.draw(st.integers(0, payload.size - 1))
    damaged = bytearray(payload.data)
    damaged[position] ^= data.draw(st.integers(1, 255))

    with pytest.raises(CorruptPayload, match="checksum"):
        WAYS[way](msgspec.structs.replace(payload, data=bytes(damaged)), raw_size_max=RAW_MAX)


@both_ways
def test_a_payload_at_its_bound_is_opened_and_one_past_it_is_not(way: str):
    """The bound is checked before anything is decompressed."""
    payload = seal(PayloadKind.SNAPSHOT, bytes(RAW_MAX + 1))

    assert len(WAYS[way](payload, raw_size_max=RAW_MAX + 1)) == RAW_MAX + 1
    with pytest.raises(CorruptPayload, match="over its bound"):
        WAYS[way](payload, raw_size_max=RAW_MAX)


@both_ways
def test_a_frame_larger_than_its_envelope_says_is_refused_before_it_is_opened(way: str):
    """A few bytes can decompress to gigabytes; the decoder would allocate what the frame claims."""
    bomb = zstandard.ZstdCompressor().compress(bytes(50_000_000))

    with pytest.raises(CorruptPayload, match="does not hold"):
        WAYS[way](envelope(bomb, raw_size=100), raw_size_max=RAW_MAX)


@both_ways
def test_a_frame_that_does_not_state_its_size_is_refused(way: str):
    """Such a frame could grow without bound."""
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 100)

    with pytest.raises(CorruptPayload, match="does not hold"):
        WAYS[way](envelope(frame, raw_size=100), raw_size_max=RAW_MAX)


@both_ways
def test_a_frame_that_lies_about_its_size_is_refused(way: str):
    """The header's size is only a claim: one that is too small must not overrun, nor pass."""
    frame = bytearray(zstandard.ZstdCompressor().compress(b"abcdefgh" * 100))
    at = frame.index(struct.pack("<H", 800 - 256))
    frame[at : at + 2] = struct.pack("<H", 801 - 256)

    with pytest.raises(CorruptPayload):
        WAYS[way](envelope(bytes(frame), raw_size=801), raw_size_max=RAW_MAX)


@both_ways
@pytest.mark.parametrize("data", [b"", b"not a frame", zstandard.ZstdCompressor().compress(b"a" * 50) + b"more"])
def test_bytes_that_are_no_frame_are_refused(way: str, data: bytes):
    """The checksum holds, so only the decoder can tell."""
    with pytest.raises(CorruptPayload):
        WAYS[way](envelope(data, raw_size=50), raw_size_max=RAW_MAX)


@both_ways
def test_plain_bytes_have_the_size_they_state(way: str):
    """Without compression the size is still checked."""
    with pytest.raises(CorruptPayload, match="has 3 bytes, not the 4"):
        WAYS[way](envelope(b"abc", raw_size=4, encoding=Encoding.NONE), raw_size_max=RAW_MAX)


@both_ways
def test_a_negative_size_is_refused(way: str):
    """A peer's integer may be anything."""
    with pytest.raises(CorruptPayload, match="over its bound"):
        WAYS[way](envelope(b"", raw_size=-1, encoding=Encoding.NONE), raw_size_max=RAW_MAX)


def test_pieces_are_small_and_their_decoder_keeps_little():
    """Whoever opens a large state in pieces counts on what each takes, whatever a peer made of the frame."""
    raw = bytes(range(256)) * 8192
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    ).compress(bytes(200 * PIECE_BYTES))

    assert {len(piece) for piece in unsealed(seal(PayloadKind.SNAPSHOT, raw), raw_size_max=len(raw))} == {PIECE_BYTES}
    with pytest.raises(CorruptPayload, match="cannot be decompressed"):
        next(unsealed(envelope(wide, raw_size=200 * PIECE_BYTES), raw_size_max=200 * PIECE_BYTES))


@given(st.binary(max_size=400), st.integers(1, 3), st.data())
def test_what_is_taken_in_pieces_is_taken_whole(raw: bytes, times: int, data: st.DataObject):
    """A state that a hub commits must be one that a worker opens: cut, extended and altered frames included."""
    frame = zstandard.ZstdCompressor(write_checksum=data.draw(st.booleans())).compress(raw * times)
    tail = data.draw(st.sampled_from([b"", b"\0", frame, zstandard.compress(b""), b"\x50\x2a\x4d\x18\0\0\0\0"]))
    edited = bytearray(frame[: data.draw(st.integers(0, len(frame)))] if data.draw(st.booleans()) else frame)
    if edited and data.draw(st.booleans()):
        edited[data.draw(st.integers(0, len(edited) - 1))] ^= data.draw(st.integers(1, 255))
    payload = envelope(bytes(edited) + tail, raw_size=len(raw) * times)

    whole, in_pieces = (outcome(way, payload) for way in WAYS.values())

    assert in_pieces in {whole, None}, "of nothing, the whole takes a frame with bytes behind it; pieces do not"


def outcome(way: Callable[..., bytes], payload: Payload) -> bytes | None:
    """Return the raw bytes; None if they were refused."""
    try:
        return way(payload, raw_size_max=RAW_MAX)
    except CorruptPayload:
        return None


@pytest.mark.parametrize("tail", [b"\0", zstandard.compress(b""), zstandard.compress(b"more")])
def test_bytes_behind_the_frame_are_refused_in_pieces(tail: bytes):
    """A stream's decoder would not look at them."""
    raw = b"some rows " * 100
    payload = envelope(zstandard.compress(raw) + tail, raw_size=len(raw))

    with pytest.raises(CorruptPayload, match="not one frame"):
        list(unsealed(payload, raw_size_max=RAW_MAX))
