"""Turns on a worker that does not hold the state: cold starts, catch-up, and the worker that dies.

What is timed ends at the handler's first line: the handler says when that was, on the
clock that all processes of a machine share.
"""

import asyncio
import contextlib
import pathlib
import statistics
import time
import uuid
from collections.abc import AsyncIterator

import apsw
import uvloop
import zstandard

from benchmarks.client import Answer, Connection, connection, connections
from benchmarks.processes import PATIENCE_S, Process, Rig, rig, scratch
from benchmarks.tables import Cell, Reach, Table

PIECES = (1, 16)
"""How many deltas a copy is behind."""


class Line:
    """A turn as far as its handler's first line."""

    def __init__(self, answer: Answer) -> None:
        events = answer.events()
        report = answer.complete()["turn"]
        text = next(event["message"]["content"][0]["text"] for event in events if event["type"] == "message")
        self.started_at = float(text)
        self.wall_ms = 1000 * (self.started_at - answer.sent_at)
        self.start: str = report["start"]
        self.worker_id: str = report["worker_id"]
        self.sent_bytes: int = report["sent_bytes"]
        self.worker_ms = 0.0


class Pair:
    """Two workers of one slot each, and control of which of them a turn reaches."""

    def __init__(self, running: Rig, caller: Connection, holder: Connection) -> None:
        self._running = running
        self._caller = caller
        self._holder = holder
        self._sessions: dict[str, str] = {}
        self.processes: dict[str, Process] = {}

    async def settle(self) -> None:
        """Find out which process has which ID, and give each worker a session to be held with."""
        for process in self._running.workers:
            if process in self.processes.values():
                continue
            (name,) = {str(each["worker_id"]) for each in self._running.listed()} - set(self.processes)
            self.processes[name] = process
        for name in self.processes:
            while name not in self._sessions:
                session = f"holder-{uuid.uuid4().hex}"
                async with contextlib.AsyncExitStack() as stack:
                    for other in self._sessions:
                        await stack.enter_async_context(self.held(other))
                    self._sessions.setdefault((await self.turn(session)).worker_id, session)

    async def add(self) -> None:
        """Put a worker beside the one that is there."""
        self._running.add_worker("stateful", slots=1)
        await self.settle()

    def kill(self, name: str) -> None:
        """Kill a worker with SIGKILL."""
        process = self.processes.pop(name)
        del self._sessions[name]
        self._running.workers.remove(process)
        process.kill()

    async def turn(self, session: str, text: str = "go") -> Line:
        return Line(await self._caller.turn(session, text))

    async def turn_aside(self, session: str, text: str) -> Line:
        """Send a turn that takes so long that others are sent meanwhile; none is ``held``."""
        return Line(await self._holder.turn(session, text))

    @contextlib.asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        """Keep a worker's only slot taken while the body runs."""
        message = uuid.uuid4().hex
        session = self._sessions[name]
        turn = asyncio.create_task(self._holder.turn(session, "hold", message_id=message))
        await self.until_running(name, 1)
        try:
            yield
        finally:
            await self._caller.request("POST", f"/v1/sessions/{session}/messages/{message}/cancel")
            await turn
            await self.until_running(name, 0)

    async def until_running(self, name: str, count: int) -> None:
        """Wait until a worker runs as many turns."""
        async with asyncio.timeout(PATIENCE_S):
            while {"worker_id": name, "running": count} not in [
                {"worker_id": each["worker_id"], "running": each["running"]}
                for each in (await self._caller.get("/v1/workers"))["workers"]
            ]:
                await asyncio.sleep(0.005)

    async def fill(self, session: str, kilobytes: int) -> str:
        """Give a session a state of about that size; return the worker that holds it."""
        return (await self.turn(session, f"fill {kilobytes}")).worker_id

    def other(self, name: str) -> str:
        (other,) = set(self.processes) - {name}
        return other


