"""``Client``: the same as ``AsyncClient``, blocking. One event loop in a thread does the work."""

import asyncio
import concurrent.futures
import itertools
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from satchel.client.client import AsyncClient, AsyncSession
from satchel.client.model import Answer, MessagePage, MessageRow, SessionPage, SessionRow, WorkerRow
from satchel.client.reply import Reply
from satchel.limits import CLIENT_RECONNECT_S
from satchel.model import TurnEvent

T = TypeVar("T")


class Client:
    """A hub, as a blocking application sees it. Close it with ``close`` or use it in ``with``.

    The arguments are those of ``AsyncClient``. Any thread may call it.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        reconnect_s: float = CLIENT_RECONNECT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._client = AsyncClient(base_url, api_key=api_key, reconnect_s=reconnect_s, transport=transport)
        self._portal = _Portal()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; turns on their way go on at the hub. Idempotent."""
        self._portal.close(self._client.aclose)

    def session(self, session_id: str, agent: str | None = None) -> "Session":
        """Return the session of that ID; nothing is sent."""
        return Session(self._client.session(session_id, agent=agent), self._portal)

    def sessions(self, *, agent: str | None = None, limit: int | None = None, cursor: str | None = None) -> SessionPage:
        """Return a page of sessions, of *agent* alone if given."""
        return self._portal.run(self._client.sessions(agent=agent, limit=limit, cursor=cursor))

    def workers(self) -> tuple[WorkerRow, ...]:
        """Return the workers that are connected to the hub."""
        return self._portal.run(self._client.workers())


class Session:
    """One session. Made by ``Client.session``; its methods are those of ``AsyncSession``."""

    def __init__(self, session: AsyncSession, portal: "_Portal") -> None:
        self._session = session
        self._portal = portal

    @property
    def session_id(self) -> str:
        return self._session.session_id

    def send(
        self,
        text: str,
        *,
        message_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_busy: str | None = None,
    ) -> "BlockingReply":
        """Send *text* and return when the hub has stored it; the reply waits for the answer."""
        reply = self._session.send(text, message_id=message_id, metadata=metadata, on_busy=on_busy)
        return BlockingReply(reply, self._portal)

    def follow(self, message_id: str) -> "BlockingReply":
        """Return the reply to a message that was sent before. Raises ``MessageNotFound``."""
        return BlockingReply(self._session.follow(message_id), self._portal)

    def messages(self, *, limit: int | None = None, before: str | None = None) -> MessagePage:
        """Return the newest page of the transcript, or the one *before* a page's ``next_cursor``."""
        return self._portal.run(self._session.messages(limit=limit, before=before))

    def message(self, message_id: str) -> MessageRow:
        """Return a message as it stands. Raises ``MessageNotFound``."""
        return self._portal.run(self._session.message(message_id))

    def cancel(self, message_id: str) -> MessageRow:
        """Stop a message and return it: cancelled, or as it ended if that came first. Idempotent."""
        return self._portal.run(self._session.cancel(message_id))

    def info(self) -> SessionRow:
        """Return the session as the hub sees it. Raises ``SessionNotFound``."""
        return self._portal.run(self._session.info())

    def snapshot(self, version: int) -> bytes:
        """Return the state at *version* as a SQLite file. Raises ``VersionNotFound``, ``VersionExpired``."""
        return self._portal.run(self._session.snapshot(version))


class BlockingReply:
    """A message that the hub has stored: iterate over its events as they come, or ask for the answer.

    ``text`` and the other parts of the answer wait for the turn's end and raise the
    error that ended it; an iteration does so after its last event. A wait that Ctrl-C
    ends can be taken up again; the turn goes on.
    """

    def __init__(self, reply: Reply, portal: "_Portal") -> None:
        self.message_id = reply.message_id
        self._reply = reply
        self._portal = portal
        portal.run(reply.event_at(0))
        # Read on whether or not anyone looks, so that a reply that is let go holds no connection.
        self._answer = portal.start(_awaited(reply))

    def __iter__(self) -> Iterator[TurnEvent]:
        for index in itertools.count():
            event = self._portal.run(self._reply.event_at(index))
            if event is None:
                break
            yield event
        self.answer()

    def answer(self) -> Answer:
        """Wait for the answer and return it."""
        return self._answer.result()

    @property
    def text(self) -> str:
        return self.answer().text

    @property
    def version(self) -> int:
        return self.answer().version

    @property
    def attempts(self) -> int:
        return self.answer().attempts

    @property
    def changed_rows(self) -> dict[str, tuple[int, int, int]]:
        return self.answer().changed_rows

    @property
    def events(self) -> tuple[TurnEvent, ...]:
        return self.answer().events


async def _awaited(reply: Reply) -> Answer:
    return await reply


class _Portal:
    """An event loop in a thread, entered from other threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: a client that nobody closed must not keep the interpreter from leaving.
        self._thread = threading.Thread(target=self._loop.run_forever, name="satchel-client", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        if self._loop.is_closed():
            work.close()
            raise RuntimeError("The client is closed.")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what *work* gives. Ctrl-C ends the wait and the work."""
        future = self.start(work)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """End all work, then do *last*, then end the thread. Idempotent."""
        if self._loop.is_closed():
            return
        self.run(_ended(last))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _ended(last: Callable[[], Awaitable[None]]) -> None:
    work = asyncio.all_tasks() - {asyncio.current_task()}
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    await last()
    await asyncio.get_running_loop().shutdown_asyncgens()
