"""Waiting for threads: a copy is free only when nobody uses it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from satchel.worker.threads import OFF_LOOP_BYTES, by_size, either, in_thread


@pytest.fixture
def pool():
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def test_a_cancelled_wait_ends_with_its_thread_however_often_it_is_cancelled(pool):
    """A rollback beside a thread that still writes would corrupt the copy."""
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        go_on.wait()

    task = asyncio.create_task(in_thread(pool, work))
    await asyncio.to_thread(begun.wait)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_work_that_no_thread_has_taken_is_not_begun_once_cancelled(pool):
    """A handler that waited for a thread must not start after its turn was stopped."""
    go_on, ran = threading.Event(), []
    pool.submit(go_on.wait)
    task = asyncio.create_task(in_thread(pool, lambda: ran.append(1)))
    await asyncio.sleep(0)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    pool.submit(lambda: None).result()

    assert ran == []


@pytest.mark.parametrize(("size", "is_here"), [(OFF_LOOP_BYTES, True), (OFF_LOOP_BYTES + 1, False)])
async def test_only_large_work_leaves_the_loop(pool, size, is_here):
    """A thread costs more than a small payload does."""
    thread = await by_size(pool, size, threading.current_thread)

    assert (thread is threading.current_thread()) is is_here


async def test_what_the_thread_raises_is_raised(pool):
    with pytest.raises(ZeroDivisionError):
        await in_thread(pool, lambda: 1 / 0)


async def test_the_first_of_two_ends_the_wait_and_neither_is_touched():
    """A turn waits for its handler and for the word to stop; it decides what becomes of the other."""
    loop = asyncio.get_running_loop()
    for first in (0, 1):
        pair = (loop.create_future(), loop.create_future())
        waiting = asyncio.create_task(either(*pair))
        await asyncio.sleep(0)
        assert not waiting.done()

        pair[first].set_exception(ValueError("what it raises is not told here"))
        await waiting

        assert not pair[1 - first].done()
        assert isinstance(pair[first].exception(), ValueError)

    both = loop.create_future()
    task = asyncio.create_task(either(both, both))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not both.done()
