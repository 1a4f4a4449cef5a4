"""Snapshots and deltas in their envelope: compressed, with a checksum, and bounded when opened."""

import hashlib
import threading
from collections.abc import Iterator
from typing import Final

import zstandard

from satchel.errors import CorruptPayload
from satchel.model import Encoding, Payload, PayloadKind

_LEVEL: Final = {PayloadKind.DELTA: 1, PayloadKind.SNAPSHOT: 3}
"""Deltas are on the hot path; snapshots are rare and rest for long."""

PIECE_BYTES: Final = 1024 * 1024
"""Bytes decompressed at a time."""
_WINDOW_BYTES_MAX: Final = 8 * PIECE_BYTES
"""What a frame may have its decoder keep: four times what our own snapshots do."""


class _Kept(threading.local):
    """A thread's own coders: making one costs as much as it takes to code a small delta."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL[PayloadKind.DELTA])
        self.decompressor = zstandard.ZstdDecompressor()


_kept: Final = _Kept()


def seal(kind: PayloadKind, raw: bytes) -> Payload:
    """Return *raw* in its envelope, compressed unless that does not shrink it."""
    encoded = _compressor(kind).compress(raw)
    encoding, data = (Encoding.ZSTD, encoded) if len(encoded) < len(raw) else (Encoding.NONE, raw)
    return Payload(kind, encoding, len(raw), checksum(data), data)


def _compressor(kind: PayloadKind) -> zstandard.ZstdCompressor:
    return _kept.compressor if kind is PayloadKind.DELTA else zstandard.ZstdCompressor(level=_LEVEL[kind])


def unseal(payload: Payload, *, raw_size_max: int) -> bytes:
    """Return the raw bytes of *payload*.

    Raises ``CorruptPayload`` that names what is wrong: the size is over
    *raw_size_max*, or checksum, encoding or size are not those of the data. At
    most ``raw_size`` bytes are ever allocated for the result.
    """
    _check_sealed(payload, raw_size_max)
    raw = payload.data if payload.encoding is Encoding.NONE else _decompressed(payload)
    _check_size(payload, len(raw))
    return raw


def unsealed(payload: Payload, *, raw_size_max: int) -> Iterator[bytes | memoryview]:
    """Yield the raw bytes of *payload* in pieces of at most ``PIECE_BYTES``, and raise what ``unseal`` raises.

    What is wrong with the end shows at the end, after pieces that came before it.
    """
    _check_sealed(payload, raw_size_max)
    size = 0
    for piece in _pieces(payload):
        size += len(piece)
        if size > payload.raw_size:
            break
        yield piece
    _check_size(payload, size)


def _check_sealed(payload: Payload, raw_size_max: int) -> None:
    if not 0 <= payload.raw_size <= raw_size_max:
        raise CorruptPayload(
            f"A {payload.kind} of {payload.raw_size} bytes is over its bound of {raw_size_max}.",
            raw_size=payload.raw_size,
            raw_size_max=raw_size_max,
        )
    if payload.checksum != checksum(payload.data):
        raise CorruptPayload(f"The checksum of a {payload.kind} is not that of its bytes.")


def _check_size(payload: Payload, size: int) -> None:
    if size != payload.raw_size:
        raise CorruptPayload(f"A {payload.kind} has {size} bytes, not the {payload.raw_size} it names.")


def checksum(data: bytes) -> bytes:
    """Return the checksum (16 bytes) of encoded bytes."""
    return hashlib.sha256(data).digest()[:16]


def _pieces(payload: Payload) -> Iterator[bytes | memoryview]:
    if payload.encoding is Encoding.NONE:
        data = memoryview(payload.data)
        yield from (data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))
        return
    try:
        _check_one_frame(payload)
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
        with decompressor.stream_reader(payload.data) as reader:
            while piece := reader.read(PIECE_BYTES):
                yield piece
    except zstandard.ZstdError as error:
        raise CorruptPayload(f"A {payload.kind} cannot be decompressed.") from error


def _decompressed(payload: Payload) -> bytes:
    try:
        _check_frame(payload)
        return _kept.decompressor.decompress(payload.data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptPayload(f"A {payload.kind} cannot be decompressed.") from error


def _check_frame(payload: Payload) -> None:
    """Compare a frame's own size first: it decides what a decoder allocates."""
    if zstandard.get_frame_parameters(payload.data).content_size != payload.raw_size:
        raise CorruptPayload(f"A {payload.kind}'s frame does not hold the {payload.raw_size} bytes it names.")


def _check_one_frame(payload: Payload) -> None:
    """Check that one frame of the right size is all there is: a stream's decoder does not look behind the first."""
    _check_frame(payload)
    data, at, is_last = payload.data, zstandard.frame_header_size(payload.data), False
    while not is_last and at < len(data):
        # RFC 8878, 3.1.1.2: a bit for the last block, two for its type, and its size.
        header = int.from_bytes(data[at : at + 3], "little")
        is_last, is_run, size = bool(header & 1), header >> 1 & 3 == 1, header >> 3
        at += 3 + (1 if is_run else size)
    if zstandard.get_frame_parameters(data).has_checksum:
        at += 4
    if not is_last or at != len(data):
        raise CorruptPayload(f"A {payload.kind} is not one frame.")
