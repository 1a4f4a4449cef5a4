"""The time, as a part is given it that tells or stores it. Deadlines are an event loop's own."""

import time
from collections.abc import Callable

import msgspec


class Clock(msgspec.Struct, frozen=True):
    """Two readings of one clock; the defaults are the operating system's."""

    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    """Milliseconds since 1970: what rows, events and people see."""
    stopwatch_s: Callable[[], float] = time.perf_counter
    """Seconds since some moment: the difference of two readings is a duration."""
