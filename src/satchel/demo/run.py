"""One run of the demo: processes start, users talk, faults strike, the audit reads; nothing is left running.

It prints nothing: what a view shows, it reads here.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from satchel.client.model import WorkerRow
from satchel.demo import plan
from satchel.demo.agent import AGENT
from satchel.demo.audit import Verdict, audit
from satchel.demo.chaos import Chaos, stopped_within
from satchel.demo.findings import Finding, FindingKind
from satchel.demo.ledger import Ledger
from satchel.demo.processes import DemoFleet
from satchel.demo.users import Users
from satchel.errors import SatchelError
from satchel.limits import PAGE_ITEMS_MAX, RETAIN_VERSIONS

POLL_S: Final = 0.5
NOTES_KEPT: Final = 200
TURN_TO_OPEN: Final = 17

AFTER_FAULTS_S: Final = plan.THINK_MAX_S + 1
"""How long users talk after the last fault: everyone has a turn on the fleet as it then is."""

LAST_ANSWERS_S: Final = 60.0
"""How long the last answers may take once nothing is broken any more: past every timeout of a turn's way."""

INTERRUPTED_S: Final = 10.0
"""The same after Ctrl-C: what is not answered by then was not acknowledged."""


class Options(msgspec.Struct, frozen=True):
    """What a run is asked for."""

    seed: int
    seconds: float
    sessions: int
    workers: int
    folder: Path


class Note(msgspec.Struct, frozen=True):
    """What was done, and when: seconds after the load began."""

    at_s: float
    text: str


class Counted(msgspec.Struct, frozen=True):
    """Turns that users were told of at one moment, and versions that the hub had right after it."""

    acknowledged: int = 0
    committed: int = 0


class Run:
    """A run as it stands. *noted* hears each note."""

    def __init__(self, options: Options, *, noted: Callable[[Note], None]) -> None:
        self.options = options
        self.phase = "starting"
        self.stop = asyncio.Event()
        self.ledger = Ledger(plan.session_ids(options.sessions))
        self.fleet = DemoFleet(options.folder)
        self.chaos = Chaos(self.fleet, plan.faults(seed=options.seed, seconds=options.seconds), note=self._note)
        self.notes: deque[Note] = deque(maxlen=NOTES_KEPT)
        self.audited = 0
        self.counted = Counted()
        self.listed: Mapping[str, WorkerRow] = {}
        """The workers as the hub listed them last, by worker ID."""
        self.is_interrupted = False
        self.seconds = 0.0
        """How long users talked, once they have ended."""
        self._users = Users(self.fleet.client, self.ledger, seed=options.seed, stop=self.stop)
        self._noted = noted
        self._began_s: float | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether users have begun to talk."""
        return self._began_s is not None

    @property
    def elapsed_s(self) -> float:
        """The seconds since users began to talk; 0 before."""
        return 0.0 if self._began_s is None else time.monotonic() - self._began_s

    def interrupt(self) -> None:
        """End the load: what was acknowledged is still audited. Idempotent."""
        self._note("interrupted: users send nothing more, and what they were told is audited")
        self.is_interrupted = True
        self.stop.set()

    async def run(self) -> Verdict:
        """Do the run. No process of its own is left when it returns or raises.

        Raises ``SatchelError`` when a process does not start, or ends when nobody ended it.
        """
        try:
            await self.fleet.start_hub()
            for _ in range(self.options.workers):
                await self.fleet.start_worker(build=1)
            await self._load()
            return await self._audit()
        finally:
            await self.fleet.stop()

    def _note(self, text: str) -> None:
        note = Note(self.elapsed_s, text)
        self.notes.append(note)
        self._noted(note)

    async def _load(self) -> None:
        self._began_s = time.monotonic()
        self.phase = "users talk"
        self._note(f"{self.options.sessions} sessions begin to talk")
        try:
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(self.fleet.watch()), group.create_task(self._poll())]
                talk = group.create_task(self._users.run())
                await self._strike()
                self.stop.set()
                self.phase = "users wait for their last answers"
                await asyncio.wait({talk}, timeout=INTERRUPTED_S if self.is_interrupted else LAST_ANSWERS_S)
                for task in (talk, *beside):
                    task.cancel()
        except ExceptionGroup as failed:
            known = failed.subgroup(SatchelError)
            if known is None:
                raise
            raise _first(known) from failed
        self.seconds = self.elapsed_s

    async def _strike(self) -> None:
        """Let the faults happen, and the time pass. A short run lasts until its plan is done."""
        await self.chaos.run(self.stop)
        await stopped_within(self.stop, max(self.options.seconds - self.elapsed_s, AFTER_FAULTS_S))

    async def _poll(self) -> None:
        while True:
            try:
                acknowledged = self.ledger.acknowledged
                committed = await self._committed()
                self.counted = Counted(acknowledged, committed)
                self.listed = {row.worker_id: row for row in await self.fleet.client.workers()}
            except SatchelError:
                pass  # the hub is down, on purpose: what it said last stands
            await asyncio.sleep(POLL_S)

    async def _committed(self) -> int:
        """Return the versions of all sessions, as the hub lists them."""
        committed, cursor = 0, None
        while True:
            page = await self.fleet.client.sessions(agent=AGENT, limit=PAGE_ITEMS_MAX, cursor=cursor)
            committed += sum(row.head for row in page.sessions)
            if (cursor := page.next_cursor) is None:
                return committed

    async def _audit(self) -> Verdict:
        def audited(count: int) -> None:
            self.audited = count

        self.phase = "audit"
        self._note("the audit reads every session from outside")
        verdict = await audit(
            self.ledger.sessions,
            session_of=self.fleet.client.session,
            folder=self.options.folder / "heads",
            audited=audited,
        )
        unanswered = tuple(
            Finding(FindingKind.UNANSWERED, session_id, sent.message_id, sent.error or "no answer came")
            for session_id, sent in self.ledger.unanswered()
            if sent.error or not self.is_interrupted
        )
        return msgspec.structs.replace(verdict, findings=verdict.findings + unanswered)


def turn_to_open(heads: Mapping[str, int]) -> tuple[str, int] | None:
    """Return a session and its version 17, if one still has it, else the longest session and its head."""
    for session_id, head in sorted(heads.items()):
        if TURN_TO_OPEN <= head <= TURN_TO_OPEN + RETAIN_VERSIONS:
            return session_id, TURN_TO_OPEN
    longest = max(sorted(heads), key=lambda session_id: heads[session_id], default=None)
    return (longest, heads[longest]) if longest is not None and heads[longest] else None


def _first(group: BaseExceptionGroup[SatchelError]) -> SatchelError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
