"""Any order of a hub's frames against a worker's runtime, repeated, stale, damaged and made up."""

import asyncio
from collections import Counter
from typing import Any

import apsw
import hypothesis.strategies as st
import msgspec

from satchel.errors import TurnRefused
from satchel.limits import CHAIN_BYTES_MAX, STATE_BYTES_MAX
from satchel.model import (
    DEFAULT_TENANT,
    EMPTY,
    Epoch,
    Link,
    MessageId,
    PayloadKind,
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
    FailureCode,
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
KINDS = 15
NOWHERE = ("a state that no worker can hold",)
CODES = {
    FailureCode.SESSION_STATE_NOT_FOUND,
    FailureCode.CANCELLED,
    FailureCode.TEXT_HANDLER_ERROR,
    FailureCode.TURN_REFUSED,
    FailureCode.PROCESS_CLOSED,
}
"""How an attempt may fail here. INTERNAL_ERROR is the runtime's own confusion."""


class Scripts:
    """Runs bytes as what a hub does, a pair of them a step: what, and with which detail."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def check(self, data: bytes) -> bool:
        """No frame raises; a handler starts on the named state alone; each question gets one outcome."""
        is_ended_well = self._loop.run_until_complete(_Script().run(data))
        assert not asyncio.all_tasks(self._loop), "a task was left behind"
        return is_ended_well

    def corpus(self) -> list[bytes]:
        """Some turns, warm and cold; and one with everything that can be sent in between."""
        turn = bytes([0, 15, 1, 15])
        return [
            turn * 5,
            turn + bytes([5, 0, 2, 15, 1, 15]) + turn,
            bytes(step for kind in range(KINDS) for step in (kind, 15)),
        ]


def near_scripts() -> st.SearchStrategy[bytes]:
    """Two turns, and then anything; most steps are given the time to be done."""
    waits = st.sampled_from([15, 15, 15, 15, 0, 1, 2, 3, 4, 6, 31, 47, 255])
    step = st.tuples(st.sampled_from([0, 0, 0, 0, 1, 1, 2, *range(KINDS)]), waits).map(bytes)
    return st.lists(step, max_size=24).map(lambda steps: bytes([0, 15, 1, 15] * 2) + b"".join(steps))


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
        self.answers_due: Counter[AttemptName] = Counter()
        """Outcomes that the runtime may still send: one for each time it was given a reason to."""
        self.events: dict[AttemptName, int] = {}
        self.not_found: set[AttemptName] = set()
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
        if turn.text.endswith("raise"):
            raise KeyError(turn.text)
        if turn.text.endswith("refuse"):
            raise TurnRefused("no")
        if turn.text.endswith("deaf"):
            await _deaf()
        return "done"

    async def run(self, data: bytes) -> bool:
        open_before = len(apsw.connections())
        self.register(0)
        for kind, detail in zip(data[: 2 * STEPS_MAX : 2], data[1 : 2 * STEPS_MAX : 2], strict=False):
            self.step(kind % KINDS, detail)
            await self.pass_time(detail % 16)
            self.hear()
        stuck = await self.runtime.stop(grace_s=1)
        self.hear()
        assert not stuck, "a handler was left behind"
        assert not self.faults, self.faults
        assert len(apsw.connections()) == open_before, "a copy was left open"
        return self.last is not None and self.last.attempt not in self.not_found

    async def pass_time(self, steps: int) -> None:
        """Let the runtime make some steps, or all it can."""
        for _ in range(steps):
            await asyncio.sleep(0)
        if steps == 15 and self.runtime.running:
            await asyncio.wait([attempt.task for attempt in self.runtime.running if attempt.task], timeout=5)

    def step(self, kind: int, detail: int) -> None:
        match kind:
            case 0 | 2:
                self.ask(is_cold=kind == 2)
            case 1 if self.result is not None:
                self.commit(self.result)
            case 3 if self.asked:
                self.ask_again(list(self.asked.values())[-1 - detail // 16 % 4 % len(self.asked)])
            case 4 if self.last is not None:
                self.answers_due[self.last.attempt] += 1
                self.runtime.receive(Cancel(self.last.attempt, reason="fuzz"))
            case 5:
                self.runtime.receive(Release(SESSION))
            case 6 if self.last is not None:
                self.answers_due[self.last.attempt] += 1
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
            case 12:
                self.ask(is_cold=False, manner=["raise", "refuse", "deaf"][detail % 3])
            case 13 if len(self.chains[self.head]) > 1:
                self.ask(is_cold=True, chain=self.chains[self.head][-1 - detail // 16 % len(self.chains[self.head]) :])
            case 14 if len(self.chains[self.head]) > 1:
                whole = self.chains[self.head]
                gap = detail // 16 % len(whole)
                self.ask(is_cold=True, chain=whole[:gap] + whole[gap + 1 :])

    def ask(
        self,
        *,
        is_cold: bool,
        damage: int | None = None,
        base: StateName | None = None,
        manner: str = "",
        chain: tuple[Link, ...] | None = None,
    ) -> None:
        if not self.is_linked:
            return  # a hub has no way to say it
        if chain is None:
            chain = self.chains[self.head] if is_cold else ()
        if damage is not None and chain:
            chain = (*chain[:-1], _damaged(chain[-1], damage))
        self.epoch += 1
        request = Request(
            attempt=AttemptName(SESSION, MessageId(f"m{self.epoch}"), Epoch(self.epoch)),
            start_number=1,
            attempt_number=1,
            agent="notes",
            text=f"text {self.epoch} {manner}",
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
        self.rows.setdefault(request.base, NOWHERE)
        self.asked[request.attempt] = self.last = request
        self.answers_due[request.attempt] += 1
        self.runtime.receive(request)

    def ask_again(self, request: Request) -> None:
        """Repeat a request: the last is not answered twice, an older one is told that it is over.

        One whose state was not found may be sent again. A worker that has let go of the
        session remembers nothing, and runs it anew.
        """
        if not self.is_linked:
            return
        is_gone = not self.runtime._attempts and self.runtime._copies.get(SESSION) is None
        is_forgotten = is_gone or request.attempt in self.not_found
        if is_forgotten:
            self.events[request.attempt] = 0
        self.answers_due[request.attempt] += is_forgotten or request is not self.last
        self.runtime.receive(request)

    def register(self, detail: int) -> None:
        register = self.runtime.registration()
        assert set(register.attempts) <= set(self.asked), "it names an attempt that nobody asked for"
        assert all(held.name in self.rows for held in register.held), "it holds a state that never was"
        adopted = register.attempts if detail % 2 else ()
        self.answers_due.update(adopted)
        self.events.update(dict.fromkeys(adopted, 0))
        self.runtime.receive(Registered(DEFAULT_TENANT, 5.0, adopted))
        self.is_linked = True

    def hear(self) -> None:
        """Take what the runtime said."""
        for frame in self.outgoing:
            match frame:
                case Event():
                    assert frame.index == self.events.get(frame.attempt, 0) + 1, "an event is missing, or told twice"
                    self.events[frame.attempt] = frame.index
                case Result() | Failure():
                    assert frame.attempt in self.asked, "it speaks of what nobody asked for"
                    self.answers_due[frame.attempt] -= 1
                    assert self.answers_due[frame.attempt] >= 0, f"one outcome too many: {frame}"
                    self.checked(frame)
        self.outgoing.clear()

    def checked(self, outcome: Result | Failure) -> None:
        if isinstance(outcome, Failure):
            assert outcome.code in CODES, outcome
            if outcome.code is FailureCode.SESSION_STATE_NOT_FOUND:
                self.not_found.add(outcome.attempt)
            assert outcome.held is None or outcome.held in self.rows, "it holds a state that never was"
            return
        request = self.asked[outcome.attempt]
        assert outcome.base == request.base, "a result on another base than was named"
        raw = unseal(outcome.payload, raw_size_max=STATE_BYTES_MAX)
        name = next_state_id(outcome.base.state_id, outcome.name.version, outcome.payload.kind, raw)
        assert outcome.name.state_id == name, "a result under another name than its bytes give"
        self.rows[outcome.name] = (*self.rows[request.base], request.text)
        if request.base == self.head and request is self.last:
            self.result = outcome

    def commit(self, result: Result) -> None:
        if result.base != self.head:
            return  # a hub's store refuses it
        before = self.chains[self.head]
        link = Link(result.name, result.payload)
        self.chains[result.name] = (link,) if result.payload.kind is PayloadKind.SNAPSHOT else (*before, link)
        self.head, self.schema = result.name, result.schema or self.schema
        self.runtime.receive(Committed(result.attempt))


async def _deaf() -> None:
    """Go on for a while after being told to stop."""
    for _ in range(20):
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            continue


def _damaged(link: Link, damage: int) -> Link:
    data = bytearray(link.payload.data)
    data[damage * 7 % len(data)] ^= 1 + damage % 255
    return msgspec.structs.replace(link, payload=msgspec.structs.replace(link.payload, data=bytes(data)))
