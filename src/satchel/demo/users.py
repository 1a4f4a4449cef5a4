"""The load: many users, each in one session, through the public client.

A user waits for an answer, thinks, and speaks again. Every message is sent twice, some
users do not wait for the first answer before they send the second message.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable
from typing import Final

from satchel.client.client import AsyncClient, AsyncSession
from satchel.client.reply import answer_of
from satchel.demo import plan
from satchel.demo.agent import AGENT
from satchel.demo.ledger import Ledger, Sent, Told
from satchel.errors import SatchelError
from satchel.model import TurnEvent

logger = logging.getLogger("satchel.demo")

SENDINGS_MAX: Final = 8
"""How often a user sends a message again after a retryable error, before giving it up."""

AGAIN_S: Final = 0.5


class Users:
    """All users of one run. ``run`` ends when *stop* is set and what was sent is answered."""

    def __init__(self, client: AsyncClient, ledger: Ledger, *, seed: int, stop: asyncio.Event) -> None:
        self._client = client
        self._ledger = ledger
        self._seed = seed
        self._stop = stop

    async def run(self) -> None:
        """Let every user talk. Raises nothing of the product's: what a user meets is in the ledger."""
        async with asyncio.TaskGroup() as group:
            for number, session_id in enumerate(self._ledger.sessions):
                group.create_task(
                    self._talk(session_id, delay_s=number * plan.THINK_MAX_S / len(self._ledger.sessions))
                )

    async def _talk(self, session_id: str, *, delay_s: float) -> None:
        session = self._client.session(session_id, agent=AGENT)
        await self._think(delay_s)
        for step in plan.steps(seed=self._seed, session_id=session_id):
            if self._stop.is_set():
                return
            await self._say(session, step)
            await self._think(step.think_s)

    async def _think(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _say(self, session: AsyncSession, step: plan.Step) -> None:
        """Send the texts of a step, each once the one before it is accepted, and wait for all answers."""
        self._ledger.double_texts += len(step.texts) - 1
        async with asyncio.TaskGroup() as group:
            for text in step.texts:
                sent = self._ledger.send(session.session_id, text)
                is_accepted = asyncio.Event()
                group.create_task(self._tell(session, sent, is_accepted, is_concurrent=step.is_concurrent))
                await is_accepted.wait()

    async def _tell(
        self, session: AsyncSession, sent: Sent, is_accepted: asyncio.Event, *, is_concurrent: bool
    ) -> None:
        self._ledger.waits(session.session_id, sent.message_id, now_s=time.monotonic())
        try:
            if is_concurrent:
                await _both(self._watch(session, sent, is_accepted), self._repeat(session, sent))
            else:
                await self._watch(session, sent, is_accepted)
                await self._repeat(session, sent)
        except SatchelError as error:
            sent.error = f"{error.code}: {error}"
        except Exception as error:  # whatever escapes the client is the demo's to report
            logger.exception("an error escaped the client")
            sent.error = f"{type(error).__name__}: {error}"
        finally:
            self._ledger.waits_no_more(session.session_id, sent.message_id)
            is_accepted.set()

    async def _repeat(self, session: AsyncSession, sent: Sent) -> None:
        """Send the message a second time, as a program that is not sure does."""
        for sending in range(1, SENDINGS_MAX + 1):
            try:
                answer = await session.send(sent.text, message_id=sent.message_id)
            except SatchelError as error:
                await self._met(error, sending)
            else:
                self._ledger.acknowledge(sent, Told(answer.version, answer.text))
                return

    async def _watch(self, session: AsyncSession, sent: Sent, is_accepted: asyncio.Event) -> None:
        """Send the message and look at every event, as a person does."""
        began_s = time.monotonic()
        for sending in range(1, SENDINGS_MAX + 1):
            events: list[TurnEvent] = []
            try:
                async for event in session.send(sent.text, message_id=sent.message_id):
                    self._ledger.waits(session.session_id, sent.message_id, now_s=time.monotonic())
                    events.append(event)
                    is_accepted.set()
            except SatchelError as error:
                await self._met(error, sending)
            else:
                answer = answer_of(events)
                self._ledger.acknowledge(sent, Told(answer.version, answer.text))
                self._ledger.waits_no_more(session.session_id, sent.message_id)
                complete = events[-1].complete
                assert complete is not None, "it was just read as complete"
                self._ledger.turned(complete.turn, waited_ms=1000 * (time.monotonic() - began_s))
                return

    async def _met(self, error: SatchelError, sending: int) -> None:
        """Do what the error says: send again, or give up. Raises *error* to give up."""
        if not error.retryable or sending == SENDINGS_MAX:
            raise error
        self._ledger.errors[error.code] += 1
        await asyncio.sleep(AGAIN_S)


async def _both(*work: Awaitable[None]) -> None:
    """Do both to their ends, then raise what either raised: two connections of one user meet two stories."""
    for failure in await asyncio.gather(*work, return_exceptions=True):
        if failure is not None:
            raise failure
