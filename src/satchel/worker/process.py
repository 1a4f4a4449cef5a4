"""A worker process: lifespans, runtime and link, put together, started and stopped."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from types import FrameType
from typing import Any, Final

import uvloop

from satchel.errors import SatchelError
from satchel.limits import SLOTS_DEFAULT, STOP_S, WARM_BYTES_MAX
from satchel.protocol.messages import AttemptName, Registered
from satchel.worker.link import Dial
from satchel.worker.linkthread import LinkThread
from satchel.worker.runtime import Runtime
from satchel.worker.worker import Worker

logger = logging.getLogger("satchel.worker")

TURNS_END_S: Final = 2.0
"""How long a process that stops lets turns run on; then they run again elsewhere."""

STUCK_EXIT_CODE: Final = 1


async def serve(
    workers: Sequence[Worker[Any]],
    *,
    dial: Dial,
    stop: asyncio.Event,
    slots: int = SLOTS_DEFAULT,
    warm_bytes_max: int = WARM_BYTES_MAX,
    started: Callable[[], None] | None = None,
    registered: Callable[[Registered], None] | None = None,
    raised: Callable[[AttemptName, BaseException], None] | None = None,
) -> list[str]:
    """Serve *workers* over one link until *stop* is set. Handlers run on this loop.

    *started* is called once the lifespans are entered. Returns the names of handlers
    that did not stop. Raises ``LinkRefused`` if the hub does not take this worker, and
    what a lifespan raises.
    """
    async with contextlib.AsyncExitStack() as lifespans:
        deps = {
            worker.name: await lifespans.enter_async_context(worker.lifespan())
            for worker in workers
            if worker.lifespan is not None
        }
        link = LinkThread(dial, registered=registered)
        runtime = Runtime(
            workers,
            send=link.send,
            deps=deps,
            slots=slots,
            warm_bytes_max=warm_bytes_max,
            build=f"satchel/{version('satchel')}",
            raised=raised,
        )
        link.start(runtime)
        if started is not None:
            started()
        ended = asyncio.create_task(link.ended())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            stuck = await runtime.stop(grace_s=TURNS_END_S)
            await link.stop()
        await ended
        return stuck


def serve_until_signalled(
    workers: Sequence[Worker[Any]],
    *,
    dial: Dial,
    slots: int = SLOTS_DEFAULT,
    registered: Callable[[Registered], None] | None = None,
) -> None:
    """Serve from the main thread until SIGTERM or SIGINT; the process then ends within ``STOP_S``.

    A handler that does not stop is named in the log and ended with the process.
    Raises ``LinkRefused``.
    """

    async def run() -> None:
        stop = asyncio.Event()
        with _signals_set(stop):
            stuck = await serve(workers, dial=dial, stop=stop, slots=slots, registered=registered)
        if stuck:
            _leave(f"handlers did not stop: {', '.join(stuck)}")

    uvloop.run(run())


@contextlib.contextmanager
def _signals_set(stop: asyncio.Event) -> Iterator[None]:
    """Have SIGTERM and SIGINT set *stop*. A loop that a handler blocks does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    last_resort = threading.Timer(STOP_S, _leave, ["the event loop is blocked"])
    last_resort.daemon = True

    def stop_now(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop.set)
        if not last_resort.is_alive():
            with contextlib.suppress(RuntimeError):  # a second signal: it was started, and has fired
                last_resort.start()

    before = {number: signal.signal(number, stop_now) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        last_resort.cancel()
        for number, action in before.items():
            signal.signal(number, action)


def _leave(reason: str) -> None:
    """End the process without waiting for its threads."""
    logger.error("ended with work under way", extra={"reason": reason})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(STUCK_EXIT_CODE)


class WorkerHost:
    """A worker in a process that does something else, too: its handlers have a thread and loop of their own."""

    def __init__(
        self,
        workers: Sequence[Worker[Any]],
        *,
        dial: Dial,
        slots: int = SLOTS_DEFAULT,
        warm_bytes_max: int = WARM_BYTES_MAX,
        registered: Callable[[Registered], None] | None = None,
        raised: Callable[[AttemptName, BaseException], None] | None = None,
    ) -> None:
        self._workers = tuple(workers)
        self._dial = dial
        self._slots = slots
        self._warm_bytes_max = warm_bytes_max
        self._registered = registered
        self._raised = raised
        self._thread = threading.Thread(target=self._run, name="satchel-handlers", daemon=True)
        self._is_started = threading.Event()
        self._stop: Callable[[], None] | None = None
        self.failure: BaseException | None = None
        """What ended it, if it ended by itself: ``LinkRefused``, or what a lifespan raised."""

    def start(self) -> None:
        """Return once the hub knows the workers, so that the next message finds them.

        Raises what a lifespan raised, and ``LinkRefused``.
        """
        self._thread.start()
        self._is_started.wait()
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """Stop as ``serve`` does. Blocks until the thread has ended. Idempotent."""
        if self._stop is not None:
            self._stop()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # the thread ends; whoever started it asks why
            self.failure = error
            if self._stop is not None:
                reason = str(error) if isinstance(error, SatchelError) else repr(error)
                logger.error("the worker ended", extra={"reason": reason})  # noqa: TRY400  # it is kept in failure
        finally:
            self._is_started.set()

    async def _serve(self) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def stop_soon() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(stop.set)

        def started() -> None:
            self._stop = stop_soon

        def registered(frame: Registered) -> None:
            self._is_started.set()
            if self._registered is not None:
                self._registered(frame)

        await serve(
            self._workers,
            dial=self._dial,
            stop=stop,
            slots=self._slots,
            warm_bytes_max=self._warm_bytes_max,
            started=started,
            registered=registered,
            raised=self._raised,
        )
