"""The worker's end of the link: it dials, registers, moves frames, and dials again when the link is lost.

What may be sent when is ``protocol.link``'s, what a frame means the runtime's, and
where it runs ``linkthread``'s.
"""

import asyncio
import concurrent.futures
import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from satchel.errors import InvalidRequest, LinkClosed, LinkError, LinkRefused, MessageTooLarge
from satchel.limits import RECONNECT_DELAY_MAX_S, RECONNECT_DELAY_S
from satchel.protocol.link import Link, Role
from satchel.protocol.messages import (
    Event,
    Failure,
    FailureCode,
    HubFrame,
    Pieces,
    Refused,
    Register,
    Registered,
    Result,
    WorkerFrame,
)
from satchel.protocol.packing import merged
from satchel.protocol.transport import Transport

logger = logging.getLogger("satchel.worker.link")

Dial = Callable[[], Awaitable[Transport]]
"""Makes one connection, on the link's loop. Raises ``LinkClosed`` (dial again) or ``LinkRefused`` (do not)."""

PIECES_EVERY_S: Final = 0.001
"""How often pieces of text make a message while nothing else is sent: nobody reads faster."""

FLUSH_S: Final = 1.0
"""How long a link that stops waits for its last frames to go out."""


class LinkUser(Protocol):
    """The runtime, as the link needs it. Called on the handlers' loop."""

    def registration(self) -> Register: ...
    def receive(self, frame: HubFrame) -> None: ...
    def link_lost(self) -> None: ...


