"""How a link's messages travel: a WebSocket on either side, or a pair in one process."""

from typing import Protocol


class Transport(Protocol):
    """One connection, whole messages in order. Used from one event loop."""

    async def send(self, message: bytes) -> None:
        """Send one message; return when it is on its way. Raises ``LinkClosed``."""

    async def receive(self) -> bytes:
        """Return the next message. Raises ``LinkClosed``, ``PeerViolation`` (not binary, too large)."""

    async def close(self, reason: str = "") -> None:
        """Close the connection. Idempotent, never raises."""
