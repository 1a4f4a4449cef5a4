"""Worker: one agent's code, as a user's file declares it. Declaring starts and connects nothing."""

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Generic

from satchel.errors import InvalidRequest, NotSupported
from satchel.limits import ATTEMPTS_MAX, TURN_TIMEOUT_S
from satchel.model import AgentSpec, OnBusy, checked_id
from satchel.state.schema import Schema
from satchel.worker.context import Turn

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # only type checkers need the default

    Deps = TypeVar("Deps", default=Any)
else:
    from typing import TypeVar

    Deps = TypeVar("Deps")

Handler = Callable[[Turn[Deps]], Any]
"""An async or plain function of one turn. What it returns is said: a text, an iterable of texts, or None."""


class Worker(Generic[Deps]):
    """One agent: its name, its schema, and the handler that answers its messages.

    *schema* and *migrations* are SQL: the tables of a session as they were first
    declared, and one text for each later change, in order. *lifespan* is a function
    that returns an async context manager; it is entered once per process, before the
    first turn, and its value is ``turn.deps``. *history* says whether the conversation
    is recorded in ``turn.history``. One attempt may run *turn_timeout_s* seconds; a
    message whose worker is lost is started at most *max_attempts* times. *on_busy* is
    what happens to a message whose session is busy: ``queue`` or ``reject``.

    Raises ``SchemaRefused`` if the schema would lose rows, ``InvalidRequest`` for a
    name or bound that is none, ``NotSupported`` for another *on_busy*.
    """

    def __init__(
        self,
        name: str,
        *,
        schema: str = "",
        migrations: Sequence[str] = (),
        lifespan: Callable[[], AbstractAsyncContextManager[Deps]] | None = None,
        history: bool = True,
        turn_timeout_s: float = TURN_TIMEOUT_S,
        max_attempts: int = ATTEMPTS_MAX,
        on_busy: str = OnBusy.QUEUE,
    ) -> None:
        self.name = checked_id(name, "The agent's name")
        if isinstance(migrations, str):
            raise InvalidRequest(
                "migrations is one text.", hint='Give a list of SQL texts: migrations=["ALTER TABLE …"].'
            )
        self.schema = Schema.declare(schema, migrations)
        self.lifespan = lifespan
        self.records_history = history
        self.spec = AgentSpec(
            name=self.name,
            schema=self.schema.name,
            schema_min=1,
            turn_timeout_s=_checked_timeout(turn_timeout_s),
            max_attempts=_checked_attempts(max_attempts),
            on_busy=_checked_on_busy(on_busy),
        )
        self._handler: Handler[Deps] | None = None
        self._handler_name = f"{self.name}, which has no handler"

    def __repr__(self) -> str:
        return f"Worker({self.name!r})"

    def on_message(self, handler: Handler[Deps]) -> Handler[Deps]:
        """Register the function that answers this agent's messages, as a decorator.

        Raises ``InvalidRequest`` if there is one already, or if it does not take one turn.
        """
        if self._handler is not None:
            raise InvalidRequest(
                f"Agent {self.name!r} has two handlers: {_named(self._handler)} and {_named(handler)}.",
                hint="A Worker has exactly one function under @worker.on_message.",
            )
        _check_takes_one_turn(handler)
        self._handler = handler
        self._handler_name = f"{self.name}.{_named(handler)}"
        return handler

    @property
    def handler(self) -> Handler[Deps]:
        """The registered handler. Raises ``InvalidRequest`` if there is none."""
        if self._handler is None:
            raise InvalidRequest(
                f"Agent {self.name!r} has no handler.",
                hint="Put @worker.on_message above the function that answers its messages.",
            )
        return self._handler

    @property
    def handler_name(self) -> str:
        """What logs call the handler: its agent and function."""
        return self._handler_name


def _named(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _check_takes_one_turn(handler: Callable[..., Any]) -> None:
    if not callable(handler):
        raise InvalidRequest("@worker.on_message stands above a function.", hint="Write it without parentheses.")
    try:
        inspect.signature(handler).bind(object())
    except TypeError as error:
        raise InvalidRequest(f"The handler {_named(handler)} does not take one argument, the turn.") from error


def _checked_timeout(turn_timeout_s: float) -> float:
    if not (math.isfinite(turn_timeout_s) and turn_timeout_s > 0):
        raise InvalidRequest(f"turn_timeout_s is seconds above 0, not {turn_timeout_s!r}.")
    return float(turn_timeout_s)


def _checked_attempts(max_attempts: int) -> int:
    if not isinstance(max_attempts, int) or max_attempts < 1:
        raise InvalidRequest(f"max_attempts is a whole number from 1, not {max_attempts!r}.")
    return max_attempts


def _checked_on_busy(on_busy: str) -> OnBusy:
    try:
        return OnBusy(on_busy)
    except ValueError:
        raise NotSupported(
            f"on_busy={on_busy!r} is not supported.", hint=f"It is one of: {', '.join(OnBusy)}."
        ) from None
