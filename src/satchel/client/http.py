"""The one seam to HTTP: requests to a hub, its answers as values, every failure as one of our errors.

It retries nothing.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import httpx
import msgspec

from satchel.errors import HubUnreachable, InvalidRequest, SatchelError, from_body
from satchel.limits import CLIENT_CONNECT_S, CLIENT_SILENCE_S
from satchel.model import ErrorBody

Shape = TypeVar("Shape")
Params = Mapping[str, str | int | None]

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_LINES = "application/x-ndjson"


class HubHttp:
    """Requests to one hub. *transport* replaces the socket."""

    def __init__(self, base_url: str, *, api_key: str | None, transport: httpx.AsyncBaseTransport | None) -> None:
        self.base_url = http_url(base_url)
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(CLIENT_SILENCE_S, connect=CLIENT_CONNECT_S, pool=None),
            # Every running turn holds a connection: the number of turns is the caller's to bound.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            transport=transport,
            trust_env=False,
        )

    async def get(self, path: str, shape: type[Shape], params: Params | None = None) -> Shape:
        """Return what is at *path*. Raises the hub's error, or ``HubUnreachable``."""
        return self._decoded(await self._answered("GET", path, params), shape)

    async def post(self, path: str, shape: type[Shape]) -> Shape:
        """Post nothing to *path* and return the answer. Raises as ``get`` does."""
        return self._decoded(await self._answered("POST", path), shape)

    async def get_bytes(self, path: str) -> bytes:
        """Return the file at *path*. Raises as ``get`` does."""
        return (await self._answered("GET", path)).content

    async def post_stream(self, path: str, body: Mapping[str, Any]) -> "LineStream":
        """Post *body* as JSON and return the lines of the answer. Raises as ``get`` does."""
        return await self._stream(self._http.build_request("POST", path, json=dict(body), headers=_stream_headers()))

    async def get_stream(self, path: str, params: Params | None = None) -> "LineStream":
        """Return the lines at *path*. Raises as ``get`` does."""
        return await self._stream(
            self._http.build_request("GET", path, params=_given(params), headers=_stream_headers())
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _answered(self, method: str, path: str, params: Params | None = None) -> httpx.Response:
        request = self._http.build_request(
            method, path, params=_given(params), headers={"Accept": "application/json, */*;q=0.1"}
        )
        with self._translated():
            response = await self._http.send(request)
        if not response.is_success:
            raise self._refusal(response)
        return response

    async def _stream(self, request: httpx.Request) -> "LineStream":
        with self._translated():
            response = await self._http.send(request, stream=True)
            if response.is_success:
                return LineStream(response, self._translated)
            try:
                await response.aread()
            finally:
                await response.aclose()
        raise self._refusal(response)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            what = str(error) or type(error).__name__
            raise HubUnreachable(f"The hub at {self.base_url} cannot be reached: {what}.") from error
        except AttributeError as error:
            # On uvloop a connection that closes while it opens has no socket; anyio asks it for its peer nonetheless.
            if error.obj is not None or error.name not in {"getpeername", "getsockname", "family"}:
                raise
            raise HubUnreachable(f"The hub at {self.base_url} cannot be reached: it hung up.") from error

    def _decoded(self, response: httpx.Response, shape: type[Shape]) -> Shape:
        try:
            return msgspec.json.decode(response.content, type=shape)
        except msgspec.DecodeError as error:
            raise self._foreign(response) from error

    def _refusal(self, response: httpx.Response) -> SatchelError:
        """Return the error that a status stands for."""
        try:
            return from_body(msgspec.to_builtins(msgspec.json.decode(response.content, type=_Refusal).error))
        except msgspec.DecodeError:
            return self._foreign(response)

    def _foreign(self, response: httpx.Response) -> HubUnreachable:
        """Return the error for an answer that no hub gives: a proxy's, say, while the hub restarts."""
        return HubUnreachable(
            f"What answers at {self.base_url} is not a hub of this release: status {response.status_code}.",
            status=response.status_code,
        )


class LineStream:
    """The lines of a streaming answer. Close it when it is not read to its end."""

    def __init__(self, response: httpx.Response, translated: Any) -> None:  # the seam's context manager
        self._response = response
        self._translated = translated
        self._pieces = response.aiter_bytes()
        self._lines: list[bytes] = []
        self._rest = b""

    async def next(self) -> bytes | None:
        """Return the next line without its end; ``None`` at the end of the stream.

        Raises ``HubUnreachable``. What follows the last newline was cut off, and is dropped.
        """
        # Not httpx's own lines: it also breaks at U+2028 and others, which JSON may hold.
        while not self._lines:
            with self._translated():
                piece = await anext(self._pieces, None)
            if piece is None:
                return None
            *lines, self._rest = (self._rest + piece).split(b"\n")
            self._lines = lines[::-1]
        return self._lines.pop()

    async def aclose(self) -> None:
        """Let the connection go. Idempotent, never raises ``HubUnreachable``."""
        with contextlib.suppress(HubUnreachable), self._translated():
            await self._response.aclose()


class _Refusal(msgspec.Struct):
    error: ErrorBody


def http_url(url: str) -> str:
    """Return a hub's base URL as HTTP's; ``ws`` and ``wss`` name the same hub. Raises ``InvalidRequest``."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _SCHEMES or not rest.strip("/"):
        raise InvalidRequest(f"{url!r} is not the URL of a hub.", hint="It looks like http://127.0.0.1:8700.")
    return f"{_SCHEMES[scheme.lower()]}://{rest.rstrip('/')}"


def _stream_headers() -> dict[str, str]:
    # A compressing proxy would hold events back.
    return {"Accept": _LINES, "Accept-Encoding": "identity"}


def _given(params: Params | None) -> dict[str, str | int]:
    return {name: value for name, value in (params or {}).items() if value is not None}
