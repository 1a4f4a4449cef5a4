"""``AsyncClient``: send turns to a hub, follow them, look at sessions."""

import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from satchel.client.http import HubHttp
from satchel.client.model import MessagePage, MessageRow, SessionPage, SessionRow, WorkerList, WorkerRow
from satchel.client.reply import Reply
from satchel.limits import CLIENT_RECONNECT_S
from satchel.model import checked_id


class AsyncClient:
    """A hub, as an application sees it. Close it with ``aclose`` or use it in ``async with``.

    *base_url* is http(s) or ws(s). A reply gives up after *reconnect_s* without a
    connection; other calls are tried once. *transport* replaces the socket. The
    environment's proxies are not used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        reconnect_s: float = CLIENT_RECONNECT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._hub = HubHttp(base_url, api_key=api_key, transport=transport)
        self._reconnect_s = reconnect_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; turns on their way go on at the hub. Idempotent."""
        await self._hub.aclose()

    def session(self, session_id: str, agent: str | None = None) -> "AsyncSession":
        """Return the session of that ID; nothing is sent. It begins with its first message.

        *agent* may be left out when the session exists, or the hub knows only one.
        Raises ``InvalidRequest`` for what is not an ID.
        """
        return AsyncSession(
            self._hub,
            checked_id(session_id, "session_id"),
            agent=None if agent is None else checked_id(agent, "agent"),
            reconnect_s=self._reconnect_s,
        )

    async def sessions(
        self, *, agent: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> SessionPage:
        """Return a page of sessions, of *agent* alone if given."""
        return await self._hub.get("/v1/sessions", SessionPage, {"agent": agent, "limit": limit, "cursor": cursor})

    async def workers(self) -> tuple[WorkerRow, ...]:
        """Return the workers that are connected to the hub."""
        return (await self._hub.get("/v1/workers", WorkerList)).workers


class AsyncSession:
    """One session. Made by ``AsyncClient.session``."""

    def __init__(self, hub: HubHttp, session_id: str, *, agent: str | None, reconnect_s: float) -> None:
        self.session_id = session_id
        self.agent = agent
        self._hub = hub
        self._path = f"/v1/sessions/{session_id}"
        self._reconnect_s = reconnect_s

    def send(
        self,
        text: str,
        *,
        message_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_busy: str | None = None,
    ) -> Reply:
        """Return the reply to *text*: awaiting or iterating it sends the message.

        The message ID is made here unless given; the same message sent again with the
        same ID gets the first answer, or starts a failed one again. *on_busy* says what
        to do if the session runs another turn: ``queue`` or ``reject``, else what the
        agent says.
        """
        body = {
            "text": text,
            "agent": self.agent,
            "message_id": uuid.uuid4().hex if message_id is None else checked_id(message_id, "message_id"),
            "metadata": None if metadata is None else dict(metadata),
            "on_busy": on_busy,
        }
        given = {name: value for name, value in body.items() if value is not None}
        return Reply(self._hub, messages_path=f"{self._path}/messages", body=given, reconnect_s=self._reconnect_s)

    def follow(self, message_id: str) -> Reply:
        """Return the reply to a message that was sent before, by whomever: after a reload of a page, say.

        Awaiting or iterating it reads the events from the first, replayed or live, and
        sends nothing. Raises ``MessageNotFound`` then if the hub never accepted it.
        """
        return Reply(
            self._hub,
            messages_path=f"{self._path}/messages",
            body={"message_id": checked_id(message_id, "message_id")},
            reconnect_s=self._reconnect_s,
            is_sent=True,
        )

    async def messages(self, *, limit: int | None = None, before: str | None = None) -> MessagePage:
        """Return the newest page of the transcript, or the one *before* a page's ``next_cursor``."""
        return await self._hub.get(f"{self._path}/messages", MessagePage, {"limit": limit, "before": before})

    async def message(self, message_id: str) -> MessageRow:
        """Return a message as it stands. Raises ``MessageNotFound``."""
        return await self._hub.get(self._message_path(message_id), MessageRow)

    async def cancel(self, message_id: str) -> MessageRow:
        """Stop a message and return it: cancelled, or as it ended if that came first. Idempotent."""
        return await self._hub.post(f"{self._message_path(message_id)}/cancel", MessageRow)

    async def info(self) -> SessionRow:
        """Return the session as the hub sees it. Raises ``SessionNotFound``."""
        return await self._hub.get(self._path, SessionRow)

    async def snapshot(self, version: int) -> bytes:
        """Return the state at *version* as a SQLite file. Raises ``VersionNotFound``, ``VersionExpired``."""
        return await self._hub.get_bytes(f"{self._path}/versions/{version}/snapshot")

    def _message_path(self, message_id: str) -> str:
        return f"{self._path}/messages/{checked_id(message_id, 'message_id')}"
