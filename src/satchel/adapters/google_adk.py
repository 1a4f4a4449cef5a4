"""Google ADK's sessions in a session's state, one row per event and per key, its runs streamed into the turn.

    sessions = SatchelSessionService()
    runner = Runner(app_name="clerk", agent=agent, session_service=sessions, auto_create_session=True)
    await sessions.stream(runner.run_async(user_id=turn.session_id, session_id="main", new_message=message))

A Satchel session is one user of ADK's: the user's sessions and ``user:`` state are in it, what ADK shares between
users (``app:`` state, a list of all users' sessions) is refused. Stored are ``google_adk_session``,
``google_adk_event`` (an event as the framework's JSON) and ``google_adk_state`` (one key's value as JSON).
"""

import json
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, Final

from satchel.clock import Clock
from satchel.errors import StateMisused
from satchel.state.values import State as TurnState
from satchel.worker.context import Turn, current_turn

try:
    from google.adk.errors import StaleSessionError
    from google.adk.errors.already_exists_error import AlreadyExistsError
    from google.adk.errors.session_not_found_error import SessionNotFoundError
    from google.adk.events.event import Event
    from google.adk.sessions import BaseSessionService, Session, State
    from google.adk.sessions.base_session_service import GetSessionConfig, ListSessionsResponse
    from pydantic_core import PydanticSerializationError, to_json
except ImportError as error:
    raise ImportError("This adapter needs Google ADK 2.13 or later: pip install 'satchel[google-adk]'.") from error

