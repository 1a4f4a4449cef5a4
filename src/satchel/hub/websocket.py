"""A worker's WebSocket as a transport, on the hub's side."""

import contextlib

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from satchel.errors import LinkClosed, PeerViolation
from satchel.limits import LINK_MESSAGE_BYTES_MAX

NORMAL_CLOSURE = 1000
"""RFC 6455, section 7.4.1."""


class WebSocketTransport:
    """Messages over an accepted WebSocket."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def send(self, message: bytes) -> None:
        try:
            await self._websocket.send_bytes(message)
        except (WebSocketDisconnect, RuntimeError, OSError) as error:  # Starlette raises RuntimeError once it is closed
            raise LinkClosed from error

    async def receive(self) -> bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise LinkClosed(message.get("reason") or "")
        data = message.get("bytes")
        if not isinstance(data, bytes):
            raise PeerViolation("A link carries binary messages only.")
        if len(data) > LINK_MESSAGE_BYTES_MAX:
            raise PeerViolation(f"A message has at most {LINK_MESSAGE_BYTES_MAX} bytes.")
        return data

    async def close(self, reason: str = "") -> None:
        if self._websocket.application_state is not WebSocketState.CONNECTED:
            return
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):  # the peer was first
            await self._websocket.close(NORMAL_CLOSURE, reason[:120])
