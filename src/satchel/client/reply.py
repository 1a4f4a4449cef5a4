"""One message's way: sent once or followed, its events read to the end over as many connections as it takes.

A connection that drops is opened again: by the cursor once the hub is known to have
the message, else by sending the message with the same ID, which runs once.
"""

import asyncio
import contextlib
import random
import time
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from typing import Any, Final

import msgspec

from satchel.client.http import HubHttp, LineStream
from satchel.client.model import Answer
from satchel.errors import HubDraining, HubUnreachable, SatchelError, StoreUnavailable, from_body
from satchel.limits import CLIENT_LINGER_S, RECONNECT_DELAY_MAX_S, RECONNECT_DELAY_S
from satchel.model import Complete, ErrorBody, TurnEvent, TurnReport

_TYPES: Final = frozenset(TurnEvent.__struct_fields__[5:])
"""The event types that this release knows; readers skip the others."""

_SIGN_OF_LIFE: Final = b": keep-alive\n\n"


class Reply:
    """What ``send`` and ``follow`` return: await it for the ``Answer``, or iterate over its events, or both.

    Nothing is sent before that. Each iteration begins with the first event; what came
    between ``accepted`` and a ``restarted`` is to be dropped. Awaiting, and an iteration
    after its last event, raise the error that ended the turn. Leaving an iteration does
    not stop the turn: ``AsyncSession.cancel`` does.
    """

    def __init__(
        self, hub: HubHttp, *, messages_path: str, body: Mapping[str, Any], reconnect_s: float, is_sent: bool = False
    ) -> None:
        """*is_sent*: the hub has the message already, and of *body* only its ID counts."""
        self.message_id: str = body["message_id"]
        self._hub = hub
        self._messages_path = messages_path
        self._body = body
        self._reconnect_s = reconnect_s
        self._lock = asyncio.Lock()
        self._stream: LineStream | None = None
        self._events: list[TurnEvent] = []
        self._cursor: int | None = None
        self._is_accepted = is_sent
        self._readers = 0
        self._requests = 0
        self._drops = 0
        self._dropped_at: float | None = None

    def __await__(self) -> Generator[Any, None, Answer]:
        return self._answer().__await__()

    async def __aiter__(self) -> AsyncIterator[TurnEvent]:
        async with contextlib.aclosing(self._steps()) as steps:
            async for event in steps:
                if event is not None:
                    yield event
        _raise_failure(self._events[-1])

    async def sse(self, *, after: int | None = None) -> AsyncIterator[bytes]:
        """Yield the events as server-sent events, the body of a ``text/event-stream`` response.

        With *after*, the cursor that a browser sends as ``Last-Event-ID``, only those
        behind it, and the last in any case. Never raises an error of ours: when the message
        could not be sent or followed, the last event is a ``complete`` that carries the error.
        """
        try:
            async with contextlib.aclosing(self._steps()) as steps:
                async for event in steps:
                    if event is None:
                        yield _SIGN_OF_LIFE
                    elif after is None or event.seq > after or event.complete is not None:
                        yield sse_frame(event)
        except SatchelError as error:
            yield sse_frame(self._ended_by(error))

    async def event_at(self, index: int) -> TurnEvent | None:
        """Return the *index*-th event once it is there; ``None`` behind the last.

        For a reader beside another one: it leaves the connection open when it is done.
        """
        while index >= len(self._events) and not self._is_done:
            await self._step(index)
        return self._events[index] if index < len(self._events) else None

    async def _answer(self) -> Answer:
        async for _ in self:
            pass
        return answer_of(self._events)

    async def _steps(self) -> AsyncGenerator[TurnEvent | None, None]:
        """Yield every event from the first to the last, and ``None`` for a sign of life between."""
        index = 0
        self._readers += 1
        try:
            while True:
                if index < len(self._events):
                    event = self._events[index]
                    index += 1
                    yield event
                elif self._is_done:
                    return
                else:
                    await self._step(index)
                    if index == len(self._events):
                        yield None
        finally:
            self._readers -= 1
            if not self._readers:
                await self._close()

    @property
    def _is_done(self) -> bool:
        return bool(self._events) and self._events[-1].complete is not None

    async def _step(self, index: int) -> None:
        """Read one line, unless another reader has read the *index*-th event meanwhile.

        After a drop, wait before the next try. Raises ``HubUnreachable`` when it was too long.
        """
        async with self._lock:
            if self._is_done or index < len(self._events):
                return
            try:
                self._take(await self._line())
                if self._is_done:
                    await self._finish()
            except SatchelError as error:
                await self._close()
                if not is_drop(error, requests=self._requests):
                    raise
                await self._wait(error)
            except BaseException:  # cancelled, most of all: the next reader resumes by the cursor
                await self._close()
                raise

    async def _line(self) -> bytes:
        if self._stream is None:
            self._stream = await self._open()
            self._is_accepted = True
        line = await self._stream.next()
        if line is None:
            raise HubUnreachable("The stream ended before its last event.")
        return line

    async def _open(self) -> LineStream:
        self._requests += 1
        if not self._is_accepted:
            return await self._hub.post_stream(self._messages_path, self._body)
        return await self._hub.get_stream(f"{self._messages_path}/{self.message_id}", {"after": self._cursor})

    def _take(self, line: bytes) -> None:
        if not line:
            return  # a sign of life
        try:
            head = msgspec.json.decode(line, type=_Head)
            if head.type in _TYPES:
                self._events.append(msgspec.json.decode(line, type=TurnEvent))
        except msgspec.DecodeError as error:
            raise HubUnreachable(f"The stream holds what is no event: {error}.") from error
        self._cursor = head.seq
        self._drops, self._dropped_at = 0, None

    async def _finish(self) -> None:
        """Read to the end, so that the connection serves the next request."""
        try:
            async with asyncio.timeout(CLIENT_LINGER_S):
                while self._stream is not None and await self._stream.next() is not None:
                    pass
        except (TimeoutError, HubUnreachable):
            pass  # the answer is complete; only the connection is lost
        await self._close()

    async def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()

    async def _wait(self, error: SatchelError) -> None:
        now = time.monotonic()
        self._dropped_at = now if self._dropped_at is None else self._dropped_at
        if now - self._dropped_at >= self._reconnect_s:
            error.details["message_id"] = self.message_id
            raise error
        delay_s = min(RECONNECT_DELAY_S * 2**self._drops, RECONNECT_DELAY_MAX_S)
        self._drops += 1
        await asyncio.sleep(delay_s * random.random())  # noqa: S311  # jitter, no secret

    def _ended_by(self, error: SatchelError) -> TurnEvent:
        last = self._events[-1] if self._events else None
        return TurnEvent(
            seq=0 if self._cursor is None else self._cursor,
            attempt=0 if last is None else last.attempt,
            type="complete",
            session_id="" if last is None else last.session_id,
            message_id=self.message_id,
            complete=Complete(turn=TurnReport(), error=msgspec.convert(error.body(), ErrorBody)),
        )

    def __del__(self) -> None:
        if not self._requests and not self._is_accepted:
            warnings.warn(f"Message {self.message_id} was never sent: await its reply.", RuntimeWarning, stacklevel=2)