__all__ = ["SatchelSessionService"]

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS google_adk_session (
    app_name TEXT NOT NULL,
    session_id TEXT NOT NULL,
    update_time REAL NOT NULL,
    PRIMARY KEY (app_name, session_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS google_adk_event (
    position INTEGER PRIMARY KEY,
    app_name TEXT NOT NULL,
    session_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    timestamp REAL NOT NULL,
    event TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS google_adk_event_of_session ON google_adk_event (app_name, session_id, position);
CREATE INDEX IF NOT EXISTS google_adk_event_by_id ON google_adk_event (event_id);
CREATE TABLE IF NOT EXISTS google_adk_state (
    app_name TEXT NOT NULL,
    session_id TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (app_name, session_id, key)
) STRICT, WITHOUT ROWID;
"""
_HAS_TABLES: Final = "SELECT 1 FROM sqlite_schema WHERE name = 'google_adk_state'"

_READ_SESSIONS: Final = """
SELECT session_id, update_time FROM google_adk_session WHERE app_name = ? ORDER BY update_time, session_id
"""
_READ_SESSION: Final = "SELECT update_time FROM google_adk_session WHERE app_name = ? AND session_id = ?"
_READ_EVENTS: Final = """
SELECT event FROM (
    SELECT position, event FROM google_adk_event
    WHERE app_name = ? AND session_id = ? AND timestamp >= ? ORDER BY position DESC LIMIT ?
) ORDER BY position
"""
_READ_EVENT: Final = "SELECT event FROM google_adk_event WHERE event_id = ? AND app_name = ? AND session_id = ?"
_READ_STATE: Final = "SELECT key, value FROM google_adk_state WHERE app_name = ? AND session_id = ? ORDER BY key"

_WRITE_SESSION: Final = """
INSERT INTO google_adk_session VALUES (?, ?, ?)
ON CONFLICT (app_name, session_id) DO UPDATE SET update_time = excluded.update_time
"""
_WRITE_EVENT: Final = """
INSERT INTO google_adk_event (app_name, session_id, event_id, timestamp, event) VALUES (?, ?, ?, ?, ?)
"""
_WRITE_STATE: Final = """
INSERT INTO google_adk_state VALUES (?, ?, ?, ?)
ON CONFLICT (app_name, session_id, key) DO UPDATE SET value = excluded.value
"""
_DELETE: Final = tuple(
    f"DELETE FROM {table} WHERE app_name = ? AND session_id = ?"
    for table in ("google_adk_session", "google_adk_event", "google_adk_state")
)

_USERS_OWN: Final = ""
"""In place of a session's ID: the state of the user, who is the Satchel session."""


class SatchelSessionService(BaseSessionService):
    """ADK's session service in the state of the turn that runs: build it, and the ``Runner``, once.

    ``user_id`` is the ID of the Satchel session; any other is refused. All is or is not
    kept with the turn. Every method raises ``TurnMisused`` outside of a handler and
    ``StateMisused`` for what one Satchel session cannot hold.
    """

    async def create_session(
        self, *, app_name: str, user_id: str, state: dict[str, Any] | None = None, session_id: str | None = None
    ) -> Session:
        """Create a session with *state*; its ``user:`` keys are the user's. Raises ``AlreadyExistsError``."""
        rows = _rows_of(user_id)
        session_id = (session_id or "").strip() or str(uuid.uuid4())
        if rows.update_time(app_name, session_id) is not None:
            raise AlreadyExistsError(f"Session with id {session_id} already exists.")
        rows.write_state(app_name, session_id, state or {})
        rows.write_session(app_name, session_id, Clock().now_ms() / 1000)
        return rows.session(app_name, session_id)

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        """Return the session with its events in the order they were appended, or None."""
        rows = _rows_of(user_id)
        session_id = session_id.strip()
        if rows.update_time(app_name, session_id) is None:
            return None
        session = rows.session(app_name, session_id)
        session.events = rows.events(app_name, session_id, config or GetSessionConfig())
        return session

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """Return the user's sessions without their events, the most recently used last.

        Raises ``StateMisused`` without *user_id*: other users' sessions are not here.
        """
        if user_id is None:
            raise StateMisused(
                "A list of all users' ADK sessions cannot be had in a turn: other users are other Satchel sessions.",
                hint="Pass user_id=turn.session_id, or list Satchel's sessions through the hub.",
            )
        rows = _rows_of(user_id)
        return ListSessionsResponse(sessions=[rows.session(app_name, found) for found in rows.session_ids(app_name)])

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Delete the session, its events and its own state; idempotent. ``user:`` state stays."""
        _rows_of(user_id).delete(app_name, session_id.strip())

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """Return the ``user:`` state, its keys without the prefix."""
        return _rows_of(user_id).state(app_name, _USERS_OWN)

    async def append_event(self, session: Session, event: Event) -> Event:
        """Store *event* and its changes of state, and apply them to *session*; idempotent for an equal event.

        A partial event and ``temp:`` state are not stored. Raises ``SessionNotFoundError``,
        and ``StaleSessionError`` when *session* was loaded before another append.
        """
        if event.partial:
            return event
        rows = _rows_of(session.user_id)
        updated = rows.update_time(session.app_name, session.id)
        if updated is None:
            raise SessionNotFoundError(f"Session {session.id} not found.")
        self._apply_temp_state(session, event)
        event = self._trim_temp_delta_state(event)
        if rows.has_event(session.app_name, session.id, event):
            return event
        if updated > session.last_update_time:
            raise StaleSessionError("The session was changed since it was loaded. Load it again.")
        rows.write_state(session.app_name, session.id, event.actions.state_delta)
        rows.write_event(session.app_name, session.id, event)
        rows.write_session(session.app_name, session.id, event.timestamp)
        session.last_update_time = event.timestamp
        return self._commit_event_to_session(session, event)

    async def stream(self, events: AsyncIterable[Event]) -> None:
        """Say a run's text as it comes and emit its tool calls, outputs and transfers to other agents.

        *events* is what ``runner.run_async(…)`` gives. Tokens come with ADK's
        ``StreamingMode.SSE``. The text is said then: do not return it from the handler,
        too. Of a tool's exception the output has the class alone, with ``is_error``.
        """
        await _Run(current_turn(), events).run()


def _rows_of(user_id: str) -> "_Rows":
    turn = current_turn()
    if user_id != turn.session_id:
        raise StateMisused(
            f"The ADK user {user_id!r} is not the Satchel session {turn.session_id!r}.",
            hint="A Satchel session is one user: pass user_id=turn.session_id.",
        )
    return _Rows(turn.state, user_id)


def _check_scopes(state: Mapping[str, Any]) -> None:
    shared = sorted(key for key in state if key.startswith(State.APP_PREFIX))
    if shared:
        raise StateMisused(
            f"{shared[0]!r} is state of all users of an app, and a Satchel session holds one user's.",
            hint="Keep it as user: or session state, or in a service of your own.",
        )


class _Rows:
    """The tables of one user, made when the session has none."""

    def __init__(self, state: TurnState, user_id: str) -> None:
        self._state = state
        self._user_id = user_id
        if not state.execute(_HAS_TABLES):
            state.execute(_TABLES)

    def session_ids(self, app_name: str) -> list[str]:
        return [session_id for session_id, _ in self._state.execute(_READ_SESSIONS, (app_name,))]

    def update_time(self, app_name: str, session_id: str) -> float | None:
        row = self._state.execute(_READ_SESSION, (app_name, session_id)).first()
        return None if row is None else float(row["update_time"])

    def session(self, app_name: str, session_id: str) -> Session:
        """Return the session, which is there, without its events."""
        own = self.state(app_name, session_id)
        users = {State.USER_PREFIX + key: value for key, value in self.state(app_name, _USERS_OWN).items()}
        return Session(
            app_name=app_name,
            user_id=self._user_id,
            id=session_id,
            state=own | users,
            last_update_time=self.update_time(app_name, session_id) or 0.0,
        )

    def state(self, app_name: str, session_id: str) -> dict[str, Any]:
        return {key: json.loads(value) for key, value in self._state.execute(_READ_STATE, (app_name, session_id))}

    def events(self, app_name: str, session_id: str, config: GetSessionConfig) -> list[Event]:
        since = float("-inf") if config.after_timestamp is None else config.after_timestamp
        count = -1 if config.num_recent_events is None else config.num_recent_events
        rows = self._state.execute(_READ_EVENTS, (app_name, session_id, since, count))
        return [Event.model_validate_json(row["event"]) for row in rows]

    def has_event(self, app_name: str, session_id: str, event: Event) -> bool:
        rows = self._state.execute(_READ_EVENT, (event.id, app_name, session_id))
        return any(row["event"] == _event_json(event) for row in rows)

    def write_session(self, app_name: str, session_id: str, update_time: float) -> None:
        self._state.execute(_WRITE_SESSION, (app_name, session_id, update_time))

    def write_event(self, app_name: str, session_id: str, event: Event) -> None:
        self._state.execute(_WRITE_EVENT, (app_name, session_id, event.id, event.timestamp, _event_json(event)))

    def write_state(self, app_name: str, session_id: str, changes: Mapping[str, Any]) -> None:
        """Write the changed keys. Raises ``StateMisused`` for ``app:`` state and for what is not JSON."""
        _check_scopes(changes)
        for key, value in changes.items():
            if key.startswith(State.TEMP_PREFIX):
                continue
            is_users = key.startswith(State.USER_PREFIX)
            scope, name = (_USERS_OWN, key.removeprefix(State.USER_PREFIX)) if is_users else (session_id, key)
            self._state.execute(_WRITE_STATE, (app_name, scope, name, _value_json(key, value)))

    def delete(self, app_name: str, session_id: str) -> None:
        for statement in _DELETE if session_id != _USERS_OWN else ():
            self._state.execute(statement, (app_name, session_id))


def _event_json(event: Event) -> str:
    return event.model_dump_json(exclude_none=True)


def _value_json(key: str, value: Any) -> str:
    try:
        return to_json(value).decode()
    except (PydanticSerializationError, ValueError) as error:
        raise StateMisused(f"The ADK state {key!r} is not JSON: {error}") from error


class _Run:
    """The events of one run, put into the turn's."""

    def __init__(self, turn: Turn[Any], events: AsyncIterable[Event]) -> None:
        self._turn = turn
        self._events = aiter(events)
        self._after_text: Event | None = None
        self._streamed: set[str] = set()
        """Whose text was said in pieces; it comes once more, whole."""
        self._open_calls: set[str] = set()

    async def run(self) -> None:
        try:
            while (event := await self._next()) is not None:
                if not event.partial:
                    await self._emit(event)
                elif text := _text(event):
                    self._streamed.add(event.author)
                    await self._turn.say(self._say(text, event.author))
        except Exception as error:
            for call_id in sorted(self._open_calls):
                self._turn.function_call_output(call_id, type(error).__name__, is_error=True)
            raise

    async def _next(self) -> Event | None:
        event, self._after_text = self._after_text, None
        return event or await anext(self._events, None)

    async def _say(self, text: str, author: str) -> AsyncIterator[str]:
        """Yield *text* and *author*'s pieces after it."""
        yield text
        async for event in self._events:
            if not event.partial or event.author != author:
                self._after_text = event
                return
            if piece := _text(event):
                yield piece

    async def _emit(self, event: Event) -> None:
        is_said = event.author in self._streamed
        self._streamed.discard(event.author)
        if not is_said and (text := _text(event)):
            await self._turn.say(text)
        for call in event.get_function_calls():
            call_id = self._turn.function_call(call.name or "", call.args or {}, call_id=call.id)
            self._open_calls.add(call_id)
        for response in event.get_function_responses():
            call_id = response.id or ""
            self._open_calls.discard(call_id)
            output = to_json(response.response).decode()
            self._turn.function_call_output(call_id, output, name=response.name)
        if event.actions.transfer_to_agent:
            self._turn.hand_off(event.actions.transfer_to_agent, old_agent=event.author)


def _text(event: Event) -> str:
    parts = (event.content and event.content.parts) or []
    return "".join(part.text for part in parts if part.text and not part.thought)
