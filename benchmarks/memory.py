"""What a session costs while nothing happens: open at a worker, known at a hub."""

import asyncio
from collections.abc import Callable

import uvloop

from benchmarks.client import connections
from benchmarks.processes import Process, Rig, rig
from benchmarks.tables import Reach, Table
from satchel.model import AgentSpec, OnBusy, SchemaName, SessionId, StateId, StateName, Version, WorkerId
from satchel.protocol.messages import HeldState, HubFrame, Register, Registered
from satchel.worker.dial import websocket_dial
from satchel.worker.link import LinkUser, WorkerLink

KNOWN = 100_000
CALLERS = 16


async def warm(running: Rig, *, sessions: int) -> tuple[float, float]:
    """Return the bytes that each of *sessions* sessions adds to a worker and to the hub, after a turn of each."""
    async with connections(running.url, CALLERS) as callers:

        async def open_all(name: str, count: int) -> None:
            async def some(place: int) -> None:
                for number in range(place, count, CALLERS):
                    (await callers[place].turn(f"{name}-{number}", "a few words")).complete()

            await asyncio.gather(*(some(place) for place in range(CALLERS)))

        await open_all("first", sessions // 4)  # what a process takes once, it has taken
        before = _memory(running.workers[0], running.hub)
        await open_all("more", sessions)
        after = _memory(running.workers[0], running.hub)
    worker, hub = ((end - start) / sessions for start, end in zip(before, after, strict=True))
    return worker, hub


def _memory(*processes: Process) -> list[int]:
    return [process.memory_bytes() for process in processes]


class Holder:
    """A worker that says that it holds many sessions, and takes no turn."""

    def __init__(self, sessions: int) -> None:
        self._sessions = sessions
        self.is_taken = asyncio.Event()

    def registration(self) -> Register:
        spec = AgentSpec("nobody", SchemaName(1, bytes(32)), 1, turn_timeout_s=60, max_attempts=1, on_busy=OnBusy.QUEUE)
        held = tuple(
            HeldState(
                SessionId(f"session-of-user-{number:08}"), StateName(Version(number + 1), _state_id(number)), 40_960
            )
            for number in range(self._sessions)
        )
        return Register(WorkerId("holder"), protocol_version=1, build="bench", slots=1, agents=(spec,), held=held)

    def receive(self, frame: HubFrame) -> None:
        if isinstance(frame, Registered):
            self.is_taken.set()

    def link_lost(self) -> None:
        pass


def _state_id(number: int) -> StateId:
    return StateId(number.to_bytes(16))


async def known(running: Rig, *, sessions: int) -> float:
    """Return the bytes that each of *sessions* sessions adds to a hub that knows where it is warm."""
    holder = Holder(sessions)

    def to_user(call: Callable[[LinkUser], None]) -> None:
        call(holder)

    link = WorkerLink(websocket_dial(running.url), to_user=to_user)
    before = running.hub.memory_bytes()
    serving = asyncio.create_task(link.run())
    await asyncio.wait({serving, asyncio.create_task(holder.is_taken.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    after = running.hub.memory_bytes()
    link.stop()
    await serving
    return (after - before) / sessions


def measure(*, quick: bool) -> list[Table]:
    sessions = 200 if quick else 2000
    with rig("plain") as running:
        at_worker, at_hub = uvloop.run(warm(running, sessions=sessions))
    with rig() as running:
        of_known = uvloop.run(known(running, sessions=KNOWN))
    return [
        Table(
            name="memory",
            title="Memory of an idle session",
            columns=("what", "KB a session"),
            rows=[
                {"what": f"warm at a worker, {sessions:,} sessions of one turn", "KB a session": at_worker / 1024},
                {"what": "the same sessions at the hub", "KB a session": at_hub / 1024},
                {"what": f"known at the hub, {KNOWN:,} sessions that a worker holds", "KB a session": of_known / 1024},
            ],
            notes="Growth of resident memory, divided by sessions. What was needed in between counts if it is kept.",
            reach=(
                Reach("memory of a warm idle session at the worker", "KB", at_worker / 1024, 120),
                Reach(f"memory of a session known to a hub, {KNOWN:,}", "KB", of_known / 1024, 1),
            ),
        )
    ]
