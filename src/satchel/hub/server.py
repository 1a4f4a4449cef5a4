"""Composition root: settings in, running hub out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from satchel.errors import InternalError, SatchelError
from satchel.hub.api import create_app
from satchel.hub.auth import Gate
from satchel.hub.coordinator import Coordinator
from satchel.hub.link import serve_worker
from satchel.hub.settings import HubSettings, Keys, check_exposure
from satchel.hub.telemetry import Telemetry
from satchel.hub.websocket import WebSocketTransport
from satchel.limits import FRAME_BYTES_MAX
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
        self.app: Starlette = create_app(self.coordinator, self._gate, serve_link=self._serve_socket)

    def coordinator(self) -> Coordinator:
        """Return the open coordinator. Raises ``InternalError`` that says how to start the hub."""
        if self._coordinator is None:
            raise InternalError(
                "This hub was not started.",
                hint="Pass lifespan=hub.lifespan to your app, or use 'async with hub:' around it.",
            )
        return self._coordinator

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

    def __init__(self, config: uvicorn.Config, hub: HubServer, started: Callable[[str], None]) -> None:
        super().__init__(config)
        self._hub = hub
        self._started = started

    async def startup(self, sockets: object = None) -> None:
        await super().startup(sockets=sockets)  # type: ignore[arg-type]  # uvicorn's own list of sockets, passed on
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._started(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def shutdown(self, sockets: object = None) -> None:
        await self._hub.stop_work()
        await super().shutdown(sockets=sockets)  # type: ignore[arg-type]  # the same


@contextlib.asynccontextmanager
async def running(hub: HubServer) -> AsyncIterator[HubServer]:
    """Run a hub's work while the body runs."""
    await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()


def web_server(hub: HubServer, *, host: str, port: int, keys: Keys, started: Callable[[str], None]) -> uvicorn.Server:
    """Return a server for *hub*, not yet serving; *started* hears its base URL. Raises ``InvalidRequest``."""
    check_exposure(host, keys)
    config = uvicorn.Config(
        hub.app,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=FRAME_BYTES_MAX,
        ws_ping_interval=None,
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=STREAMS_END_S,
    )
    return _Uvicorn(config, hub, started)
