"""Composition root: settings in, running hub out."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from satchel.errors import InternalError, InvalidRequest, SatchelError
from satchel.hub.api import create_app
from satchel.hub.auth import Gate
from satchel.hub.coordinator import Coordinator
from satchel.hub.link import serve_worker
from satchel.hub.settings import HubSettings, Keys
from satchel.hub.telemetry import Telemetry
from satchel.hub.websocket import WebSocketTransport
from satchel.limits import LINK_MESSAGE_BYTES_MAX
from satchel.model import DEFAULT_TENANT, Tenant
from satchel.protocol.transport import Transport
from satchel.store.open import open_store

STREAMS_END_S = 3
"""How long a hub that stops waits for its open responses to be read."""


class HubServer:
    """One hub over one store: an ASGI app (``app``), started and stopped around its use."""

    def __init__(
        self,
        store: str,
        *,
        settings: HubSettings | None = None,
        keys: Keys | None = None,
        is_mounted: bool = False,
        url: str = "",
    ) -> None:
        self._store_url = store
        self._settings = settings or HubSettings()
        self._gate = Gate(keys=keys or Keys(), is_mounted=is_mounted)
        self._url = url
        self._coordinator: Coordinator | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.app: Starlette = create_app(self._asked, self._gate, serve_link=self._serve_socket)

    def coordinator(self) -> Coordinator:
        """Return the open coordinator. Raises ``InternalError`` that says how to start the hub."""
        if self._coordinator is None:
            raise InternalError(
                "This hub was not started.",
                hint="Pass lifespan=hub.lifespan to your app, or use 'async with hub:' around it.",
            )
        return self._coordinator

    def _asked(self) -> Coordinator:
        """Return the open coordinator to a request. Raises ``InternalError`` in another event loop than its own."""
        coordinator = self.coordinator()
        if asyncio.get_running_loop() is not self._loop:
            raise InternalError(
                "This hub was started in another event loop.",
                hint="Use it from async code of the app that started it, not by asyncio.run or a second TestClient.",
            )
        return coordinator

    @property
    def location(self) -> str:
        """Where the open store is, as a person would say it."""
        return self.coordinator().store.location

    async def start(self) -> None:
        """Open the store and take up its unfinished turns. Raises what ``open_store`` raises."""
        store = await open_store(self._store_url, holder=self._url)
        coordinator = Coordinator(store, settings=self._settings, telemetry=Telemetry())
        try:
            await coordinator.open()
        except BaseException:
            await store.close()
            raise
        self._coordinator = coordinator
        self._loop = asyncio.get_running_loop()

    async def stop_work(self) -> None:
        """Stop running turns; they stay in the store for the next hub. Idempotent."""
        if self._coordinator is not None:
            await self._coordinator.close()

    async def stop(self) -> None:
        """Stop, and close the store. Idempotent."""
        coordinator, self._coordinator = self._coordinator, None
        if coordinator is None:
            return
        await coordinator.close()
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        await coordinator.store.close()

    async def serve_transport(self, transport: Transport) -> None:
        """Serve a worker in the same process."""
        await self._serve(transport, tenant=DEFAULT_TENANT)

    async def _serve_socket(self, websocket: WebSocket) -> None:
        try:
            tenant = self._gate.worker(websocket.headers)
            self.coordinator()
        except SatchelError as error:
            denial = JSONResponse({"error": msgspec.to_builtins(error.body())}, status_code=error.status)
            await websocket.send_denial_response(denial)
            return
        await websocket.accept()
        await self._serve(WebSocketTransport(websocket), tenant=tenant)

    async def _serve(self, transport: Transport, *, tenant: Tenant) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._links.add(task)
        try:
            await serve_worker(transport, tenant=tenant, coordinator=self.coordinator())
        finally:
            if task is not None:
                self._links.discard(task)


class _Uvicorn(uvicorn.Server):
    """A server that stops the hub's work before its sockets: a lost link then restarts no turn."""

    def __init__(self, config: uvicorn.Config, hub: HubServer, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._hub = hub
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._hub.stop_work()
        await super().shutdown(sockets=sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End in order on SIGINT and SIGTERM; uvicorn's own would then die of the signal."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def running(hub: HubServer) -> AsyncIterator[HubServer]:
    """Run a hub's work while the body runs."""
    await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 picks a free one. Raises ``InvalidRequest``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InvalidRequest(
            f"Port {port} on {host} cannot be listened on: {error.strerror}.",
            hint="Another hub may run there; choose another with --port.",
        ) from error


def base_url(listening: socket.socket) -> str:
    """Return the URL at which a listening socket is reached."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def web_server(hub: HubServer, *, started: Callable[[], None]) -> uvicorn.Server:
    """Return a server for a started *hub*; give ``serve`` what ``listen`` returned.

    In the main thread it ends on SIGINT and SIGTERM, elsewhere when ``should_exit`` is
    set. *started* is called once it accepts connections.
    """
    config = uvicorn.Config(
        hub.app,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=LINK_MESSAGE_BYTES_MAX,
        ws_ping_interval=None,
        lifespan="off",
        access_log=False,
        proxy_headers=False,  # nothing asks where a request came from
        log_config=None,
        timeout_graceful_shutdown=STREAMS_END_S,
    )
    return _Uvicorn(config, hub, started)
