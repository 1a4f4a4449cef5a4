"""An event loop in simulated time: when nothing is ready, it is the next timer's time already."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any


class Stalled(Exception):
    """Nothing is ready and no timer is set: somebody waits for what will never come."""


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stalled
        self.now += max(timeout, 0)
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Deterministic: one thread, no real time. Work for threads is done at once, in the loop."""

    def __init__(self) -> None:
        self._simulated = _Selector()
        super().__init__(self._simulated)

    def time(self) -> float:
        return self._simulated.now

    def run_in_executor(self, _executor: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()
        try:
            future.set_result(function(*args))
        except Exception as error:  # noqa: BLE001  # whoever awaits the future has it
            future.set_exception(error)
        return future


def clock(loop: asyncio.AbstractEventLoop) -> SimpleNamespace:
    """Return a stand-in for the module ``time`` that tells *loop*'s time."""
    return SimpleNamespace(monotonic=loop.time, perf_counter=loop.time)


def run(main: Coroutine[Any, Any, None], loop: SimulatedLoop) -> None:
    """Run *main* to its end, and close *loop*."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main)
