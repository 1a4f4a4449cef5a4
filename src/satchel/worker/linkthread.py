"""Gives a worker's link a thread and event loop of its own: no handler can delay a pong."""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable

from satchel.protocol.messages import Registered, WorkerFrame
from satchel.worker.link import Dial, LinkUser, WorkerLink
from satchel.worker.watch import LOOK_EVERY_S, LoopWatch


class LinkThread:
    """A ``WorkerLink`` that runs apart from the handlers. Make it and ``start`` it on their loop."""

    def __init__(self, dial: Dial, *, registered: Callable[[Registered], None] | None = None) -> None:
        self._link = WorkerLink(dial, to_user=self._to_user, registered=registered)
        self._handlers = asyncio.get_running_loop()
        self._watch = LoopWatch()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="satchel-link", daemon=True)
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._user: LinkUser | None = None

    def start(self, user: LinkUser) -> None:
        """Begin to dial, for *user*."""
        self._user = user
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def send(self, frame: WorkerFrame) -> None:
        """Send a frame, in order, if a connection is up; else drop it. From any thread; never blocks."""
        self._on_link(self._link.send, frame)

    async def ended(self) -> None:
        """Wait until the link ends for good. Raises ``LinkRefused`` if the hub does not take this worker."""
        await asyncio.shield(asyncio.wrap_future(self._ended))

    async def stop(self) -> None:
        """Send what is under way, close, and end the thread. Idempotent."""
        self._on_link(self._link.stop)
        if self._loop is not None:
            ended = asyncio.wrap_future(self._ended)
            await asyncio.wait([ended])
            ended.exception()  # whoever waits in ``ended`` is told
            self._thread.join()

    def _on_link(self, call: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the link has ended
                self._loop.call_soon_threadsafe(call, *arguments)

    # --- in the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        loop = self._loop
        assert loop is not None, "the thread is started with its loop"
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(self._main())
        except asyncio.CancelledError:
            self._ended.set_result(None)  # stopped while there was no connection
        except BaseException as error:  # noqa: BLE001  # it ends the process, by whoever waits for the link
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    async def _main(self) -> None:
        watching = asyncio.create_task(self._look())
        try:
            await self._link.run()
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(RuntimeError):  # the handlers' loop is closed
                self._watch.look(loop.time())
            await asyncio.sleep(LOOK_EVERY_S)

    def _to_user(self, call: Callable[[LinkUser], None]) -> None:
        assert self._user is not None, "a link is started with its user"
        with contextlib.suppress(RuntimeError):  # the handlers' loop is closed: the process ends
            self._handlers.call_soon_threadsafe(call, self._user)
