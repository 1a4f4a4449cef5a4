"""Gives a worker's link a thread and event loop of its own: no handler can delay a pong."""

import asyncio
import concurrent.futures
import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from satchel.protocol.messages import Registered, WorkerFrame
from satchel.worker.link import Dial, LinkUser, WorkerLink
from satchel.worker.watch import LOOK_EVERY_S, LoopWatch

if sys.platform == "win32":
    from asyncio import new_event_loop
else:
    from uvloop import new_event_loop


class Bell:
    """Calls for a loop from any thread, in order. Ringing is what costs: it is rung once for all that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()
        self._is_rung = False

    def call(self, call: Callable[[], None]) -> None:
        """Have the loop make a call, unless it is closed. Never blocks."""
        self._calls.append(call)
        if not self._is_rung:
            self._is_rung = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for it
                self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._is_rung = False  # before it looks: a call that comes while it does is seen, or rings
        for _ in range(len(self._calls)):
            call = self._calls.popleft()
            try:
                call()
            except Exception as error:  # noqa: BLE001  # as a loop does with its own calls: the others are made
                self._loop.call_exception_handler({"message": f"{call} failed", "exception": error})


class LinkThread:
    """A ``WorkerLink`` that runs apart from the handlers. Make it and ``start`` it on their loop."""

    def __init__(self, dial: Dial, *, registered: Callable[[Registered], None] | None = None) -> None:
        self._link = WorkerLink(dial, to_user=self._to_user, registered=registered)
        self._to_handlers = Bell(asyncio.get_running_loop())
        self._watch = LoopWatch()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._to_link: Bell | None = None
        self._thread = threading.Thread(target=self._run, name="satchel-link", daemon=True)
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._user: LinkUser | None = None

    def start(self, user: LinkUser) -> None:
        """Begin to dial, for *user*."""
        self._user = user
        self._loop = new_event_loop()
        self._to_link = Bell(self._loop)
        self._thread.start()

    def send(self, frame: WorkerFrame) -> None:
        """Send a frame, in order, if a connection is up; else drop it. From any thread; never blocks."""
        if self._to_link is not None:
            self._to_link.call(partial(self._link.send, frame))

    async def ended(self) -> None:
        """Wait until the link ends for good. Raises ``LinkRefused`` if the hub does not take this worker."""
        await asyncio.shield(asyncio.wrap_future(self._ended))

    async def stop(self) -> None:
        """Send what is under way, close, and end the thread. Idempotent."""
        if self._to_link is not None:
            self._to_link.call(self._link.stop)
            ended = asyncio.wrap_future(self._ended)
            await asyncio.wait([ended])
            ended.exception()  # whoever waits in ``ended`` is told
            self._thread.join()

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
        self._to_handlers.call(partial(call, self._user))