class WorkerLink:
    """A worker process's link to its hub, over as many connections as it takes; all of it on one loop.

    *to_user* carries calls to the handlers' loop, in order. *registered* hears, on the
    link's side, of every time that the hub took the worker. *chance* spreads a fleet's dials.
    """

    def __init__(
        self,
        dial: Dial,
        *,
        to_user: Callable[[Callable[[LinkUser], None]], None],
        registered: Callable[[Registered], None] | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._dial = dial
        self._to_user = to_user
        self._heard_registered = registered
        self._chance = chance or random.Random()  # noqa: S311  # spreads a fleet, hides nothing
        self._connection: _Connection | None = None
        self._linking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Dial, serve, and dial again with a growing, jittered pause. Returns when stopped.

        Raises ``LinkRefused`` if the hub does not take this worker.
        """
        self._linking = asyncio.current_task()
        pause_s = RECONNECT_DELAY_S
        while True:
            try:
                connection = _Connection(await self._dial(), self)
                try:
                    await connection.serve()
                    return
                finally:
                    if connection.was_registered:
                        pause_s = RECONNECT_DELAY_S
            except LinkRefused:
                raise
            except LinkError as error:
                logger.warning("no link to the hub", extra={"reason": error.message, "again_in_s": pause_s})
            await asyncio.sleep(self._chance.uniform(0, pause_s))
            pause_s = min(2 * pause_s, RECONNECT_DELAY_MAX_S)

    def send(self, frame: WorkerFrame) -> None:
        """Send a frame, in order, if a connection is up; else drop it."""
        if self._connection is not None:
            self._connection.send(frame)

    def stop(self) -> None:
        """End after the frames that were given to ``send``; at once if none can be sent."""
        if self._linking is None:
            return
        if self._connection is None:
            self._linking.cancel()
        else:
            self._connection.stop()
            asyncio.get_running_loop().call_later(FLUSH_S, self._linking.cancel)

    # --- what a connection asks --------------------------------------------------------------

    async def register_frame(self, connection: "_Connection") -> Register:
        """Ask the handlers' side what to register, and from then on give *connection* its frames."""
        answer: concurrent.futures.Future[Register] = concurrent.futures.Future()

        def ask(user: LinkUser) -> None:
            if not answer.set_running_or_notify_cancel():
                return  # the link was stopped meanwhile
            try:
                answer.set_result(user.registration())
            except BaseException as error:  # noqa: BLE001  # raised on the link's side
                answer.set_exception(error)

        self._to_user(ask)
        register = await asyncio.wrap_future(answer)
        # What was sent before the answer is for a connection that is gone, and was dropped by send.
        self._connection = connection
        return register

    def receive(self, frame: HubFrame) -> None:
        """Give a frame to the handlers' side."""
        if isinstance(frame, Registered) and self._heard_registered is not None:
            self._heard_registered(frame)
        self._to_user(lambda user: user.receive(frame))

    def lost(self) -> None:
        """Drop what could not be sent, and tell the handlers' side."""
        self._connection = None
        self._to_user(lambda user: user.link_lost())


class _Connection:
    """One connection, from the dial to its close."""

    def __init__(self, transport: Transport, owner: WorkerLink) -> None:
        self._transport = transport
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._link = Link(Role.WORKER, now=self._loop.time())
        self._given: list[WorkerFrame] = []
        self._has_more = asyncio.Event()
        self._sent_at = -math.inf
        self._pace: asyncio.TimerHandle | None = None
        self._is_stopping = False
        self.was_registered = False

    def send(self, frame: WorkerFrame) -> None:
        """Send a frame, in order; drop it until the hub took the worker: it was made for the link before.

        Pieces of text alone make a message once in ``PIECES_EVERY_S``: many streams at
        once would else wake the hub for each of theirs.
        """
        if not self.was_registered:
            return
        self._given.append(frame)
        due_in_s = self._sent_at + PIECES_EVERY_S - self._loop.time()
        if not isinstance(frame, Pieces) or due_in_s <= 0:
            self._has_more.set()
        elif self._pace is None:
            self._pace = self._loop.call_later(due_in_s, self._pieces_due)

    def _pieces_due(self) -> None:
        self._pace = None
        self._has_more.set()

    def stop(self) -> None:
        """End once everything that was given is sent."""
        self._is_stopping = True
        self._has_more.set()

    async def serve(self) -> None:
        """Serve until stopped; then return. Raises ``LinkError`` when the link is lost, ``LinkRefused``."""
        tasks: list[asyncio.Task[None]] = []
        reason = ""
        try:
            self._link.send(await self._owner.register_frame(self))
            tasks = [asyncio.create_task(steps) for steps in (self._write(), self._read(), self._tick())]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except LinkError as error:
            reason = error.message
            raise
        finally:
            self._owner.lost()
            if self._pace is not None:
                self._pace.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._transport.close(reason)

    async def _write(self) -> None:
        """Send what may be sent, one message at a time: what is given meanwhile goes before the next chunk."""
        while True:
            message = self._next_message()
            if message is not None:
                await self._transport.send(message)
                self._sent_at = self._loop.time()
            elif self._is_stopping and self._link.is_idle:
                return
            else:
                await self._has_more.wait()
                self._has_more.clear()

    def _next_message(self) -> bytes | None:
        given, self._given = self._given, []
        for frame in merged(given):
            self._take(frame)
        return self._link.next_message()

    def _take(self, frame: WorkerFrame) -> None:
        logger.debug("→ %s", type(frame).__name__)
        try:
            self._link.send(frame)
        except (InvalidRequest, MessageTooLarge) as error:
            logger.exception("a frame cannot be sent", extra={"frame": type(frame).__name__})
            if not isinstance(frame, Event | Pieces | Result | Failure):
                raise LinkClosed(error.message) from error
            # The hub must not wait for it, nor see a gap in the events behind it.
            message = "The worker could not send what the turn made; its log says why."
            self._link.send(Failure(attempt=frame.attempt, code=FailureCode.INTERNAL_ERROR, message=message))

    async def _read(self) -> None:
        while True:
            data = await self._transport.receive()
            for frame in self._link.receive(data, self._loop.time()):
                self._receive(frame)
            if not self._link.is_idle:
                self._has_more.set()

    def _receive(self, frame: Any) -> None:  # the link's rules let only a hub's frames through
        logger.debug("← %s", type(frame).__name__)
        match frame:
            case Refused():
                raise LinkRefused(frame.message, hint=frame.hint, code=frame.code)
            case Registered():
                self.was_registered = True
                logger.info("registered with the hub", extra={"adopted": len(frame.adopted)})
        self._owner.receive(frame)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(max(self._link.next_deadline() - self._loop.time(), 0.01))
            self._link.tick(self._loop.time())
            self._has_more.set()
