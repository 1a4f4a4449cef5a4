"""What happened, in order: the last steps to read, and a digest of all of them to compare two runs by."""

import zlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from satchel.errors import LinkError
from satchel.protocol import codec

KEPT = 4000


class Trace:
    """Lines and frames under simulated time. A frame is decoded only when somebody reads it."""

    def __init__(self, time: Any) -> None:
        self._time = time
        self._lines: deque[tuple[float, str, str, bytes]] = deque(maxlen=KEPT)
        self.digest = 0
        self.length = 0

    def add(self, who: str, what: str, frame: bytes = b"") -> None:
        now = self._time()
        self._lines.append((now, who, what, frame))
        self.length += 1
        self.digest = zlib.crc32(frame, zlib.crc32(f"{now:.6f}{who}{what}".encode(), self.digest))

    def lines(self) -> Iterator[str]:
        """Yield the last steps; signs of life are left out."""
        for now, who, what, frame in self._lines:
            told = _told(frame)
            if told not in {" Ping", " Pong"}:
                yield f"{now:10.4f}  {who:<16} {what}{told}"


def _told(data: bytes) -> str:
    """Return what a frame says, without the bytes of states."""
    if not data:
        return ""
    for decode in (codec.decode_worker, codec.decode_hub):
        try:
            frames = decode(data)
        except LinkError:
            continue
        return " " + ", ".join(map(_short, frames))
    return f" {len(data)} bytes that are no frame"


def _short(frame: Any) -> str:
    told = [type(frame).__name__]
    name = getattr(frame, "attempt", None)
    if name is not None:
        told.append(f"{name.message_id} e{name.epoch}")
    for field in ("base", "name"):
        state = getattr(frame, field, None)
        if state is not None:
            told.append(f"{field} v{state.version}:{state.state_id.hex()[:6]}")
    chain = getattr(frame, "chain", None)
    if chain:
        told.append("chain " + ",".join(f"v{link.name.version}{link.payload.kind.name[0]}" for link in chain))
    for field in ("index", "start_number", "code", "session_id", "reason"):
        value = getattr(frame, field, None)
        if value is not None and value != "":
            told.append(f"{field}={getattr(value, 'name', value)}")
    if hasattr(frame, "held"):
        held = frame.held if isinstance(frame.held, tuple) else ()
        told.append(f"held {len(held)}")
    for field in ("attempts", "adopted"):
        names = getattr(frame, field, None)
        if names:
            told.append(f"{field} " + ",".join(f"{each.message_id} e{each.epoch}" for each in names))
    return " ".join(told)
