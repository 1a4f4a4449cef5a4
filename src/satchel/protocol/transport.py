"""How a link's frames travel as bytes: a WebSocket on either side, or a pair in one process."""

from typing import Protocol


class Transport(Protocol):
    """One connection, whole frames in order. Used from one event loop."""

    async def send(self, frame: bytes) -> None:
        """Send one frame; return when it is on its way. Raises ``LinkClosed``."""

    async def receive(self) -> bytes:
        """Return the next frame. Raises ``LinkClosed``, ``PeerViolation`` (not binary, too large)."""

    async def close(self, reason: str = "") -> None:
        """Close the connection. Idempotent, never raises."""
