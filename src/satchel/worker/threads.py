"""Work in threads, waited for to its real end: a thread cannot be stopped, and it uses a session's copy until then."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, TypeVar

OFF_LOOP_BYTES: Final = 256 * 1024
"""Hashing and compressing more than this would hold the handlers' loop for a millisecond."""

Given = TypeVar("Given")


async def in_thread(executor: Executor, work: Callable[[], Given]) -> Given:
    """Run *work* in a thread. When cancelled, return only once it is over or was never begun."""
    future = executor.submit(work)
    waiter = asyncio.wrap_future(future)
    is_cancelled = False
    while not waiter.done():
        try:
            await asyncio.wait({waiter})
        except asyncio.CancelledError:
            is_cancelled = True
            future.cancel()  # has an effect only while no thread has taken it
    if is_cancelled:
        if not waiter.cancelled():
            waiter.exception()  # seen: nobody wants it any more
        raise asyncio.CancelledError
    return waiter.result()


async def by_size(executor: Executor, size: int, work: Callable[[], Given]) -> Given:
    """Run *work* over *size* bytes here if they are few, else in a thread."""
    return work() if size <= OFF_LOOP_BYTES else await in_thread(executor, work)
