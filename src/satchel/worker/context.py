"""Turn: all that a handler sees. It emits events and records the conversation; the runtime does the rest.

A turn belongs to one handler. An async handler uses it from its event loop, a plain
one from its thread, and its tools also from threads of their own; nothing of it may
be used once the handler is over.
"""

import hashlib
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Generic

import msgspec

from satchel.errors import TurnMisused
from satchel.model import AgentHandoff, FunctionCall, FunctionCallOutput, MessageId, SessionId, Tenant, Version
from satchel.state.history import History
from satchel.state.values import State
from satchel.worker.voice import Said, Voice

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # only type checkers need the default

    Deps = TypeVar("Deps", default=Any)
else:
    from typing import TypeVar

    Deps = TypeVar("Deps")

_current: Final[ContextVar["Turn[Any]"]] = ContextVar("satchel_turn")


def current_turn() -> "Turn[Any]":
    """Return the turn whose handler is running, for code that was built before it.

    Raises ``TurnMisused`` outside of a handler.
    """
    try:
        return _current.get()
    except LookupError:
        raise TurnMisused(
            "No turn runs here.", hint="Call current_turn() from a handler or from what it calls."
        ) from None


def enter_turn(turn: "Turn[Any]") -> None:
    """Make *turn* the current one of this context, which is the handler's alone."""
    _current.set(turn)


class TurnFacts(msgspec.Struct, frozen=True):
    """What is fixed about a turn before its handler starts."""

    tenant: Tenant
    session_id: SessionId
    message_id: MessageId
    agent: str
    text: str
    metadata: dict[str, Any]
    attempt: int
    version: Version


class Turn(Generic[Deps]):
    """One message of one session, and what its handler can do about it.

    Nothing the handler does is kept unless it returns: an exception undoes every
    change to ``state`` and ``history``. Raise ``TurnRefused("…")`` to end the turn with
    a text for the caller.
    """

    def __init__(
        self,
        facts: TurnFacts,
        *,
        state: State,
        history: History,
        deps: Deps,
        voice: Voice,
        is_cancelled: Callable[[], bool],
    ) -> None:
        self._facts = facts
        self._voice = voice
        self._is_cancelled = is_cancelled
        self._calls: dict[str, str] = {}
        self.state: Final = state
        """The session's state: SQL by ``execute``, and a mapping of JSON values."""
        self.history: Final = history
        """The conversation up to now, this turn's message included."""
        self.deps: Final = deps
        """What the worker's ``lifespan`` gave."""

    def __repr__(self) -> str:
        return f"<Turn {self.message_id!r} of session {self.session_id!r}, attempt {self.attempt}>"

    @property
    def session_id(self) -> SessionId:
        return self._facts.session_id

    @property
    def message_id(self) -> MessageId:
        return self._facts.message_id

    @property
    def agent(self) -> str:
        return self._facts.agent

    @property
    def text(self) -> str:
        """The user's message."""
        return self._facts.text

    @property
    def metadata(self) -> dict[str, Any]:
        """What the caller sent beside the text; empty if nothing."""
        return self._facts.metadata

    @property
    def attempt(self) -> int:
        """1 at first; higher when a worker was lost and the message runs again."""
        return self._facts.attempt

    @property
    def version(self) -> Version:
        """The version that this turn makes."""
        return self._facts.version

    @property
    def is_cancelled(self) -> bool:
        """Whether the turn was told to stop: its result is not wanted any more.

        An async handler gets ``CancelledError``, too; a plain one has only this.
        """
        return self._is_cancelled()

    def idempotency_key(self, label: str) -> str:
        """Return a key (64 hex digits) for an outside service: the same in every attempt of this message.

        Another label gives another key.
        """
        facts = self._facts
        named = f"{facts.tenant}\0{facts.session_id}\0{facts.message_id}\0{label}"
        return hashlib.sha256(named.encode(errors="surrogatepass")).hexdigest()

    # --- what it says ------------------------------------------------------------------------

    def say(self, said: Said) -> Awaitable[str]:
        """Say a text, and return it whole. Must be awaited.

        The pieces of an iterable or async iterable of text are streamed as they come.
        Raises ``TurnMisused`` for anything else, and over the bounds of events.
        """
        frame = sys._getframe(1)  # noqa: SLF001  # where a forgotten await is, for its error
        return self._voice.awaited(self._voice.say_stream(said), name="say", frame=frame)

    # --- what it calls -----------------------------------------------------------------------

    def function_call(self, name: str, arguments: Mapping[str, Any] | str, *, call_id: str | None = None) -> str:
        """Emit a tool call; return its call ID, made unless given.

        *arguments* is a mapping, or JSON text as a model gave it. Raises ``TurnMisused``
        for arguments that are not JSON.
        """
        call_id = call_id or self._voice.new_id("call")
        text = arguments if isinstance(arguments, str) else _json(arguments, f"The arguments of {name}")
        self._calls[call_id] = name
        self._voice.emit(
            FunctionCall(
                id=self._voice.new_id("item"), call_id=call_id, name=name, arguments=text, created_at=self._voice.now()
            )
        )
        return call_id

    def function_call_output(
        self, call_id: str, output: str, *, name: str | None = None, is_error: bool = False
    ) -> None:
        """Emit what the tool call *call_id* gave.

        *name* is the tool's, for a call of an earlier turn that is answered now, as after
        an approval. Raises ``TurnMisused`` if this turn made no such call and *name* is not given.
        """
        name = self._calls.get(call_id, name)
        if name is None:
            raise TurnMisused(
                f"This turn made no function call {call_id!r}.",
                hint="Pass the call ID that function_call returned, or the tool's name if another turn made the call.",
            )
        self._voice.emit(
            FunctionCallOutput(
                id=self._voice.new_id("item"),
                call_id=call_id,
                name=name,
                output=output,
                created_at=self._voice.now(),
                is_error=is_error,
            )
        )

    def call(self, function: Callable[..., Any], /, **arguments: Any) -> Awaitable[Any]:
        """Call a tool, and emit the call and its output; return what it returned. Must be awaited.

        An async function is awaited; a plain one runs here, so blocking work belongs
        in an async one. Text is emitted as it is, anything else as JSON. If the function
        raises, the output is the exception's class alone, with ``is_error``, and the
        exception goes on.
        """
        frame = sys._getframe(1)  # noqa: SLF001  # as in say
        return self._voice.awaited(self._call(function, arguments), name="call", frame=frame)

    async def _call(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        name = getattr(function, "__name__", type(function).__name__)
        call_id = self.function_call(name, arguments)
        try:
            value = function(**arguments)
            if isinstance(value, Awaitable):
                value = await value
            output = value if isinstance(value, str) else _json(value, f"What {name} returned")
        except Exception as error:
            self.function_call_output(call_id, type(error).__name__, is_error=True)
            raise
        self.function_call_output(call_id, output)
        return value

    def hand_off(self, new_agent: str, *, old_agent: str | None = None) -> None:
        """Emit that the conversation goes from *old_agent* to *new_agent*, parts of this agent's own making."""
        self._voice.emit(
            AgentHandoff(
                id=self._voice.new_id("item"),
                new_agent_id=new_agent,
                old_agent_id=old_agent,
                created_at=self._voice.now(),
            )
        )


def _json(value: object, what: str) -> str:
    try:
        return json.dumps(msgspec.to_builtins(value), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TurnMisused(f"{what} is not JSON: {error}") from error
