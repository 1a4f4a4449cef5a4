"""How a process that serves for long takes memory, and collects its garbage."""

import ctypes
import gc
from typing import Final

ALLOCATIONS: Final = 20_000
"""A young collection after this many more objects were made than freed: some hundred turns, and not ten."""
_M_ARENA_MAX: Final = -8
"""Of glibc's malloc.h."""


def settle() -> None:
    """Have all threads take memory from one place, and never look again at what exists now: modules and classes.

    To be called once, when a process serves and before it makes its threads.
    """
    _share_arena()
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, 20, 50)


def _share_arena() -> None:
    """Have glibc give threads no arenas of their own.

    Those grow by the page, with a call of the system for each: opening a state of 1 MB
    in a thread takes seven times as long there. Other C libraries have no such arenas.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
