"""What one turn says: every item goes out as an event and, but for pieces of text, into the history."""

import hashlib
import itertools
from collections.abc import AsyncIterable, Coroutine, Generator, Iterable
from types import FrameType
from typing import Any, Final, TypeVar

from satchel.clock import Clock
from satchel.errors import TurnMisused
from satchel.model import Content, Message, MessageId, rfc3339
from satchel.protocol.messages import AttemptName
from satchel.state.history import History, HistoryItem
from satchel.worker.events import AttemptEvents

Said = str | Iterable[str] | AsyncIterable[str]
"""What can be said: a text, or its pieces, which are streamed."""

Result = TypeVar("Result")

_SAYABLE: Final = "say takes a str, an iterable of str, or an async iterable of str."


class NotAwaited(TurnMisused):
    """A ``turn.say(…)`` or ``turn.call(…)`` was never awaited."""


class Voice:
    """Emits the items of attempt *name* in order. *history* is None if the worker records none."""

    def __init__(
        self, name: AttemptName, *, events: AttemptEvents, history: History | None, handler: str, clock: Clock
    ) -> None:
        self._name = name
        self._ids = itertools.count()
        self._clock = clock
        self._events = events
        self._history = history
        self._handler = handler
        self._begun: list[_Awaited[Any]] = []

    def new_id(self, kind: str) -> str:
        """Return the ID of the next item or call: no other attempt has it, and nothing about it is random."""
        place = f"{self._name.session_id}/{self._name.message_id}/{self._name.epoch}/{next(self._ids)}"
        return f"{kind}_{hashlib.sha256(place.encode()).hexdigest()[:16]}"

    def now(self) -> str:
        """Return the time as events carry it."""
        return rfc3339(self._clock.now_ms())

    def message(self, text: str, item_id: str) -> Message:
        return Message(id=item_id, content=(Content(text),), created_at=self.now())

    def hear(self, message_id: MessageId, text: str, accepted_at_ms: int) -> None:
        """Record the user's message, which is the turn's first item in the history and no event."""
        if self._history is not None:
            said_at = rfc3339(accepted_at_ms)
            self._history.append(Message(message_id, (Content(text),), created_at=said_at, role="USER"))

    def emit(self, item: HistoryItem) -> None:
        """Send *item*, and record it. Raises what ``AttemptEvents.add`` and ``History.append`` raise."""
        self._events.add(item)
        if self._history is not None:
            self._history.append(item)

    def emit_piece(self, item_id: str, text: str) -> None:
        """Send a piece of a message; the message itself is what is recorded."""
        self._events.add_piece(item_id, text)

    def awaited(self, work: Coroutine[Any, Any, Result], *, name: str, frame: FrameType) -> "_Awaited[Result]":
        """Return *work* as what the handler must await; *name* and *frame* say what was called, and where."""
        begun = _Awaited(work, name, f"{frame.f_code.co_filename}:{frame.f_lineno}")
        self._begun.append(begun)
        return begun

    async def say_stream(self, said: Said) -> str:
        """Say a text or its pieces; return the whole."""
        if not isinstance(said, AsyncIterable):
            return self.say_now(said)
        stream = _TextStream(self)
        async for piece in said:
            stream.add(piece)
        return stream.finish()

    def say_now(self, said: str | Iterable[str]) -> str:
        """Say a text or its pieces without a loop: what a plain handler returned, in its own thread."""
        if isinstance(said, str):
            text = _plain(said)
            self.emit(self.message(text, self.new_id("item")))
            return text
        if not isinstance(said, Iterable):
            raise TurnMisused(f"A turn says text, not {type(said).__name__}.", hint=_SAYABLE)
        stream = _TextStream(self)
        for piece in said:
            stream.add(piece)
        return stream.finish()

    def finish(self) -> None:
        """Raise ``NotAwaited`` if a ``say`` or ``call`` was not awaited to its end."""
        forgotten = [begun for begun in self._begun if not begun.is_done]
        self.drop()
        if forgotten:
            first = forgotten[0]
            raise NotAwaited(
                f"turn.{first.name}(…) at {first.place} was never awaited by the handler {self._handler}.",
                hint=f"Write await turn.{first.name}(…) in an async def handler; a plain def returns its text.",
            )

    def drop(self) -> None:
        """Forget what was never awaited, without the interpreter's own warning. Idempotent."""
        for begun in self._begun:
            if not begun.is_begun:
                begun.close()
        self._begun.clear()


class _Awaited(Coroutine[Any, Any, Result]):
    """A coroutine that knows where it was made and whether it was awaited to its end."""

    def __init__(self, inner: Coroutine[Any, Any, Result], name: str, place: str) -> None:
        self._inner = inner
        self.name = name
        self.place = place
        self.is_begun = False
        self.is_done = False

    def __await__(self) -> Generator[Any, Any, Result]:
        self.is_begun = True
        try:
            return (yield from self._inner.__await__())
        finally:
            self.is_done = True

    def send(self, value: Any) -> Any:
        """Step it, as a task does."""
        self.is_begun = True
        try:
            return self._inner.send(value)
        except BaseException:  # StopIteration brings the result; any other is for who awaits it
            self.is_done = True
            raise

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:  # noqa: ARG002  # the shape every coroutine has
        """Raise inside it, as a task that is cancelled does."""
        try:
            return self._inner.throw(typ if val is None else val)
        except BaseException:  # as in send
            self.is_done = True
            raise

    def close(self) -> None:
        self._inner.close()


class _TextStream:
    """A message said in pieces."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._item_id = voice.new_id("item")
        self._pieces: list[str] = []

    def add(self, piece: str) -> None:
        if not isinstance(piece, str):
            raise TurnMisused(f"A turn says pieces of text, not {type(piece).__name__}.", hint=_SAYABLE)
        if piece:
            text = _plain(piece)
            self._voice.emit_piece(self._item_id, text)
            self._pieces.append(text)

    def finish(self) -> str:
        text = "".join(self._pieces)
        self._voice.emit(self._voice.message(text, self._item_id))
        return text


def _plain(text: str) -> str:
    """Return *text* as a plain str: frameworks have kinds of their own, which no encoder takes."""
    return str.__str__(text)
