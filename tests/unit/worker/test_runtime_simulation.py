"""Random scripts of a hub against the runtime: whatever comes when, a handler starts on the named state alone."""

import asyncio
import random

import msgspec
import pytest

from satchel.model import DEFAULT_TENANT, PayloadKind
from satchel.protocol.messages import AttemptName, Failure, FailureCode, Registered, Request, Result
from satchel.worker.worker import Worker
from tests.unit.worker.desk import NOTES, Desk

STEPS = 60
SEEDS = 120


class Script:
    """A hub that commits, loses, repeats and cancels at random, and checks what every handler saw."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311  # a script, no secret
        self.worker = Worker("notes", schema=NOTES)
        self.worker.on_message(self.note)
        self.committed: list[str] = []
        self.expected: dict[AttemptName, list[str]] = {}
        self.current: Request | None = None
        self.result: Result | None = None
        self.sent: list[Request] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.is_linked = True
        self.counts = {"run": 0, "committed": 0, "not found": 0, "raised": 0, "lost": 0}
        self.faults = []
        self.ran = set()

    async def note(self, turn):
        self.counts["run"] += 1
        self.ran.add(turn.text)
        seen = [text for (text,) in turn.state.execute("SELECT text FROM note ORDER BY id")]
        attempt = next(name for name in self.expected if name.message_id == turn.message_id)
        if seen != self.expected[attempt] or turn.state.get("last") != (seen[-1] if seen else None):
            self.faults.append((turn.message_id, seen, self.expected[attempt]))
        turn.state.execute("INSERT INTO note (text) VALUES (?)", (turn.text,))
        turn.state["last"] = turn.text
        await self.wait(turn.text)
        if self.random.random() < 0.2:
            self.counts["raised"] += 1
            raise ValueError(turn.text)
        return "noted"

    async def wait(self, text):
        """Wait to be let go; now and then, whatever cancels."""
        is_stubborn = self.random.random() < 0.3
        while not self.gates[text].is_set():
            try:
                await self.gates[text].wait()
            except asyncio.CancelledError:
                if not is_stubborn:
                    raise

    def start(self, desk):
        self.counts["lost"] += self.result is not None
        chain = self.random.choice([(), (), tuple(desk.chain), self.tail(desk)])
        request = desk.request(f"t{len(self.sent)}", chain=chain)
        self.gates[request.text] = asyncio.Event()
        self.expected[request.attempt] = list(self.committed)
        self.current, self.result = request, None
        self.is_cold = bool(chain) and chain[0].payload.kind is PayloadKind.SNAPSHOT
        self.sent.append(request)
        desk.runtime.receive(request)

    def tail(self, desk):
        links = desk.chain[-self.random.randint(1, 3) :]
        return tuple(links) if all(link.payload.kind is PayloadKind.DELTA for link in links) else tuple(desk.chain)

    def let_go(self, _desk):
        for gate in self.gates.values():
            gate.set()

    def commit(self, desk):
        if self.result is None:
            return
        self.committed.append(self.current.text)
        self.counts["committed"] += 1
        if self.is_linked and self.random.random() < 0.7:
            desk.commit(self.result)
        else:
            desk.record(self.result)  # the frame was lost
        self.current = self.result = None

    def cancel(self, desk):
        if self.current is not None and self.is_linked:
            desk.cancel(self.current)
            self.current = self.result = None

    def repeat(self, desk):
        """Send a request again; a hub repeats none that was answered "not found"."""
        known = [each for each in self.sent if each is not self.current or each.text in self.ran]
        if known and self.is_linked:
            desk.runtime.receive(self.random.choice(known))

    def need_snapshot(self, desk):
        if self.result is not None and self.is_linked:
            desk.need_snapshot(self.result)
            self.result = None

    def release(self, desk):
        desk.release()

    def drop_link(self, desk):
        desk.runtime.link_lost()
        self.is_linked = False

    def relink(self, desk):
        register = desk.runtime.registration()
        adopted = [name for name in register.attempts if self.current and name == self.current.attempt]
        desk.runtime.receive(Registered(DEFAULT_TENANT, 5.0, adopted=tuple(adopted)))
        self.is_linked = True
        for name in register.attempts:
            if name not in adopted:
                desk.cancel(next(each for each in self.sent if each.attempt == name))
        if not adopted:
            self.current = self.result = None

    def hear(self, desk):
        for frame in desk.sent():
            if isinstance(frame, Failure) and frame.code is FailureCode.INTERNAL_ERROR:
                self.faults.append(frame)
            if self.current is None or getattr(frame, "attempt", None) != self.current.attempt:
                continue
            if isinstance(frame, Result):
                self.result = frame
            elif isinstance(frame, Failure) and frame.code is FailureCode.SESSION_STATE_NOT_FOUND:
                self.counts["not found"] += 1
                if self.is_cold or self.current.base.version == 0:
                    self.faults.append(("a whole chain is always enough", frame))
                self.is_cold = True
                desk.runtime.receive(msgspec.structs.replace(self.current, chain=tuple(desk.chain)))
            elif isinstance(frame, Failure):
                self.current = None

    def step(self, desk):
        if not self.is_linked:
            moves = [self.let_go, self.relink]
        elif self.result is not None:
            moves = [self.commit] * 6 + [self.need_snapshot, self.cancel, self.start, self.repeat, self.drop_link]
        elif self.current is not None:
            moves = [self.let_go] * 8 + [self.cancel, self.start, self.repeat, self.release, self.drop_link]
        else:
            moves = [self.start] * 6 + [self.repeat, self.release, self.drop_link]
        self.random.choice(moves)(desk)


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
async def test_a_handler_starts_on_the_named_state_whatever_came_before(first):
    """EXACT-BASE and NO-TRACE: the state is the committed one, with nothing of lost attempts."""
    totals = {}
    for seed in range(first, first + 20):
        script = Script(seed)
        async with Desk(script.worker, cancel_grace_s=script.random.choice([0, 0.001])) as desk:
            for _ in range(STEPS):
                script.step(desk)
                for _ in range(script.random.randint(0, 8)):
                    await asyncio.sleep(0)
                script.hear(desk)
            script.let_go(desk)
        assert script.faults == [], f"seed {seed}"
        for name, count in script.counts.items():
            totals[name] = totals.get(name, 0) + count

    assert all(totals.values()), f"a branch was never reached: {totals}"
