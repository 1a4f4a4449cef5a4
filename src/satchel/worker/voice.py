"""What one turn says: every item goes out as an event and, but for pieces of text, into the history."""

import time
import uuid
from collections.abc import AsyncIterable, Callable, Coroutine, Generator, Iterable
from types import FrameType
from typing import Any, Final

from satchel.errors import TurnMisused
from satchel.model import Content, Item, Message, MessageId, TextDelta, rfc3339
from satchel.state.history import History, HistoryItem

Said = str | Iterable[str] | AsyncIterable[str]
"""What can be said: a text, or its pieces, which are streamed."""

_SAYABLE: Final = "say takes a str, an iterable of str, or an async iterable of str."


class SayNotAwaited(TurnMisused):
    """A ``turn.say(…)`` was never awaited."""


class Voice:
    """Emits a turn's items in order. *history* is None if the worker records none."""

    def __init__(self, *, emit: Callable[[Item], None], history: History | None, handler: str) -> None:
        self._emit = emit
        self._history = history
        self._handler = handler
        self._says: list[_Say] = []

    def hear(self, message_id: MessageId, text: str, accepted_at_ms: int) -> None:
        """Record the user's message, which is the turn's first item in the history and no event."""
        if self._history is not None:
            said_at = rfc3339(accepted_at_ms)
            self._history.append(Message(message_id, (Content(text),), created_at=said_at, role="USER"))

    def emit(self, item: HistoryItem) -> None:
        """Send *item*, and record it. Raises what ``AttemptEvents.add`` and ``History.append`` raise."""
        self._emit(item)
        if self._history is not None:
            self._history.append(item)

    def emit_piece(self, piece: TextDelta) -> None:
        """Send a piece of a message; the message itself is what is recorded."""
        self._emit(piece)

    def say(self, said: Said, frame: FrameType) -> "_Say":
        """Return the coroutine that says *said*; *frame* is where it was called."""
        say = _Say(self.say_stream(said), f"{frame.f_code.co_filename}:{frame.f_lineno}")
        self._says.append(say)
        return say

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
            self.emit(_message(said, new_id("item")))
            return said
        if not isinstance(said, Iterable):
            raise TurnMisused(f"A turn says text, not {type(said).__name__}.", hint=_SAYABLE)
        stream = _TextStream(self)
        for piece in said:
            stream.add(piece)
        return stream.finish()

    def finish(self) -> None:
        """Raise ``SayNotAwaited`` if a ``say`` was begun and not awaited to its end."""
        forgotten = [say for say in self._says if not say.is_done]
        self.drop()
        if forgotten:
            raise SayNotAwaited(
                f"turn.say(…) at {forgotten[0].place} was never awaited by the handler {self._handler}.",
                hint="Write: await turn.say(…). A plain def handler returns its text instead.",
            )

    def drop(self) -> None:
        """Forget what was never awaited, without the interpreter's own warning. Idempotent."""
        for say in self._says:
            if not say.is_begun:
                say.close()
        self._says.clear()


class _Say(Coroutine[Any, Any, str]):
    """The coroutine of one ``say``, which knows where it stands and whether it was awaited to its end."""

    def __init__(self, inner: Coroutine[Any, Any, str], place: str) -> None:
        self._inner = inner
        self.place = place
        self.is_begun = False
        self.is_done = False

    def __await__(self) -> Generator[Any, Any, str]:
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
        self._item_id = new_id("item")
        self._pieces: list[str] = []

    def add(self, piece: str) -> None:
        if not isinstance(piece, str):
            raise TurnMisused(f"A turn says pieces of text, not {type(piece).__name__}.", hint=_SAYABLE)
        if piece:
            self._voice.emit_piece(TextDelta(item_id=self._item_id, text=piece))
            self._pieces.append(piece)

    def finish(self) -> str:
        text = "".join(self._pieces)
        self._voice.emit(_message(text, self._item_id))
        return text


def _message(text: str, item_id: str) -> Message:
    return Message(id=item_id, content=(Content(text),), created_at=now())


def new_id(kind: str) -> str:
    """Return a new ID of an item or call."""
    return f"{kind}_{uuid.uuid4().hex[:16]}"


def now() -> str:
    """Return the time as events carry it."""
    return rfc3339(time.time_ns() // 1_000_000)
