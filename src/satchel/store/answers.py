"""How a committed turn's answer and events rest: as one zstd frame, which leans on the turn's delta.

Nearly all of them is text that the delta holds, too. So the delta's raw bytes are given to
zstd as what came before (a raw-content dictionary, RFC 8878 section 5), and such text is
stored once. Retention makes a frame stand alone before it deletes the delta.
"""

import threading
from typing import Any, Final

import zstandard

from satchel.errors import CorruptPayload
from satchel.limits import INLINE_BYTES_MAX
from satchel.model import Encoding, Payload, PayloadKind
from satchel.state.payload import unseal
from satchel.store.base import StoredEvents, StoredPayload

_LEVEL: Final = 1
_DELTA_BYTES_MAX: Final = 4 * INLINE_BYTES_MAX
"""Raw bytes of a delta that a frame leans on: each reading goes through all of them."""


def rested(answer: str, events: StoredEvents, payload: StoredPayload, raw: bytes | None) -> tuple[bytes, bool]:
    """Return the frame of an answer and its events, and whether it leans on *payload*, the turn's own.

    *raw* is what the payload holds, or None if nobody has opened it yet.
    """
    both = answer.encode() + events.lines
    delta = payload.payload
    if delta.kind is PayloadKind.SNAPSHOT or payload.object is not None or delta.raw_size > _DELTA_BYTES_MAX:
        return _kept.compressor.compress(both), False
    return _compressor(_dictionary(_raw(delta) if raw is None else raw)).compress(both), True


def answer_and_lines(answer_bytes: int, data: bytes, *delta: Any) -> tuple[str, bytes]:
    """Return what a frame holds; *delta* is what it leans on: encoding, raw size, checksum and data, or None each.

    Raises ``CorruptPayload``.
    """
    both = _both(data, delta)
    try:
        return both[:answer_bytes].decode(), both[answer_bytes:]
    except UnicodeDecodeError as error:
        raise CorruptPayload("A turn's stored answer is not UTF-8.") from error


def standing_alone(data: bytes, *delta: Any) -> bytes:
    """Return the frame that needs no delta. One that cannot be read becomes empty, which is no frame either."""
    try:
        return _kept.compressor.compress(_both(data, delta))
    except CorruptPayload:
        return b""


def _both(data: bytes, delta: tuple[Any, ...]) -> bytes:
    decompressor = _kept.decompressor
    try:
        if delta[-1] is not None:
            encoding, raw_size, checksum, sealed = delta
            payload = Payload(PayloadKind.DELTA, Encoding(encoding), raw_size, checksum, sealed)
            decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary(_raw(payload)))
        return decompressor.decompress(data)
    except zstandard.ZstdError as error:
        raise CorruptPayload("What is stored of a turn's answer and events is damaged.") from error


def _raw(delta: Payload) -> bytes:
    return unseal(delta, raw_size_max=_DELTA_BYTES_MAX)


def _dictionary(raw: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(raw, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _compressor(dictionary: zstandard.ZstdCompressionDict | None = None) -> zstandard.ZstdCompressor:
    # With a checksum: the wrong delta must not give the wrong text.
    return zstandard.ZstdCompressor(level=_LEVEL, dict_data=dictionary, write_checksum=True)


class _Kept(threading.local):
    """A thread's own coders: they cost more to make than to use."""

    def __init__(self) -> None:
        self.compressor = _compressor()
        self.decompressor = zstandard.ZstdDecompressor()


_kept: Final = _Kept()
