"""Satchel's state work in one process: a recorded turn, and the store's durable commit of it.

The store is the embedded one, its fsync on. Not in a turn here: the link, the handler's
own work, and the hub's check of what a worker sent. ``satchel_turn`` has all of them.
"""

import contextlib
import json
import pathlib
import uuid
from collections.abc import Sequence
from typing import Final

import msgspec

from benchmarks.peers.conversation import Item
from benchmarks.peers.peer import PAGE_PRAGMAS, LocalPeer
from satchel.clock import Clock
from satchel.hub.stream import TurnStream
from satchel.limits import ATTEMPTS_MAX, QUEUE_LENGTH_MAX, TURN_TIMEOUT_S
from satchel.model import (
    DEFAULT_TENANT,
    AgentSpec,
    CommittedState,
    Complete,
    Content,
    Epoch,
    FunctionCall,
    FunctionCallOutput,
    Message,
    MessageId,
    OnBusy,
    Payload,
    PayloadKind,
    SessionId,
    SessionKey,
    Start,
    StateName,
    TurnReport,
    Version,
    first_state_id,
    next_state_id,
    rfc3339,
)
from satchel.state.history import HistoryItem
from satchel.state.payload import seal
from satchel.state.schema import Schema
from satchel.state.session import OpenSession, Recorded
from satchel.store.base import Commit, NewTurn, StoredEvents, StoredPayload
from satchel.store.chain import load_chain
from satchel.store.files import connect_reader
from satchel.store.open import open_store

AGENT: Final = "bench"
WINDOW: Final = 20
"""Items that a handler reads for its model."""


class SatchelState(LocalPeer):
    """A session that is warm in this process."""

    async def open(self) -> None:
        self._clock = Clock()
        self._schema = Schema.declare("")
        self._store = await open_store(str(self.folder / "satchel.db"))
        spec = AgentSpec(
            name=AGENT,
            schema=self._schema.name,
            schema_min=1,
            turn_timeout_s=TURN_TIMEOUT_S,
            max_attempts=ATTEMPTS_MAX,
            on_busy=OnBusy.QUEUE,
        )
        await self._store.log.register_agent(DEFAULT_TENANT, spec)

    async def close(self) -> None:
        self._session.close()
        await self._store.close()

    async def fill(self, session_id: str, items: Sequence[Item]) -> None:
        """One turn writes them all, without events: their bytes are the session's, not the turns'."""
        self._key = SessionKey(DEFAULT_TENANT, SessionId(session_id))
        name = StateName(Version(0), first_state_id(self._key))
        self._session = OpenSession.empty(self._key.session_id, self._schema, name=name)
        await self.arrive(items[:1])
        self._said = [history_item(item) for item in items]
        await self.turn(items)

    async def arrive(self, items: Sequence[Item]) -> None:
        """Store the user's message, durably, and make what the handler says: its items and their events."""
        new = NewTurn(
            key=self._key,
            message_id=MessageId(uuid.uuid4().hex),
            agent=AGENT,
            text=items[0].text,
            metadata=None,
            on_busy=None,
            accepted_at_ms=self._clock.now_ms(),
        )
        self._admission = await self._store.log.admit(new, queue_length_max=QUEUE_LENGTH_MAX, start=True)
        self._said = [history_item(item) for item in items]
        self._answer, self._lines = self._events(self._said[1:])

    def _events(self, said: Sequence[HistoryItem]) -> tuple[str, bytes]:
        """Return a turn's answer, and its events as they are stored."""
        stream = TurnStream(self._admission.turn, clock=self._clock)
        for index, item in enumerate(said, start=1):
            stream.add(index, item)
        complete = Complete(
            session_state=CommittedState(version=self._admission.session.head.version + 1),
            turn=TurnReport(
                start=Start.WARM,
                worker_id="worker-0001-0123456789ab",
                attempts=1,
                received_bytes=1_500,
                handler_ms=stream.age_ms(),
                total_ms=stream.age_ms(),
            ),
        )
        return stream.answer, stream.lines() + stream.last(complete)

    async def turn(self, items: Sequence[Item]) -> None:  # noqa: ARG002  # they were made on arrival
        recorded = self._recorded()
        payload, name = self._sealed(recorded)
        self._session.set_pending(name)
        stored = StoredPayload(payload)
        if payload.kind is PayloadKind.SNAPSHOT:
            held = await self._store.objects.put(self._key, payload.data)
            stored = StoredPayload(msgspec.structs.replace(payload, data=b""), held)
        await self._store.log.commit(self._commit(recorded, stored, name))
        self._session.commit()

    def _recorded(self) -> Recorded:
        turn, session = self._admission.turn, self._session
        assert turn.epoch is not None, "the turn was started"
        version = Version(session.name.version + 1)
        session.begin(version=version, epoch=turn.epoch, message_id=turn.message_id, schema=self._schema)
        session.history.last(WINDOW)
        for item in self._said:
            session.history.append(item)
        return session.finish(wants_digest=False, wants_snapshot=False)

    def _sealed(self, recorded: Recorded) -> tuple[Payload, StateName]:
        base = self._session.name
        version = Version(base.version + 1)
        payload = seal(recorded.kind, recorded.raw)
        return payload, StateName(version, next_state_id(base.state_id, version, recorded.kind, recorded.raw))

    def _commit(self, recorded: Recorded, stored: StoredPayload, name: StateName) -> Commit:
        turn = self._admission.turn
        assert turn.epoch is not None, "the turn was started"
        return Commit(
            key=self._key,
            message_id=turn.message_id,
            epoch=turn.epoch,
            base=self._session.name,
            name=name,
            payload=stored,
            schema=recorded.schema,
            state_bytes=recorded.state_bytes,
            digest=recorded.digest,
            answer=self._answer,
            events=StoredEvents(lines=self._lines),
            finished_at_ms=self._clock.now_ms(),
            raw=recorded.raw if recorded.kind is PayloadKind.DELTA else None,
        )

    async def cold_load(self) -> int:
        """Read the stored chain, rebuild the state with all its checks, parse every item."""
        head = self._session.name
        links = await load_chain(self._store, self._key, head.version)
        session = OpenSession.from_chain(
            self._key.session_id, links, base=head, schema=self._session.schema, digest=None
        )
        with contextlib.closing(session):
            session.begin(
                version=Version(head.version + 1), epoch=Epoch(1), message_id=MessageId("look"), schema=self._schema
            )
            return len(list(session.history))

    def stored_bytes(self) -> int:
        return sum(_used_bytes(path) for path in self.folder.glob("*.db"))


def history_item(item: Item) -> HistoryItem:
    """Return *item* as a turn writes it."""
    created_at = rfc3339(Clock().now_ms())
    item_id = f"item_{uuid.uuid4().hex}"
    match item.kind:
        case "call":
            arguments = json.dumps({"query": item.text})
            return FunctionCall(
                id=item_id, call_id=item.call_id, name="look_up", arguments=arguments, created_at=created_at
            )
        case "output":
            return FunctionCallOutput(
                id=item_id, call_id=item.call_id, name="look_up", output=item.text, created_at=created_at
            )
        case "user" | "assistant":
            return Message(id=item_id, role=item.kind.upper(), content=(Content(item.text),), created_at=created_at)


def _used_bytes(path: pathlib.Path) -> int:
    """As ``peer.used_bytes``, by the SQLite that has the file open: two libraries in one process break its locks."""
    with contextlib.closing(connect_reader(path)) as connection:
        pages, free, size = (connection.execute(f"PRAGMA {name}").get for name in PAGE_PRAGMAS)
    return int((pages - free) * size)