@contextlib.asynccontextmanager
async def pair(running: Rig) -> AsyncIterator[Pair]:
    async with connection(running.url) as caller, connection(running.url) as holder:
        made = Pair(running, caller, holder)
        await made.add()
        await made.add()
        yield made


# --- cold starts ------------------------------------------------------------------------------------


class Bytes:
    """A session's state as a compressed file: to read, decompress and open it is the floor."""

    def __init__(self, folder: pathlib.Path, image: bytes) -> None:
        self._file = folder / "state.zst"
        self._file.write_bytes(zstandard.ZstdCompressor(level=3).compress(image))
        self.size = len(image)

    def opened_ms(self) -> float:
        began = time.perf_counter()
        image = zstandard.ZstdDecompressor().decompress(self._file.read_bytes())
        state = apsw.Connection(":memory:")
        state.deserialize("main", image)
        state.execute("SELECT body FROM block WHERE id = 1").fetchall()
        wall_ms = 1000 * (time.perf_counter() - began)
        state.close()
        return wall_ms


async def cold_starts(running: Rig, folder: pathlib.Path, *, kilobytes: int, sessions: int, rounds: int) -> Table:
    """Start sessions on a worker that was just put in the place of the one that holds them."""
    running.add_worker("stateful")
    cold, warm, floor = [], [], []
    async with connections(running.url, 1) as (caller,):
        for number in range(sessions):
            Line(await caller.turn(f"s{number}", f"fill {kilobytes}"))
        image = await caller.request("GET", "/v1/sessions/s0/versions/1/snapshot", accept="application/vnd.sqlite3")
        stored = Bytes(folder, image.body)
        for _ in range(rounds):
            running.remove_worker(running.workers[0])
            running.add_worker("stateful")
            for number in range(3):
                await caller.turn(f"before-{number}", "go")
            for number in range(sessions):
                line = Line(await caller.turn(f"s{number}", "go"))
                assert line.start == "cold", line.start
                cold.append(line.wall_ms)
                warm.append(Line(await caller.turn(f"s{number}", "go")).wall_ms)
                floor.append(stored.opened_ms())
    middle = {"cold start": cold, "warm start": warm, "read, decompress, open": floor}
    rows: list[dict[str, Cell]] = [
        {"to the handler's first line": what, "wall ms": statistics.median(walls)} for what, walls in middle.items()
    ]
    for row in rows:
        row["/ floor"] = float(row["wall ms"] or 0) / statistics.median(floor)
    return Table(
        name="cold",
        title=f"A cold start, {stored.size / 1e6:.2g} MB of state",
        columns=("to the handler's first line", "wall ms", "/ floor"),
        rows=rows,
        notes=f"Medians of {len(cold)}, alternating. A caller's first byte to the handler's first line; the floor is"
        " a file with the same state, read, decompressed and opened, and one row read.",
        reach=(
            Reach(
                "cold start to the first handler line",
                "wall, times read + decompress + open",
                statistics.median(cold) / statistics.median(floor),
                3,
            ),
        ),
    )


# --- catch-up ---------------------------------------------------------------------------------------


