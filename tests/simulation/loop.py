"""An event loop in simulated time, on which every thread of every process is a strand.

What is ready on one strand runs in order, as on a real event loop; which strand makes
the next step is drawn. A process can be frozen, blocked on one strand, or killed
between any two steps: then nothing of it runs any more, no ``finally`` either. When
nothing can run, it is the next timer's time already.
"""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import heapq
import itertools
import random
from asyncio import base_events, events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

_STRAND: contextvars.ContextVar["Strand"] = contextvars.ContextVar("strand")


class Stalled(Exception):
    """Nothing is ready and no timer is set: somebody waits for what will never come."""


class Killed(Exception):
    """The process that was waited for is dead."""


class Process:
    """Strands that live, freeze and die together."""

    def __init__(self, loop: "SimulatedLoop", name: str) -> None:
        self.loop = loop
        self.name = name
        self.strands: list[Strand] = []
        self.is_dead = False
        self.died: asyncio.Future[None] = loop.create_future()
        self._steps_left: int | None = None
        self._on_last_step: Callable[[], None] = lambda: None

    def strand(self, name: str) -> "Strand":
        strand = Strand(self, name)
        self.strands.append(strand)
        return strand

    def kill(self) -> None:
        """End it here and now. What it holds outside (connections, files) is for the caller to take away."""
        self.is_dead = True
        self._steps_left = None
        if not self.died.done():
            self.died.set_result(None)
        for strand in self.strands:
            self.loop.forget(strand)

    def freeze(self, seconds: float) -> None:
        """Stop every strand for a while; what arrives meanwhile waits."""
        for strand in self.strands:
            strand.block(seconds)

    def after_steps(self, steps: int, then: Callable[[], None]) -> None:
        """Call *then* in place of its step after *steps* more."""
        self._steps_left, self._on_last_step = steps, then

    def has_step(self) -> bool:
        """Count one step; False if something else happens in its place."""
        if self._steps_left is None:
            return True
        self._steps_left -= 1
        if self._steps_left >= 0:
            return True
        self._steps_left = None
        self._on_last_step()
        return not self.is_dead

    async def bury(self) -> None:
        """Let what was left suspended by a kill be closed, when nobody looks any more."""
        self.is_dead = False
        for strand in self.strands:
            self.loop.wake(strand)
        for _ in range(20):
            tasks = [task for strand in self.strands for task in strand.tasks if not task.done()]
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=5)
        for strand in self.strands:
            for task in strand.tasks:
                if task.done() and not task.cancelled():
                    task.exception()  # seen: it is of no interest any more
        self.is_dead = True


