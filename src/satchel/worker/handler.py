"""Calls a handler: an async one on the loop, a plain one in a thread; what it returns is said."""

import contextvars
import inspect
from collections.abc import AsyncIterable, Iterable
from concurrent.futures import Executor
from functools import partial
from typing import Any

from satchel.errors import TurnMisused
from satchel.worker.context import Turn, enter_turn
from satchel.worker.threads import in_thread
from satchel.worker.voice import Voice
from satchel.worker.worker import Handler


async def call_handler(handler: Handler[Any], turn: Turn[Any], voice: Voice, *, pool: Executor | None) -> None:
    """Run *handler* to its end, in a task of its own. Raises what it raises.

    A plain one runs in a thread of *pool*; None: it ``is_async``. Returns once its
    thread, if it has one, is over, even when cancelled.
    """
    enter_turn(turn)
    try:
        if pool is None:
            said = handler(turn)
        else:
            context = contextvars.copy_context()
            said = await in_thread(pool, partial(context.run, _call_plain, handler, turn, voice))
        if inspect.isawaitable(said):
            said = await said
        if said is not None:
            await voice.say_stream(said)
        voice.finish()
    except SystemExit as exit_:  # it would end the process, and with it every other session's turn
        raise TurnMisused("The handler called sys.exit().") from exit_
    finally:
        voice.drop()


def is_async(handler: Handler[Any]) -> bool:
    """Whether *handler* runs on the loop: an async function or generator, or an object that is called like one."""
    call = getattr(handler, "__call__", handler)  # noqa: B004  # an object's own method is asked, not whether it has one
    return any(
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function) for function in (handler, call)
    )


def _call_plain(handler: Handler[Any], turn: Turn[Any], voice: Voice) -> Any:
    """Call a plain handler and say its text here, in its thread; return what only the loop can say."""
    said = handler(turn)
    if said is None or inspect.isawaitable(said) or isinstance(said, AsyncIterable) or not isinstance(said, Iterable):
        return said
    voice.say_now(said)
    return None
