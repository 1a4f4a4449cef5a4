"""Google ADK's session services: ``get_session``, then ``append_event`` for every item, as its Runner does.

ADK has an environment of its own (the group ``bench-adk``), since it holds websockets below 15.1.
"""

import sqlite3
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

from google.adk.events import Event, EventActions
from google.adk.sessions import BaseSessionService, DatabaseSessionService, Session
from google.adk.sessions.schemas.v1 import StorageEvent
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.genai import types

from benchmarks.peers.conversation import Item
from benchmarks.peers.peer import LocalPeer

_APP: Final = "bench"
_USER: Final = "caller"
_INSERT: Final = """
INSERT INTO events (id, app_name, user_id, session_id, invocation_id, timestamp, event_data)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
"""As the service's own."""


class _Service(LocalPeer):
    """What a run asks, whatever keeps the session."""

    async def open(self) -> None:
        self._service = self.opened()

    async def fill(self, session_id: str, items: Sequence[Item]) -> None:
        """Fill by ``append_event`` at both ends, and by the service's own rows between: one by one takes minutes."""
        self._session_id = session_id
        session = await self._service.create_session(app_name=_APP, user_id=_USER, session_id=session_id)
        events = [_event(item) for item in items]
        await self._service.append_event(session, events[0])
        await self.insert(session, events[1:-1])
        await self._service.append_event(session, events[-1])

    async def turn(self, items: Sequence[Item]) -> None:
        session = await self._loaded(self._service)
        for item in items:
            await self._service.append_event(session, _event(item))

    async def cold_load(self) -> int:
        return len((await self._loaded(self.opened())).events)

    async def _loaded(self, service: BaseSessionService) -> Session:
        session = await service.get_session(app_name=_APP, user_id=_USER, session_id=self._session_id)
        assert session is not None, "it was made"
        return session

    def opened(self) -> BaseSessionService:
        raise NotImplementedError

    async def insert(self, session: Session, events: Sequence[Event]) -> None:
        raise NotImplementedError


class AdkSqlite(_Service):
    """``SqliteSessionService``."""

    def opened(self) -> BaseSessionService:
        return SqliteSessionService(str(self.folder / "adk.db"))

    async def insert(self, session: Session, events: Sequence[Event]) -> None:
        with sqlite3.connect(self.folder / "adk.db") as connection:
            connection.executemany(_INSERT, [_row(session, event) for event in events])
        connection.close()


class AdkDatabase(_Service):
    """``DatabaseSessionService`` on SQLite."""

    def opened(self) -> DatabaseSessionService:
        return DatabaseSessionService(f"sqlite+aiosqlite:///{self.folder / 'adk.db'}")

    async def insert(self, session: Session, events: Sequence[Event]) -> None:
        async with self.opened() as service, service.database_session_factory() as rows:
            rows.add_all(StorageEvent.from_event(session, event) for event in events)
            await rows.commit()


def _row(session: Session, event: Event) -> tuple[Any, ...]:
    content = event.model_dump_json(exclude_none=True)
    return event.id, _APP, _USER, session.id, event.invocation_id, event.timestamp, content


def _event(item: Item) -> Event:
    match item.kind:
        case "call":
            call = types.FunctionCall(id=item.call_id, name="look_up", args={"query": item.text})
            part = types.Part(function_call=call)
        case "output":
            response = types.FunctionResponse(id=item.call_id, name="look_up", response={"result": item.text})
            part = types.Part(function_response=response)
        case _:
            part = types.Part(text=item.text)
    is_user = item.kind == "user"
    actions = EventActions(state_delta={"answered": item.text[:20]}) if item.kind == "assistant" else EventActions()
    return Event(
        id=str(uuid.uuid4()),
        author="user" if is_user else "agent",
        invocation_id="e-bench",
        timestamp=time.time(),
        content=types.Content(role="user" if is_user else "model", parts=[part]),
        actions=actions,
    )