class Strand:
    """A thread of a process."""

    def __init__(self, process: Process, name: str) -> None:
        self.process = process
        self.name = f"{process.name}/{name}" if name else process.name
        self.ready: deque[events.Handle] = deque()
        self.awake_at = 0.0
        self.tasks: list[asyncio.Task[Any]] = []
        self._tasks_max = 64
        self.context = contextvars.Context()
        self.context.run(_STRAND.set, self)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str | None = None) -> "asyncio.Task[Any]":
        """Start a task on this strand, whoever asks."""
        return self.process.loop.create_task(work, name=name, context=self.context.copy())

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Have this strand do *work*; return its result. Raises ``Killed``."""
        task = self.spawn(work)
        await asyncio.wait({task, self.process.died}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Killed
        return task.result()

    def post(self, call: Callable[..., Any], *args: Any, delay_s: float = 0) -> None:
        """Have this strand make a call, after *delay_s*. Calls with the same delay keep their order."""
        loop = self.process.loop
        loop.call_at(loop.time() + delay_s, call, *args, context=self.context)

    def block(self, seconds: float) -> None:
        """Let it make no step for a while."""
        self.awake_at = max(self.awake_at, self.process.loop.time() + seconds)

    def keep(self, task: "asyncio.Task[Any]") -> None:
        self.tasks.append(task)
        if len(self.tasks) > self._tasks_max:
            self.tasks = [each for each in self.tasks if not each.done()]
            self._tasks_max = 64 + 2 * len(self.tasks)


class StrandExecutor(concurrent.futures.Executor):
    """A pool of threads as one strand: it takes work up after a while, one piece after the other."""

    def __init__(self, strand: Strand, chance: random.Random) -> None:
        self._strand = strand
        self._chance = chance

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> "concurrent.futures.Future[Any]":
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call(*args, **options))
                except BaseException as error:  # noqa: BLE001  # whoever waits for the future has it
                    future.set_exception(error)

        self._strand.post(work, delay_s=self._chance.choice([0, 0.001, 0.01, 0.3]))
        return future


class SimulatedLoop(base_events.BaseEventLoop):
    """One thread, no real time, one source of chance."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._now = 0.0
        self._timers: list[tuple[float, int, events.TimerHandle]] = []
        self._order = itertools.count()
        self._running: dict[Strand, None] = {}
        """Strands with something ready."""
        self.steps = 0
        self.world = Process(self, "world").strand("")
        self.set_task_factory(self._new_task)

    def time(self) -> float:
        return self._now

    def process(self, name: str) -> Process:
        return Process(self, name)

    @staticmethod
    def strand() -> Strand:
        """The strand that makes the current step."""
        return _STRAND.get()

    def _new_task(self, loop: Any, work: Any, **options: Any) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        self._strand_of(options.get("context")).keep(task)
        return task

    def _strand_of(self, context: contextvars.Context | None) -> Strand:
        strand = _STRAND.get(self.world) if context is None else context.get(_STRAND, self.world)
        assert strand is not None
        return strand

    # --- the schedule ------------------------------------------------------------------------

    def _call_soon(self, callback: Any, args: Any, context: contextvars.Context | None) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        self._is_ready(self._strand_of(context), handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> events.TimerHandle:
        timer = events.TimerHandle(when, callback, args, self, context or contextvars.copy_context())
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> events.Handle:  # type: ignore[override]
        return self.call_soon(callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        pass

    def run_in_executor(self, _executor: Any, function: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        """Do what would be done in a thread at some time until it is awaited."""
        future = self.create_future()

        def work() -> None:
            if future.done():
                return
            try:
                future.set_result(function(*args))
            except Exception as error:  # noqa: BLE001  # whoever awaits the future has it
                future.set_exception(error)

        self.call_later(self._chance.choice([0, 0.0005, 0.003]), work)
        return future

    def _is_ready(self, strand: Strand, handle: events.Handle) -> None:
        strand.ready.append(handle)
        if not strand.process.is_dead:
            self._running[strand] = None

    def wake(self, strand: Strand) -> None:
        """Let a strand of the dead run what was left ready."""
        if strand.ready:
            self._running[strand] = None

    def forget(self, strand: Strand) -> None:
        self._running.pop(strand, None)

    def _run_once(self) -> None:
        while self._timers and self._timers[0][0] <= self._now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled():
                self._is_ready(self._strand_of(timer._context), timer)  # type: ignore[attr-defined]
        awake = [strand for strand in self._running if strand.awake_at <= self._now]
        if not awake:
            self._advance()
            return
        strand = awake[0] if len(awake) == 1 else awake[int(self._chance.random() * len(awake))]
        if not strand.process.has_step():
            return
        handle = strand.ready.popleft()
        if not strand.ready:
            self._running.pop(strand, None)
        if handle.cancelled():
            return
        self.steps += 1
        handle._run()  # type: ignore[attr-defined]

    def _advance(self) -> None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        moments = [strand.awake_at for strand in self._running]
        if self._timers:
            moments.append(self._timers[0][0])
        if not moments:
            raise Stalled
        self._now = max(self._now, min(moments))

    def _process_events(self, event_list: Any) -> None:  # noqa: ARG002  # asyncio's
        raise AssertionError("there are no sockets here")

    def _write_to_self(self) -> None:
        pass


def run(main: Coroutine[Any, Any, Any], loop: SimulatedLoop) -> Any:
    """Run *main* to its end in *loop*'s own strand, and close the loop."""
    with contextlib.closing(loop):
        task = loop.world.spawn(main)
        task.add_done_callback(lambda _: loop.stop(), context=loop.world.context)
        loop.run_forever()
        return task.result()
