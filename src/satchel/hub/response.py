"""A message's events as a streaming response, in raw ASGI: a framework's own costs four times as much."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from satchel.hub import render
from satchel.hub.burst import Burst, Channel, channel
from satchel.hub.stream import Reader, TurnStream

WATCH_AFTER_S: Final = 0.05
"""From when on a response notices that its caller left: most are over by then, and never look."""

_HEAD: Final = [(b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
_LINES_HEAD: Final = [(b"content-type", b"application/x-ndjson"), *_HEAD]
_SSE_HEAD: Final = [(b"content-type", b"text/event-stream"), *_HEAD]


class EventStream:
    """A streaming response: lines or SSE frames, with a sign of life in silence.

    *source* is a stream, of which the caller gets what is behind cursor *after*, or all
    the lines if they are known. What is there at once is one chunk. The turn does not
    stop when the caller leaves.
    """

    def __init__(
        self,
        source: TurnStream | list[bytes],
        *,
        after: int = -1,
        is_sse: bool = False,
        headers: Mapping[str, str] | None = None,
        keep_alive_s: float,
        burst: Burst,
    ) -> None:
        self._source = source
        self._after = after
        self._is_sse = is_sse
        self._headers = headers or {}
        self._keep_alive_s = keep_alive_s
        self._burst = burst

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = _SSE_HEAD if self._is_sse else _LINES_HEAD
        headers = [*head, *((name.lower().encode(), value.encode()) for name, value in self._headers.items())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if isinstance(self._source, TurnStream):
            with contextlib.closing(self._source.reader(self._after)) as reader:
                await self._follow(reader, receive, send, channel(scope, send))
        else:
            await send({"type": "http.response.body", "body": self._body(self._source), "more_body": False})

    async def _follow(self, reader: Reader, receive: Receive, send: Send, straight: Channel | None) -> None:
        """Send what comes until the last line, or until the caller leaves. No task or timer is made for a line."""
        body = b""
        caller = _Caller(receive, left=reader.wake)
        silence = _Silence(self._keep_alive_s, broken=reader.wake)
        if straight is not None:
            reader.told = _Straight(reader, straight, self._body, silence, self._burst).told
        try:
            while not (reader.is_over or caller.has_left):
                await reader.changed()
                body = self._body(reader.take())
                if not body and silence.is_over:
                    body = b": keep-alive\n\n" if self._is_sse else b"\n"
                if body and not reader.is_over:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    silence.begin()
                    body = b""
            await send({"type": "http.response.body", "body": body, "more_body": False})
        finally:
            silence.forget()
            caller.forget()

    def _body(self, lines: list[bytes]) -> bytes:
        return b"".join(map(render.sse, lines) if self._is_sse else lines)


class _Straight:
    """Writes what comes while the response's task waits, in a burst with what comes on other responses."""

    def __init__(
        self,
        reader: Reader,
        straight: Channel,
        body: Callable[[list[bytes]], bytes],
        silence: "_Silence",
        burst: Burst,
    ) -> None:
        self._reader = reader
        self._channel = straight
        self._body = body
        self._silence = silence
        self._burst = burst
        self._is_due = False

    def told(self) -> None:
        if self._reader.is_ending:
            self._reader.wake()
        elif not self._is_due:
            self._is_due = True
            self._burst.add(self)

    def ready(self) -> tuple[Callable[[Any], None], Any] | None:
        """Return what is to be written now: nothing if the task is to do it, or does not wait."""
        self._is_due = False
        if not self._channel.is_free:
            self._reader.wake()
        if not self._reader.is_waiting or not (body := self._body(self._reader.take())):
            return None
        self._silence.begin()
        return self._channel.write, self._channel.chunk(body)


class _Caller:
    """Whether the caller of a response has *left*, which is then called. Nobody looks before ``WATCH_AFTER_S``."""

    def __init__(self, receive: Receive, *, left: Callable[[], None]) -> None:
        self._receive = receive
        self._left = left
        self._watching: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._watch)

    @property
    def has_left(self) -> bool:
        return self._watching is not None and self._watching.done()

    def forget(self) -> None:
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def _watch(self) -> None:
        self._watching = asyncio.create_task(self._leave())
        self._watching.add_done_callback(lambda _: self._left())

    async def _leave(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


class _Silence:
    """How long nothing was said; *broken* is called when it is *after_s*. Its timer is set anew only as it fires."""

    def __init__(self, after_s: float, *, broken: Callable[[], None]) -> None:
        self._after_s = after_s
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._timer = self._loop.call_later(after_s, self._look)

    @property
    def is_over(self) -> bool:
        return self._loop.time() >= self._since + self._after_s

    def begin(self) -> None:
        self._since = self._loop.time()

    def forget(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        due_at = self._since + self._after_s
        if self.is_over:
            self._broken()
            due_at = self._loop.time() + self._after_s
        self._timer = self._loop.call_at(due_at, self._look)
