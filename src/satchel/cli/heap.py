"""How a process that serves for long collects its garbage."""

import gc
from typing import Final

ALLOCATIONS: Final = 20_000
"""A young collection after this many more objects were made than freed: some hundred turns, and not ten."""


def settle() -> None:
    """Never look again at what exists now: modules and classes, which stay. To be called once a process serves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, 20, 50)
