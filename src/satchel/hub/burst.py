"""Writing what comes on many responses, right after one another and without waking their tasks.

A caller's process sleeps until a byte comes; while it is awake, the next write costs half.
So what comes in a pass of the loop is written in one go at its end. ASGI's ``send`` is a
coroutine, which belongs to the response's own task. A server that takes bytes from anybody
says so by ``extensions["satchel.channel"]`` in the scope; uvicorn's does without saying.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from starlette.types import Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

EXTENSION: Final = "satchel.channel"


class Channel(Protocol):
    """The body of one response whose head was sent."""

    @property
    def is_free(self) -> bool:
        """Whether it takes bytes now: the caller is there, and reads as fast as they come."""

    def chunk(self, body: bytes) -> Any:  # what ``write`` takes is the channel's own
        """Return a part of the body as ``write`` takes it."""

    def write(self, chunk: Any) -> None:
        """Send a chunk, or begin to."""


class Due(Protocol):
    """Somebody with something to write at the end of the pass."""

    def ready(self) -> tuple[Callable[[Any], None], Any] | None:
        """Return what to call with what, if there is still something to write here."""


class Burst:
    """What is to be written at the end of this pass of the loop."""

    def __init__(self) -> None:
        self._due: list[Due] = []

    def add(self, due: Due) -> None:
        """Have *due* write at the end of this pass."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._write)
        self._due.append(due)

    def _write(self) -> None:
        due, self._due = self._due, []
        for write, chunk in [ready for each in due if (ready := each.ready()) is not None]:
            write(chunk)


def channel(scope: Scope, send: Send) -> Channel | None:
    """Return the channel of a response; None if what is between the server and us hides it."""
    given: Channel | None = scope.get("extensions", {}).get(EXTENSION)
    if given is not None:
        return given
    cycle = getattr(send, "__self__", None)
    return _UvicornChannel(cycle) if isinstance(cycle, RequestResponseCycle) else None


class _UvicornChannel:
    """What ``RequestResponseCycle.send`` does with a part of a body, without being a coroutine."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self.write = cycle.transport.write

    @property
    def is_free(self) -> bool:
        return not (self._flow.write_paused or self._cycle.disconnected) and self._cycle.chunked_encoding is True

    def chunk(self, body: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(body), body)
