"""``Hub``: hub, workers and client in one process, as an ASGI app.

The only module where the three meet. A worker here has threads of its own and the
link's frames cross them as bytes: the same semantics as over a socket.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
from starlette.types import Message, Receive, Scope, Send

from satchel.client.client import AsyncClient, AsyncSession
from satchel.errors import LinkClosed
from satchel.hub.burst import EXTENSION
from satchel.hub.server import HubServer
from satchel.hub.settings import HubSettings, Keys
from satchel.limits import SLOTS_DEFAULT
from satchel.protocol.transport import Transport
from satchel.worker.process import WorkerHost
from satchel.worker.worker import Worker

logger = logging.getLogger("satchel.hub")


class Hub:
    """A hub to mount in your own app, with its workers in the same process.

    Start it with ``lifespan=hub.lifespan`` or ``async with hub:``; a mounted app's own
    lifespan is not run by Starlette. *store* is a path or a ``sqlite:///`` URL; one
    store file has one hub. Callers, hosts and origins are your app's to check. Workers
    elsewhere may dial ``/v1/worker`` only if *worker_key* is given.
    """

    def __init__(
        self,
        *,
        store: str | os.PathLike[str],
        workers: Sequence[Worker[Any]] = (),
        worker_key: str | None = None,
        slots: int = SLOTS_DEFAULT,
        settings: HubSettings | None = None,
    ) -> None:
        self._server = HubServer(os.fspath(store), settings=settings, keys=Keys(worker=worker_key), is_mounted=True)
        self._workers = tuple(workers)
        self._slots = slots
        self._host: WorkerHost | None = None
        self._client: AsyncClient | None = None

    async def __aenter__(self) -> Self:
        """Open the store, take up unfinished turns, start the workers. Raises ``StoreInUse`` and the like."""
        await self._server.start()
        try:
            if self._workers:
                loop = asyncio.get_running_loop()

                async def dial() -> Transport:
                    ours, theirs = memory_pair(asyncio.get_running_loop(), loop)
                    asyncio.run_coroutine_threadsafe(self._server.serve_transport(theirs), loop)
                    return ours

                self._host = WorkerHost(self._workers, dial=dial, slots=self._slots)
                await asyncio.to_thread(self._host.start)
        except BaseException:
            await self._server.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
        await self._server.stop_work()
        host, self._host = self._host, None
        if host is not None:
            await asyncio.to_thread(host.stop)
        await self._server.stop()

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:  # noqa: ARG002  # Starlette's and FastAPI's signature
        """Run the hub while *app* runs: ``Starlette(lifespan=hub.lifespan)``."""
        async with self:
            yield

    def session(self, session_id: str, agent: str | None = None) -> AsyncSession:
        """Return a session as ``AsyncClient.session`` does, without a socket."""
        if self._client is None:
            self._client = AsyncClient("http://127.0.0.1", transport=AsgiTransport(self._server.app))
        return self._client.session(session_id, agent=agent)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve HTTP and worker links; as the outermost app, its lifespan too."""
        if scope["type"] == "lifespan":
            await self._own_lifespan(receive, send)
        else:
            await self._server.app(scope, receive, send)

    async def _own_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.__aenter__()
        except Exception as error:  # noqa: BLE001  # the server prints it and exits
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.__aexit__(None, None, None)
        await send({"type": "lifespan.shutdown.complete"})


class _MemoryEnd:
    """One end of a pair of transports, each used from its own event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._is_closed = False
        self.peer: _MemoryEnd = self

    async def send(self, message: bytes) -> None:
        if self._is_closed:
            raise LinkClosed
        self._deliver(message)

    async def receive(self) -> bytes:
        message = None if self._is_closed else await self._arrived.get()
        if message is None:
            self._is_closed = True
            raise LinkClosed
        return message

    async def close(self, reason: str = "") -> None:  # noqa: ARG002  # a socket would carry it
        if not self._is_closed:
            self._is_closed = True
            self._arrived.put_nowait(None)
            self._deliver(None)

    def _deliver(self, message: bytes | None) -> None:
        try:
            self.peer._loop.call_soon_threadsafe(self.peer._arrived.put_nowait, message)  # noqa: SLF001  # its other half
        except RuntimeError as error:  # the other loop is closed
            if message is not None:
                raise LinkClosed from error


def memory_pair(one: asyncio.AbstractEventLoop, other: asyncio.AbstractEventLoop) -> tuple[Transport, Transport]:
    """Return two connected transports, the first for loop *one*, the second for *other*."""
    first, second = _MemoryEnd(one), _MemoryEnd(other)
    first.peer, second.peer = second, first
    return first, second


class AsgiTransport(httpx.AsyncBaseTransport):
    """Calls an ASGI app in this process and streams its answer; httpx's own waits for the whole."""

    def __init__(self, app: Any) -> None:  # any ASGI app
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = _Call(await request.aread())
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": (request.url.host, request.url.port),
            "client": None,
            "extensions": {EXTENSION: call},
        }
        call.task = asyncio.create_task(call.run(self._app, scope))
        status, headers = await call.head()
        return httpx.Response(status, headers=headers, stream=call)


class _Call(httpx.AsyncByteStream):
    """One request to an app: what it sends, as a byte stream."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._sent: asyncio.Queue[Message | None] = asyncio.Queue()
        self._left = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def run(self, app: Any, scope: Scope) -> None:  # any ASGI app
        try:
            await app(scope, self._receive, self._sent.put)
        finally:
            self._sent.put_nowait(None)

    # --- what it is to a burst: the channel of its answer -------------------------------------

    @property
    def is_free(self) -> bool:
        return not self._left.is_set()

    def chunk(self, body: bytes) -> Message:
        return {"type": "http.response.body", "body": body, "more_body": True}

    def write(self, chunk: Message) -> None:
        self._sent.put_nowait(chunk)

    async def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        message = await self._sent.get()
        if message is None:
            if self.task is not None:
                await self.task
            raise httpx.RemoteProtocolError("The app ended without an answer.")
        return message["status"], list(message.get("headers", []))

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._sent.get()) is not None:
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return

    async def aclose(self) -> None:
        self._left.set()
        if self.task is None:
            return
        await asyncio.wait({self.task})
        error = None if self.task.cancelled() else self.task.exception()
        if error is not None:  # it was answered as an internal error; a server would log it
            logger.error("a request to the embedded hub failed", exc_info=error)
