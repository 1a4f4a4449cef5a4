"""Any order of a hub's frames against a worker's runtime, repeated, stale, damaged and made up."""

import asyncio
from typing import Any

import msgspec

from satchel.limits import CHAIN_BYTES_MAX
from satchel.model import (
    DEFAULT_TENANT,
    EMPTY,
    Epoch,
    Link,
    MessageId,
    SchemaName,
    SessionId,
    SessionKey,
    StateName,
    first_state_id,
    next_state_id,
)
from satchel.protocol.messages import (
    AttemptName,
    Cancel,
    Committed,
    Event,
    Failure,
    NeedSnapshot,
    Registered,
    Release,
    Request,
    Result,
)
from satchel.state.payload import unseal
from satchel.worker.context import Turn
from satchel.worker.runtime import Runtime
from satchel.worker.worker import Worker

SESSION = SessionId("alice")
SCHEMA = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;"
STEPS_MAX = 120


class Scripts:
    """Runs bytes as what a hub does, a pair of them a step."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def check(self, data: bytes) -> None:
        """No frame raises, and a handler starts on the named state alone."""
        self._loop.run_until_complete(_Script().run(data))

    def corpus(self) -> list[bytes]:
        """A few turns, warm and cold; and one with everything that can be sent in between."""
        turn = bytes([0, 9, 1, 9])
        return [
            turn * 5,
            bytes([0, 9, 1, 9, 5, 0, 2, 9, 1, 9]),
            bytes(step for kind in range(12) for step in (kind, 9)),
        ]


class _Script:
    def __init__(self) -> None:
        worker: Worker[Any] = Worker("notes", schema=SCHEMA)
        worker.on_message(self.note)
        self.outgoing: list[Any] = []
        self.runtime = Runtime([worker], send=self.outgoing.append, cancel_grace_s=0.05)
        self.head = StateName(EMPTY, first_state_id(SessionKey(DEFAULT_TENANT, SESSION)))
        self.rows: dict[StateName, tuple[str, ...]] = {self.head: ()}
        self.chains: dict[StateName, tuple[Link, ...]] = {self.head: ()}
        self.schema: SchemaName | None = None
        self.epoch = 0
        self.asked: dict[AttemptName, Request] = {}
        self.last: Request | None = None
        self.result: Result | None = None
        self.faults: list[str] = []
        self.is_linked = False

    async def note(self, turn: Turn[Any]) -> str:
        found = tuple(text for (text,) in turn.state.execute("SELECT text FROM note ORDER BY id"))
        request = next(each for name, each in self.asked.items() if name.message_id == turn.message_id)
        if found != self.rows[request.base]:
            self.faults.append(f"{turn.message_id} found {found} in place of {self.rows[request.base]}")
        turn.state.execute("INSERT INTO note (text) VALUES (?)", (turn.text,))
        await turn.say("noted")
        for _ in range(len(turn.text) % 3):
            await asyncio.sleep(0)
        return "done"

    async def run(self, data: bytes) -> None:
        self.register(0)
        for kind, detail in zip(data[: 2 * STEPS_MAX : 2], data[1 : 2 * STEPS_MAX : 2], strict=False):
            self.step(kind % 12, detail)
            for _ in range(detail % 16):
                await asyncio.sleep(0)
            self.hear()
        stuck = await self.runtime.stop(grace_s=1)
        self.hear()
        assert not stuck, "a handler was left behind"
        assert not self.faults, self.faults

    def step(self, kind: int, detail: int) -> None:
        match kind:
            case 0 | 2:
                self.ask(is_cold=kind == 2)
            case 1 if self.result is not None:
                self.commit(self.result)
            case 3 if self.last is not None:
                self.runtime.receive(self.last)
            case 4 if self.last is not None:
                self.runtime.receive(Cancel(self.last.attempt, reason="fuzz"))
            case 5:
                self.runtime.receive(Release(SESSION))
            case 6 if self.last is not None:
                self.runtime.receive(NeedSnapshot(self.last.attempt))
            case 7:
                self.runtime.link_lost()
                self.is_linked = False
            case 8:
                self.register(detail)
            case 9 if self.last is not None:
                self.runtime.receive(Committed(AttemptName(SESSION, MessageId("m0"), Epoch(detail % 4))))
            case 10:
                self.ask(is_cold=True, damage=detail)
            case 11 if self.head.version > EMPTY:
                self.ask(is_cold=False, base=StateName(self.head.version, bytes([detail]) * 16))

    def ask(self, *, is_cold: bool, damage: int | None = None, base: StateName | None = None) -> None:
        chain = self.chains[self.head] if is_cold else ()
        if damage is not None and chain:
            payload = chain[-1].payload
            data = bytearray(payload.data)
            data[damage % len(data)] ^= 1 + damage % 255
            damaged = msgspec.structs.replace(payload, data=bytes(data))
            chain = (*chain[:-1], msgspec.structs.replace(chain[-1], payload=damaged))
        if not self.is_linked:
            return  # a hub has no way to say it
        self.epoch += 1
        request = Request(
            attempt=AttemptName(SESSION, MessageId(f"m{self.epoch}"), Epoch(self.epoch)),
            start_number=1,
            attempt_number=1,
            agent="notes",
            text=f"text {self.epoch}",
            metadata="",
            accepted_at_ms=0,
            base=base or self.head,
            chain=chain,
            schema=self.schema,
            digest=None,
            wants_digest=False,
            wants_snapshot=False,
            delta_bytes_max=CHAIN_BYTES_MAX,
        )
        self.rows.setdefault(request.base, ("a state that no worker can hold",))
        self.asked[request.attempt] = self.last = request
        self.runtime.receive(request)

    def register(self, detail: int) -> None:
        register = self.runtime.registration()
        adopted = register.attempts if detail % 2 else ()
        self.runtime.receive(Registered(DEFAULT_TENANT, 5.0, adopted))
        self.is_linked = True

    def hear(self) -> None:
        """Take what the runtime said."""
        for frame in self.outgoing:
            match frame:
                case Result() | Failure() | Event():
                    assert frame.attempt in self.asked, "it speaks of what nobody asked for"
                    if isinstance(frame, Result):
                        self.checked(frame)
        self.outgoing.clear()

    def checked(self, result: Result) -> None:
        request = self.asked[result.attempt]
        assert result.base == request.base, "a result on another base than was named"
        raw = unseal(result.payload, raw_size_max=2**24)
        name = next_state_id(result.base.state_id, result.name.version, result.payload.kind, raw)
        assert result.name.state_id == name, "a result under another name than its bytes give"
        self.rows[result.name] = (*self.rows[request.base], request.text)
        if request.base == self.head and request is self.last:
            self.result = result

    def commit(self, result: Result) -> None:
        if result.base != self.head:
            return  # a hub's store refuses it
        before = self.chains[self.head]
        link = Link(result.name, result.payload)
        self.chains[result.name] = (link,) if result.payload.kind.name == "SNAPSHOT" else (*before, link)
        self.head, self.schema = result.name, result.schema
        self.runtime.receive(Committed(result.attempt))
