"""Snapshots and deltas in their envelope: compressed, with a checksum, and bounded when opened."""

import hashlib
import threading
from typing import Final

import zstandard

from satchel.errors import CorruptPayload
from satchel.model import Encoding, Payload, PayloadKind

_LEVEL: Final = {PayloadKind.DELTA: 1, PayloadKind.SNAPSHOT: 3}
"""Deltas are on the hot path; snapshots are rare and rest for long."""


class _Kept(threading.local):
    """A thread's own compressor of deltas: making one costs as much as compressing a small delta."""

    def __init__(self) -> None:
        self.delta = zstandard.ZstdCompressor(level=_LEVEL[PayloadKind.DELTA])


_kept: Final = _Kept()


def seal(kind: PayloadKind, raw: bytes) -> Payload:
    """Return *raw* in its envelope, compressed unless that does not shrink it."""
    encoded = _compressor(kind).compress(raw)
    encoding, data = (Encoding.ZSTD, encoded) if len(encoded) < len(raw) else (Encoding.NONE, raw)
    return Payload(kind, encoding, len(raw), checksum(data), data)


def _compressor(kind: PayloadKind) -> zstandard.ZstdCompressor:
    return _kept.delta if kind is PayloadKind.DELTA else zstandard.ZstdCompressor(level=_LEVEL[kind])


def unseal(payload: Payload, *, raw_size_max: int) -> bytes:
    """Return the raw bytes of *payload*.

    Raises ``CorruptPayload`` that names what is wrong: the size is over
    *raw_size_max*, or checksum, encoding or size are not those of the data. At
    most ``raw_size`` bytes are ever allocated for the result.
    """
    if not 0 <= payload.raw_size <= raw_size_max:
        raise CorruptPayload(
            f"A {payload.kind} of {payload.raw_size} bytes is over its bound of {raw_size_max}.",
            raw_size=payload.raw_size,
            raw_size_max=raw_size_max,
        )
    if payload.checksum != checksum(payload.data):
        raise CorruptPayload(f"The checksum of a {payload.kind} is not that of its bytes.")
    raw = payload.data if payload.encoding is Encoding.NONE else _decompressed(payload)
    if len(raw) != payload.raw_size:
        raise CorruptPayload(f"A {payload.kind} has {len(raw)} bytes, not the {payload.raw_size} it names.")
    return raw


def checksum(data: bytes) -> bytes:
    """Return the checksum (16 bytes) of encoded bytes."""
    return hashlib.sha256(data).digest()[:16]


def _decompressed(payload: Payload) -> bytes:
    try:
        # A frame's own size decides what the decoder allocates, so it is compared first.
        claimed = zstandard.get_frame_parameters(payload.data).content_size
        if claimed != payload.raw_size:
            raise CorruptPayload(f"A {payload.kind}'s frame does not hold the {payload.raw_size} bytes it names.")
        return zstandard.ZstdDecompressor().decompress(payload.data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptPayload(f"A {payload.kind} cannot be decompressed.") from error
