"""Dials a hub's WebSocket: a base URL and a key in, a transport out."""

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from satchel.errors import InvalidRequest, LinkClosed, LinkRefused, PeerViolation
from satchel.limits import LINK_MESSAGE_BYTES_MAX
from satchel.worker.link import Dial

PATH: Final = "/v1/worker"
CLOSE_S: Final = 1.0
"""How long a close waits for the hub's."""

_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_REFUSALS: Final = range(400, 500)
"""HTTP statuses that another try would meet again; a hub that starts or drains answers 503."""


def link_url(hub_url: str) -> str:
    """Return the URL of a hub's worker link. Raises ``InvalidRequest``."""
    parts = urlsplit(hub_url)
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not parts.hostname or parts.query or parts.fragment:
        raise InvalidRequest(
            f"{hub_url!r} is not a hub's base URL.", hint="It looks like http://127.0.0.1:8700 or wss://hub.example."
        )
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + PATH, "", ""))


def websocket_dial(hub_url: str, *, key: str | None = None) -> Dial:
    """Return how to dial the hub at *hub_url*, presenting the worker *key*. Raises ``InvalidRequest``."""
    url = link_url(hub_url)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    async def dial() -> WebSocketTransport:
        return WebSocketTransport(await _connected(url, headers))

    return dial


async def _connected(url: str, headers: Mapping[str, str]) -> ClientConnection:
    try:
        return await connect(
            url,
            additional_headers=headers,
            max_size=LINK_MESSAGE_BYTES_MAX,
            compression=None,  # states are compressed already
            ping_interval=None,  # the link has its own
            close_timeout=CLOSE_S,
            proxy=None if urlsplit(url).hostname in _LOOPBACK else True,
        )
    except InvalidStatus as error:
        raise _refusal(error, url) from error
    except (OSError, InvalidHandshake, EOFError) as error:  # a timeout is an OSError
        raise LinkClosed(f"The hub at {url} cannot be reached: {error}") from error


def _refusal(error: InvalidStatus, url: str) -> LinkClosed | LinkRefused:
    status = error.response.status_code
    if status not in _REFUSALS:
        return LinkClosed(f"The hub at {url} answered {status}.")
    body = _error_body(error.response.body)
    message = body.get("message") or f"{url} answered {status}: it is not a hub, or does not serve links."
    return LinkRefused(str(message), hint=str(body.get("hint", "")))


def _error_body(body: bytes | bytearray | None) -> dict[str, Any]:
    try:
        error = json.loads(body or b"{}")["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


class WebSocketTransport:
    """Messages over a dialled WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, message: bytes) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed as error:
            raise LinkClosed(str(error)) from error

    async def receive(self) -> bytes:
        try:
            data = await self._socket.recv()
        except ConnectionClosed as error:
            raise LinkClosed(str(error)) from error
        if isinstance(data, str):
            raise PeerViolation("A link carries binary frames only.")
        return data

    async def close(self, reason: str = "") -> None:
        await self._socket.close(reason=reason[:60])
