"""A stand-in hub for runtime tests: real state, frames instead of sockets, and a handler that waits to be let go."""

import asyncio
import itertools
from typing import Any, Self

from satchel.limits import CHAIN_BYTES_MAX
from satchel.model import (
    DEFAULT_TENANT,
    EMPTY,
    Epoch,
    Link,
    Message,
    MessageId,
    PayloadKind,
    SessionId,
    SessionKey,
    StateName,
    first_state_id,
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
    WorkerFrame,
)
from satchel.worker.context import Turn
from satchel.worker.runtime import Runtime
from satchel.worker.worker import Worker

SESSION = SessionId("alice")
NOTES = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;"


class Notes:
    """An agent that notes each message, and waits for ``gates[text]`` if there is one."""

    def __init__(self, **options: Any) -> None:
        self.worker: Worker[Any] = Worker("notes", schema=NOTES, **options)
        self.gates: dict[str, asyncio.Event] = {}
        self.runs: list[str] = []
        self._started: dict[str, asyncio.Event] = {}
        self.worker.on_message(self.note)

    async def note(self, turn: Turn[Any]) -> str:
        self.runs.append(turn.text)
        turn.state.execute("INSERT INTO note (text) VALUES (?)", (turn.text,))
        self._start_of(turn.text).set()
        if turn.text in self.gates:
            await self.gates[turn.text].wait()
        count = turn.state.execute("SELECT count(*) FROM note").scalar()
        return f"{count} notes"

    def hold(self, text: str) -> asyncio.Event:
        """Have the handler wait in the middle of *text* until the gate is set."""
        self.gates[text] = asyncio.Event()
        return self.gates[text]

    async def started(self, text: str) -> None:
        """Wait until the handler has written the note of *text*."""
        await self._start_of(text).wait()

    def _start_of(self, text: str) -> asyncio.Event:
        return self._started.setdefault(text, asyncio.Event())


class Desk:
    """Sends a runtime requests as a hub would, and keeps the chain that it committed."""

    def __init__(self, worker: Worker[Any], **options: Any) -> None:
        self.worker = worker
        self.frames: asyncio.Queue[WorkerFrame] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def send(frame: WorkerFrame) -> None:
            loop.call_soon_threadsafe(self.frames.put_nowait, frame)

        self.runtime = Runtime([worker], send=send, **options)
        self.runtime.registration()
        self.runtime.receive(Registered(DEFAULT_TENANT, 5.0))
        self.head = StateName(EMPTY, first_state_id(SessionKey(DEFAULT_TENANT, SESSION)))
        self.schema = None
        self.chain: list[Link] = []
        self.epochs = itertools.count(1)
        self.answers: list[str] = []
        """Every text that was said, in order of being looked at."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runtime.stop(grace_s=0)

    def request(self, text: str, **changes: Any) -> Request:
        """Make a request on the head, warm unless *changes* say otherwise; it is not sent."""
        epoch = Epoch(changes.pop("epoch", None) or next(self.epochs))
        fields: dict[str, Any] = {
            "attempt": AttemptName(SESSION, MessageId(f"m-{text}"), epoch),
            "start_number": 1,
            "attempt_number": 1,
            "agent": self.worker.name,
            "text": text,
            "metadata": "",
            "accepted_at_ms": 0,
            "base": self.head,
            "chain": (),
            "schema": self.schema,
            "digest": None,
            "wants_digest": False,
            "wants_snapshot": False,
            "delta_bytes_max": CHAIN_BYTES_MAX,
        }
        return Request(**(fields | changes))

    def send(self, text: str, **changes: Any) -> Request:
        request = self.request(text, **changes)
        self.runtime.receive(request)
        return request

    async def outcome(self, of: Request | None = None) -> Result | Failure:
        """Return the next result or failure, of one request's attempt if it is given."""
        while True:
            frame = await self.see()
            if isinstance(frame, Result | Failure) and (of is None or frame.attempt == of.attempt):
                return frame

    async def see(self) -> WorkerFrame:
        """Return the next frame."""
        frame = await self.frames.get()
        self.answers += texts([frame])
        return frame

    async def turn(self, text: str, **changes: Any) -> Result:
        """Run a turn and commit it."""
        result = await self.result(text, **changes)
        self.commit(result)
        return result

    async def result(self, text: str, **changes: Any) -> Result:
        """Run a turn; it stays pending."""
        result = await self.outcome(self.send(text, **changes))
        assert isinstance(result, Result), result
        return result

    def record(self, result: Result) -> None:
        """Commit a result in the store only."""
        self.head, self.schema = result.name, result.schema or self.schema
        link = Link(result.name, result.payload)
        self.chain = [link] if result.payload.kind is PayloadKind.SNAPSHOT else [*self.chain, link]

    def commit(self, result: Result) -> None:
        """Commit a result in the store, and tell the worker."""
        self.record(result)
        self.runtime.receive(Committed(result.attempt))

    def cancel(self, request: Request) -> None:
        self.runtime.receive(Cancel(request.attempt))

    def need_snapshot(self, result: Result) -> None:
        self.runtime.receive(NeedSnapshot(result.attempt))

    def release(self) -> None:
        self.runtime.receive(Release(SESSION))

    async def settle(self) -> None:
        """Let everything that is ready run."""
        for _ in range(20):
            await asyncio.sleep(0)

    def sent(self) -> list[WorkerFrame]:
        """Return what was sent and not yet looked at."""
        return [self.frames.get_nowait() for _ in range(self.frames.qsize())]


def texts(frames: list[WorkerFrame]) -> list[str]:
    """Return the texts that were said whole, in order."""
    return [frame.item.text for frame in frames if isinstance(frame, Event) and isinstance(frame.item, Message)]
