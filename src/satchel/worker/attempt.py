"""One attempt in a worker process: what it was asked, what it emitted, and how it ended."""

import asyncio
from typing import Any, Final

import msgspec

from satchel.errors import SatchelError, StateNotFound, StateTooLarge, TurnRefused
from satchel.limits import TEXT_BYTES_MAX
from satchel.model import SessionId
from satchel.protocol.messages import AttemptName, Failure, FailureCode, Request, Result
from satchel.state.session import OpenSession, Recorded
from satchel.worker.events import AttemptEvents
from satchel.worker.worker import Worker

VERDICTS: Final = frozenset(
    {
        FailureCode.INTERNAL_ERROR,
        FailureCode.TEXT_HANDLER_ERROR,
        FailureCode.TURN_REFUSED,
        FailureCode.STATE_TOO_LARGE,
    }
)
"""Failures that end a turn: kept for a hub that was away, so that the handler does not run again."""


class HandlerRaised(Exception):
    """Wraps what came out of a handler, or out of what it left behind, on its way to the failure."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause
        super().__init__()


class Stopped(Exception):
    """The attempt was told to stop, and has."""


class Copy:
    """A session's copy, and the epoch of the attempt that last ran on it."""

    def __init__(self, session: OpenSession, agent: str) -> None:
        self.session = session
        self.agent = agent
        self.epoch = -1

    @property
    def state_bytes(self) -> int:
        return self.session.state_bytes

    def close(self) -> None:
        self.session.close()


class Attempt:
    """One run of a handler, from the request until the hub has committed it or stopped it."""

    def __init__(
        self, request: Request, worker: Worker[Any], events: AttemptEvents, *, older: "Attempt | None" = None
    ) -> None:
        self.request = request
        self.worker = worker
        self.events = events
        self.older = older
        self.copy: Copy | None = None
        """The copy it runs on, from when the state was resolved."""
        self.recorded: Recorded | None = None
        """What the turn did, without its bytes."""
        self.outcome: Result | Failure | None = None
        self.handler_ms = 0.0
        self.task: asyncio.Task[None] | None = None
        self.has_released = asyncio.Event()
        """The session's copy is free for the next attempt: rolled back, pending, or given up."""
        self.stopping: asyncio.Future[FailureCode] = asyncio.get_running_loop().create_future()

    @property
    def name(self) -> AttemptName:
        return self.request.attempt

    @property
    def session_id(self) -> SessionId:
        return self.request.attempt.session_id

    @property
    def is_stopping(self) -> bool:
        return self.stopping.done()

    def drop_chain(self) -> None:
        """Let go of the state's encoded bytes, once the copy is here: a handler may run for minutes."""
        if self.request.chain:
            self.request = msgspec.structs.replace(self.request, chain=())

    def stop(self, code: FailureCode) -> None:
        """Have it stop, and end with *code*. The first reason stands."""
        if not self.stopping.done():
            self.stopping.set_result(code)

    def check_stop(self) -> None:
        """Raise ``Stopped`` if it was told to."""
        if self.is_stopping:
            raise Stopped

    def failure(self, error: BaseException) -> Failure:
        """Return what the hub is told of *error*."""
        if self.is_stopping:
            code, message = self.stopping.result(), ""
        else:
            code, message = failure_of(error)
        return Failure(attempt=self.name, code=code, message=message, handler_ms=self.handler_ms)


def failure_of(error: BaseException) -> tuple[FailureCode, str]:
    """Return the code and the text for the caller (pure).

    ================================  ==========================  ====================
    state is not here, or not sound   SESSION_STATE_NOT_FOUND     nothing
    ``TurnRefused`` in a handler      TURN_REFUSED                its text
    ``StateTooLarge``, anywhere       STATE_TOO_LARGE             its text
    any other in a handler            TEXT_HANDLER_ERROR          its class alone
    any other of our errors           INTERNAL_ERROR              its text
    any other                         INTERNAL_ERROR              that the log says why
    ================================  ==========================  ====================
    """
    is_handlers = isinstance(error, HandlerRaised)
    cause = error.cause if isinstance(error, HandlerRaised) else error
    code, message = FailureCode.INTERNAL_ERROR, "The worker failed; its log says why."
    match cause:
        case StateNotFound() if not is_handlers:
            code, message = FailureCode.SESSION_STATE_NOT_FOUND, ""
        case TurnRefused() if is_handlers:
            code, message = FailureCode.TURN_REFUSED, _sendable(cause.message)
        case StateTooLarge():
            code, message = FailureCode.STATE_TOO_LARGE, cause.message
        case _ if is_handlers:
            code, message = FailureCode.TEXT_HANDLER_ERROR, type(cause).__name__
        case SatchelError():
            message = str(cause)
    return code, message


def _sendable(text: str) -> str:
    """Return a refusal's text as a frame can hold it."""
    return text.encode(errors="replace")[:TEXT_BYTES_MAX].decode(errors="ignore")
