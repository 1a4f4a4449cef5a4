"""Carries out the faults of a plan on the fleet, one after the other; only a freeze goes on beside others."""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, assert_never

import msgspec

from satchel.demo.plan import Fault, FaultKind
from satchel.demo.processes import LOOK_S, DemoFleet, ProcessState, WorkerProcess
from satchel.errors import SatchelError
from satchel.limits import PING_INTERVAL_S, PINGS_LOST_MAX

FROZEN_S: Final = PING_INTERVAL_S * (PINGS_LOST_MAX + 3)
"""By when a hub must have given up a worker that answers no ping."""


class _Span(msgspec.Struct):
    what: str
    began_s: float
    ended_s: float | None = None


class Chaos:
    """The faults of one run. *note* hears what is done, a line each."""

    def __init__(self, fleet: DemoFleet, faults: tuple[Fault, ...], *, note: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._faults = faults
        self._note = note
        self._build = 1
        self._freeze: asyncio.Task[None] | None = None
        self._spans: list[_Span] = []
        self.done: Counter[FaultKind] = Counter()
        self.replaced = 0
        """Workers of the first build that were told to leave in the rollout."""

    @property
    def now(self) -> str:
        """What is being done."""
        return ", ".join(span.what for span in self._spans if span.ended_s is None)

    def during(self, began_s: float, ended_s: float) -> list[str]:
        """Return what was being done between two moments of monotonic time."""
        return [
            span.what
            for span in self._spans
            if span.began_s <= ended_s and (span.ended_s is None or span.ended_s >= began_s)
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Do every fault at its time; after *stop* only end the one under way. Raises ``SatchelError``."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            for fault in self._faults:
                if await stopped_within(stop, began + fault.at_s - loop.time()):
                    break
                await self._do(fault, stop)
            await self._thawed()
        finally:
            if self._freeze is not None:
                self._freeze.cancel()
                await asyncio.gather(self._freeze, return_exceptions=True)

    async def _do(self, fault: Fault, stop: asyncio.Event) -> None:
        match fault.kind:
            case FaultKind.KILL:
                await self._kill(fault)
            case FaultKind.FREEZE:
                await self._thawed()
                # A hub that is restarted meanwhile would not know the worker, and give nothing up.
                self._freeze = asyncio.create_task(self._frozen(self._victim(fault), stop))
            case FaultKind.RESTART:
                await self._thawed()
                await self._restart()
            case FaultKind.ROLLOUT:
                await self._thawed()
                await self._roll_out()
            case _:
                assert_never(fault.kind)

    def _victim(self, fault: Fault) -> WorkerProcess:
        up = self._fleet.up()
        return up[min(int(fault.pick * len(up)), len(up) - 1)]

    @contextlib.contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        self._note(what)
        span = _Span(what, time.monotonic())
        self._spans.append(span)
        try:
            yield
        finally:
            span.ended_s = time.monotonic()

    async def _kill(self, fault: Fault) -> None:
        victim = self._victim(fault)
        with self._doing(f"kill -9 {victim.name}"):
            victim.state = ProcessState.KILLED
            await victim.end(signal.SIGKILL)
            self.done[FaultKind.KILL] += 1
            fresh = await self._fleet.start_worker(build=self._build)
            self._note(f"{fresh.name} takes the place of {victim.name}")

    async def _frozen(self, victim: WorkerProcess, stop: asyncio.Event) -> None:
        """Stop a worker in the middle of what it does until the hub has given it up, then let it go on."""
        with self._doing(f"freeze {victim.name}"):
            victim.tell(signal.SIGSTOP)
            victim.state = ProcessState.FROZEN
            is_given_up = await self._seen(lambda: self._is_listed(victim, wanted=False), unless=stop)
            victim.tell(signal.SIGCONT)
            if not is_given_up and not stop.is_set():
                raise SatchelError(f"The hub did not give {victim.name} up.", hint=f"See {self._fleet.hub.log}.")
            if is_given_up:
                self.done[FaultKind.FREEZE] += 1
                self._note(f"the hub gave {victim.name} up; it goes on where it stopped")
        if not await self._seen(lambda: self._is_listed(victim, wanted=True)):
            raise SatchelError(f"{victim.name} did not come back after it was frozen.", hint=f"See {victim.log}.")
        victim.state = ProcessState.UP

    async def _is_listed(self, worker: WorkerProcess, *, wanted: bool) -> bool:
        listed = await self._fleet.listed()
        return listed is not None and (worker.worker_id in {row.worker_id for row in listed}) is wanted

    async def _seen(self, claim: Callable[[], Awaitable[bool]], *, unless: asyncio.Event | None = None) -> bool:
        """Wait until *claim* holds, and tell whether it did in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FROZEN_S):
                while not await claim():
                    if unless is not None and unless.is_set():
                        return False
                    await asyncio.sleep(LOOK_S)
                return True
        return False

    async def _thawed(self) -> None:
        """Wait until no worker is frozen. Raises what the freeze raised."""
        freeze, self._freeze = self._freeze, None
        if freeze is not None:
            await freeze

    async def _restart(self) -> None:
        hub = self._fleet.hub
        with self._doing("kill -9 the hub"):
            hub.state = ProcessState.KILLED
            await hub.end(signal.SIGKILL)
            self.done[FaultKind.RESTART] += 1
            await self._fleet.start_hub()
            await self._fleet.rejoined()
        self._note("the hub is back on its store, and so are the workers")

    async def _roll_out(self) -> None:
        """Start workers of the next build, then end those of the one before: the order that the manual gives."""
        old = self._fleet.up()
        self._build = 2
        with self._doing("roll out the second schema"):
            for _ in old:
                await self._fleet.start_worker(build=self._build)
            for worker in old:
                worker.state = ProcessState.LEAVING
                await worker.end(signal.SIGTERM)
                worker.state = ProcessState.GONE
                self.replaced += 1
            self.done[FaultKind.ROLLOUT] += 1
        self._note(f"{len(old)} workers of the second build have taken over")


async def stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    """Wait for *seconds*, or until *stop*; tell whether it was *stop*."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()
