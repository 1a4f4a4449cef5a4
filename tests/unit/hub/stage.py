"""A coordinator on a real store whose calls can be made to fail, and workers that say what a test tells them to."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from satchel.errors import StoreUnavailable
from satchel.hub.coordinator import Coordinator
from satchel.hub.fleet import Member
from satchel.hub.settings import HubSettings
from satchel.hub.telemetry import Telemetry
from satchel.model import (
    Content,
    Message,
    MessageId,
    PayloadKind,
    SessionId,
    StateName,
    Version,
    WorkerId,
    next_state_id,
)
from satchel.protocol.messages import (
    AttemptName,
    Event,
    Failure,
    FailureCode,
    HubFrame,
    Register,
    Request,
    Result,
)
from satchel.store.base import NewTurn, Store, Turn
from satchel.testing.conformance.script import SCHEMA, Script, agent_spec, payload, session_key

PATIENCE_S = 10.0
"""How long anything is waited for before the test fails: never how long it takes."""


class FailingPart:
    """The log of a store; *faults* stand in for its methods, once each."""

    def __init__(self, part: Any) -> None:
        self.part = part
        self.faults: dict[str, Callable[..., Awaitable[Any]]] = {}

    def __getattr__(self, name: str) -> Any:
        return self.faults.pop(name, None) or getattr(self.part, name)

    def lose_outcome(self, name: str) -> None:
        """Have the next call of *name* be made, and its caller hear that the store does not answer."""

        async def made(*args: Any, **options: Any) -> None:
            await getattr(self.part, name)(*args, **options)
            raise StoreUnavailable

        self.faults[name] = made

    def refuse(self, name: str, error: Exception) -> None:
        """Have the next call of *name* raise *error*, and change nothing."""

        async def refused(*_args: Any, **_options: Any) -> None:
            raise error

        self.faults[name] = refused

    def hold(self, name: str) -> asyncio.Event:
        """Have the outcome of the next call of *name* wait for the event, though it is made at once."""
        gate = asyncio.Event()

        async def held(*args: Any, **options: Any) -> Any:
            outcome = await getattr(self.part, name)(*args, **options)
            await gate.wait()
            return outcome

        self.faults[name] = held
        return gate


class FailingStore:
    def __init__(self, store: Store) -> None:
        self.log: Any = FailingPart(store.log)
        self.objects: Any = store.objects
        self.location = store.location
        self.close = store.close


class ScriptedWorker:
    """A worker by its frames alone."""

    def __init__(self, hub: Coordinator, register: Register) -> None:
        self.hub = hub
        self.frames: asyncio.Queue[HubFrame] = asyncio.Queue()
        self.member = Member(session_key().tenant, register, send=self.frames.put_nowait, connected_at_ms=0)

    async def request(self) -> Request:
        return await self.sees(Request)

    async def sees(self, kind: type[Any]) -> Any:
        """Wait for a frame of one kind, past any others."""
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance(frame := await self.frames.get(), kind):
                pass
        return frame

    def seen(self) -> list[HubFrame]:
        """Return the frames that are here."""
        return [self.frames.get_nowait() for _ in range(self.frames.qsize())]

    def say(self, attempt: AttemptName, index: int, text: str) -> None:
        message = Message(id="i", content=(Content(text),), created_at="2026-01-31T09:30:00.000Z")
        self.hub.receive(self.member, Event(attempt, index, message))

    def fail(self, attempt: AttemptName, code: FailureCode) -> None:
        self.hub.receive(self.member, Failure(attempt, code, "ValueError"))

    def complete(self, attempt: AttemptName, base: StateName, *, events: int) -> None:
        """Return the version after *base*, as a snapshot of nothing in particular."""
        raw, version = b"state", Version(base.version + 1)
        self.hub.receive(
            self.member,
            Result(
                attempt=attempt,
                name=StateName(version, next_state_id(base.state_id, version, PayloadKind.SNAPSHOT, raw)),
                base=base,
                payload=payload(PayloadKind.SNAPSHOT, raw),
                schema=SCHEMA,
                state_bytes=8_192,
                digest=None,
                changed_rows={},
                handler_ms=1.0,
                events=events,
            ),
        )

    async def serve(self, text: str = "done") -> Request:
        """Run the next request to its result."""
        request = await self.request()
        self.say(request.attempt, 1, text)
        self.complete(request.attempt, request.base, events=1)
        return request


class Stage:
    """One hub, one session, and the workers of a test."""

    def __init__(self, store: Store, **settings: Any) -> None:
        self.store = FailingStore(store)
        self.key = session_key()
        self.settings = HubSettings(**{"adopt_s": 0.05, "worker_wait_s": PATIENCE_S} | settings)
        self.hub = self.new_hub()

    def new_hub(self) -> Coordinator:
        return Coordinator(self.store, settings=self.settings, telemetry=Telemetry())

    async def restart(self) -> None:
        """Close the hub, and open another one on the same store."""
        await self.hub.close()
        self.hub = self.new_hub()
        await self.hub.open()

    def script(self) -> Script:
        """Return direct access to the store."""
        return Script(self.store, self.key)

    async def worker(
        self, name: str, *, slots: int = 1, max_attempts: int = 3, attempts: tuple[AttemptName, ...] = ()
    ) -> ScriptedWorker:
        """Join a worker, which goes on with what the hub adopts of *attempts*."""
        spec = msgspec.structs.replace(agent_spec(), max_attempts=max_attempts)
        register = Register(
            worker_id=WorkerId(name), protocol_version=1, build="", slots=slots, agents=(spec,), attempts=attempts
        )
        worker = ScriptedWorker(self.hub, register)
        adopted = await self.hub.join(worker.member, register)
        await self.hub.welcome(worker.member, register, adopted)
        return worker

    def make_room(self, worker: ScriptedWorker) -> None:
        """Give a worker that had none a slot: what waits for it is started by a write of its own."""
        worker.member.slots = 1
        self.hub.fleet.grant()

    def message(self, name: str) -> NewTurn:
        return NewTurn(
            key=self.key,
            message_id=MessageId(name),
            agent="clerk",
            text="hello",
            metadata=None,
            on_busy=None,
            accepted_at_ms=1_000,
        )

    async def send(self, name: str) -> "asyncio.Task[list[dict[str, Any]]]":
        """Send a message; return the reading of its events."""
        return self.read((await self.hub.send(self.message(name))).stream)

    def read(self, stream: Any, after: int = -1) -> "asyncio.Task[list[dict[str, Any]]]":
        async def events() -> list[dict[str, Any]]:
            async with asyncio.timeout(PATIENCE_S):
                return [json.loads(line) async for lines in stream.read(after) for line in lines]

        return asyncio.create_task(events())

    async def turn(self, name: str) -> Turn:
        turn: Turn = await self.store.log.turn(self.key, MessageId(name))
        return turn

    def name(self, name: str, epoch: int) -> AttemptName:
        return AttemptName(SessionId("s"), MessageId(name), epoch)  # type: ignore[arg-type]  # an epoch of a test