async def catch_up(two: Pair, *, sizes: tuple[int, ...], rounds: int) -> Table:
    """Bring a stale copy to the head over a few deltas, with a small state and with a large one."""
    rows: list[dict[str, Cell]] = []
    for kilobytes in sizes:
        session = f"stale-{kilobytes}"
        holder = await two.fill(session, kilobytes)
        for behind in PIECES:
            lines = []
            for _ in range(rounds + 1):
                async with two.held(holder):
                    holder = [await two.turn(session) for _ in range(behind)][-1].worker_id
                async with two.held(holder):
                    process = two.processes[two.other(holder)]
                    began = process.cpu_s()
                    line = await two.turn(session)
                    line.worker_ms = 1000 * (process.cpu_s() - began)
                assert line.start in {"catch-up", "cold"}, line.start
                lines.append(line)
                holder = line.worker_id
            caught = [line for line in lines if line.start == "catch-up"]
            rows.append(
                {
                    "state": f"{kilobytes:,} KB",
                    "deltas behind": behind,
                    "wall ms to the handler": statistics.median(line.wall_ms for line in caught),
                    "worker CPU ms": statistics.median(line.worker_ms for line in caught),
                    "bytes sent": statistics.median(line.sent_bytes for line in caught),
                }
            )
    small, large = (rows[len(PIECES) * place + len(PIECES) - 1] for place in (0, len(sizes) - 1))
    return Table(
        name="catch-up",
        title="Catch-up of a stale copy",
        columns=("state", "deltas behind", "wall ms to the handler", "worker CPU ms", "bytes sent"),
        rows=rows,
        notes=f"Medians of {rounds} or {rounds + 1}. The state travels as deltas alone, whatever its size.",
        reach=tuple(
            Reach(
                f"catch-up over {PIECES[-1]} deltas, {sizes[-1]:,} KB beside {sizes[0]:,} KB: {what}",
                "times",
                float(large[what] or 0) / float(small[what] or 1),
                1.2,
            )
            for what in ("wall ms to the handler", "worker CPU ms", "bytes sent")
        ),
    )


# --- a worker that dies ---------------------------------------------------------------------------------


async def failover(two: Pair, *, kilobytes: int, rounds: int) -> Table:
    """Kill the worker that holds a session, between two turns and in the middle of one."""
    plain: list[float] = []
    idle: list[float] = []
    busy: list[float] = []
    for number in range(rounds):
        session = f"calm-{number}"
        holder = await two.fill(session, kilobytes)
        async with two.held(holder):
            line = await two.turn(session)
        assert line.start == "cold", line.start
        plain.append(line.wall_ms)
        for name, waits in (("idle", idle), ("busy", busy)):
            session = f"{name}-{number}"
            holder = await two.fill(session, kilobytes)
            turn = None
            if name == "busy":
                turn = asyncio.create_task(two.turn_aside(session, "hold-once"))
                await two.until_running(holder, 1)
            killed_at = time.perf_counter()
            two.kill(holder)
            line = await (turn or two.turn(session))
            assert line.worker_id != holder
            waits.append(1000 * (line.started_at - killed_at))
            await two.add()
    calm = statistics.median(plain)
    rows: list[dict[str, Cell]] = [
        {
            "what": what,
            "ms to the handler": statistics.median(waits),
            "beyond a cold start": statistics.median(waits) - calm,
        }
        for what, waits in (
            ("a cold start, nothing lost", plain),
            ("from the kill of an idle worker, sent at once", idle),
            ("from the kill of a worker in the turn, next attempt", busy),
        )
    ]
    return Table(
        name="failover",
        title="A worker is killed",
        columns=("what", "ms to the handler", "beyond a cold start"),
        rows=rows,
        notes=f"Medians of {rounds}; SIGKILL, another worker is there with room, a state of {kilobytes} KB.",
        reach=tuple(
            Reach(f"failover, {what}", "ms beyond a cold start", float(row["beyond a cold start"] or 0), 50)
            for what, row in (("idle session", rows[1]), ("in the turn", rows[2]))
        ),
    )


async def _with_pair(running: Rig, *, quick: bool) -> list[Table]:
    async with pair(running) as two:
        sizes = (100, 1000) if quick else (100, 10_000)
        return [
            await catch_up(two, sizes=sizes, rounds=1 if quick else 9),
            await failover(two, kilobytes=100, rounds=1 if quick else 7),
        ]


def measure(*, quick: bool) -> list[Table]:
    sessions, rounds = (3, 1) if quick else (20, 3)
    with scratch() as folder, rig() as running:
        tables = [uvloop.run(cold_starts(running, folder, kilobytes=780, sessions=sessions, rounds=rounds))]
    with rig() as running:
        return tables + uvloop.run(_with_pair(running, quick=quick))
