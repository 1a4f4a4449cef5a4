"""Notices from another thread when the handlers' event loop does not come round, and logs what holds it."""

import asyncio
import logging
import sys
import threading
import traceback
from typing import Final

from satchel.limits import LOOP_BLOCKED_S

logger = logging.getLogger("satchel.worker")

LOOK_EVERY_S: Final = LOOP_BLOCKED_S / 4
FRAMES_SHOWN: Final = 4


class LoopWatch:
    """Watches the loop on whose thread it is made. ``look`` is called from another, now and then."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._asked_at: float | None = None
        self._has_reported = False

    def look(self, now: float) -> None:
        """Ask the loop to come round; once it has not for ``LOOP_BLOCKED_S``, log that, once a time."""
        if self._asked_at is None:
            self._asked_at, self._has_reported = now, False
            self._loop.call_soon_threadsafe(self._came_round)
        elif now - self._asked_at >= LOOP_BLOCKED_S and not self._has_reported:
            self._has_reported = True
            logger.error(
                "a handler blocks its event loop",
                extra={"handler": self._name(), "at": self._place(), "blocked_s": round(now - self._asked_at, 1)},
            )

    def _came_round(self) -> None:
        self._asked_at = None

    def _name(self) -> str:
        task = asyncio.current_task(self._loop)
        return "a callback" if task is None else task.get_name()

    def _place(self) -> str:
        """Return the innermost lines that run there, the innermost last."""
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001  # the only way to see another thread
        stack = traceback.extract_stack(frame)[-FRAMES_SHOWN:]
        return " > ".join(f"{line.filename}:{line.lineno} {line.name}" for line in stack)
