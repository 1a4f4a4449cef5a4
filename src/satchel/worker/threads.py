"""Waiting: for threads to their real end, since none can be stopped, and each uses a session's copy until then."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

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


async def either(one: "asyncio.Future[Any]", other: "asyncio.Future[Any]") -> None:
    """Wait until one of two is done, and leave both as they are: ``asyncio.wait``, which every turn would pay for."""
    is_done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(_future: "asyncio.Future[Any]") -> None:
        if not is_done.done():
            is_done.set_result(None)

    one.add_done_callback(wake)
    other.add_done_callback(wake)
    try:
        await is_done
    finally:
        one.remove_done_callback(wake)
        other.remove_done_callback(wake)


async def by_size(executor: Executor, size: int, work: Callable[[], Given]) -> Given:
    """Run *work* over *size* bytes here if they are few, else in a thread."""
    return work() if size <= OFF_LOOP_BYTES else await in_thread(executor, work)