class _Head(msgspec.Struct):
    seq: int
    type: str


def is_drop(error: SatchelError, *, requests: int) -> bool:
    """Whether a try that ended with *error* is worth another.

    A connection that failed is, always. A hub that drains, or waits for its store,
    refuses a first request by a decision that is the caller's to answer; later, the
    message is on its way already, and the hub's restart is what we wait out.
    """
    if isinstance(error, HubUnreachable):
        return True
    return requests > 1 and isinstance(error, HubDraining | StoreUnavailable)


def answer_of(events: Sequence[TurnEvent]) -> Answer:
    """Return the answer that a committed turn's events make; what a restart dropped is left out."""
    kept: list[TurnEvent] = []
    for event in events:
        if event.restarted is not None:
            del kept[1:]
        kept.append(event)
    complete = kept[-1].complete
    assert complete is not None, "an answer is made of events that are complete"
    assert complete.session_state is not None, "a turn without a version has an error"
    return Answer(
        text="\n".join(event.message.text for event in kept if event.message is not None),
        version=complete.session_state.version,
        attempts=complete.turn.attempts,
        changed_rows=complete.turn.changed_rows,
        message_id=kept[-1].message_id,
        events=tuple(kept),
    )


def sse_frame(event: TurnEvent) -> bytes:
    """Return an event as a server-sent event whose ID is the cursor."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.type.encode(), msgspec.json.encode(event))


def _raise_failure(last: TurnEvent) -> None:
    complete = last.complete
    if complete is not None and complete.error is not None:
        raise from_body(msgspec.to_builtins(complete.error))
