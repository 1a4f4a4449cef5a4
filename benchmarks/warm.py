"""A warm turn beside the least that its parts can cost: alone, and 64 sessions at once.

Blocks of turns and of the floor alternate, so that what else the machine does falls on
both; compared are medians. The handler inserts a row and says fifty characters.
"""

import asyncio
import dataclasses
import statistics
from collections.abc import Awaitable, Callable

import uvloop

from benchmarks.client import Answer, Connection, connections
from benchmarks.floor.running import Floor, floor
from benchmarks.processes import Process, Rig, rig
from benchmarks.tables import Cell, Reach, Table

TEXT = "A question of about a hundred characters, as a person would type it, with no end in sight, and no aim."
SESSIONS = 64
FRAME_DOWN_BYTES, FRAME_UP_BYTES = 300, 1000
"""About the request and the result of a warm turn."""
FLOOR = ("/echo", "/rounds", "/commits")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one request costs, as the mean of a block of them; times in microseconds."""

    wall_us: float
    hub_us: float
    worker_us: float


Send = Callable[[], Awaitable[Answer]]


async def block(requests: list[Send], count: int, hub: Process, worker: Process) -> tuple[Cost, list[float]]:
    """Make each of *requests* *count* times, beside the others; return the cost, and the wall time of each."""

    async def repeated(send: Send) -> list[float]:
        return [(await send()).wall_s for _ in range(count)]

    began = hub.cpu_s(), worker.cpu_s(), asyncio.get_running_loop().time()
    walls = [wall for walls in await asyncio.gather(*map(repeated, requests)) for wall in walls]
    ended = hub.cpu_s(), worker.cpu_s(), asyncio.get_running_loop().time()
    hub_us, worker_us, wall_us = (1e6 * (end - start) / len(walls) for start, end in zip(began, ended, strict=True))
    return Cost(wall_us=wall_us, hub_us=hub_us, worker_us=worker_us), walls


def median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(each) for each in zip(*map(dataclasses.astuple, costs), strict=True)))


def turn(caller: Connection, session: str) -> Send:
    async def send() -> Answer:
        answer = await caller.turn(session, TEXT)
        answer.complete()
        return answer

    return send


def bare(caller: Connection, path: str, body: bytes) -> Send:
    return lambda: caller.request("POST", path, body)


async def alone(above: Connection, below: Connection, running: Rig, bottom: Floor, *, rounds: int) -> Table:
    """Compare one turn after the other with one of each part of the floor after the other."""
    send = turn(above, "alone")
    sample = [await send() for _ in range(20)][-1]
    await bottom.set_up(below, [len(chunk) for chunk in sample.chunks], down=FRAME_DOWN_BYTES, up=FRAME_UP_BYTES)
    body = b"x" * len(TEXT)
    costs: dict[str, list[Cost]] = {"turn": [], "/echo": [], "/turn": []}
    walls: dict[str, list[float]] = {name: [] for name in ("turn", *FLOOR, "/turn")}
    for _ in range(rounds):
        for name, spent in costs.items():
            server = (running.hub, running.workers[0]) if name == "turn" else (bottom.hub, bottom.worker)
            cost, each = await block([send if name == "turn" else bare(below, name, body)], 1, *server)
            spent.append(cost)
            walls[name] += each
        for name in ("/rounds", "/commits"):
            walls[name] += await bottom.seconds(below, name, 1)
    middle = {name: 1e6 * statistics.median(each) for name, each in walls.items()}
    total = sum(middle[name] for name in FLOOR)
    rows: list[dict[str, Cell]] = [
        _row("warm turn", walls["turn"], median(costs["turn"])),
        _row("bare streamed HTTP echo", walls["/echo"], median(costs["/echo"])),
        _row("bare WebSocket echo", walls["/rounds"]),
        _row("one durable commit", walls["/commits"]),
        {"what": "floor: the three parts", "wall us": total},
        _row("the three in one bare program", walls["/turn"], median(costs["/turn"])),
    ]
    for row in rows:
        row["wall / floor"] = float(row["wall us"] or 0) / total
    return Table(
        name="warm-alone",
        title="A warm turn, one at a time",
        columns=("what", "wall us", "wall / floor", "p99 us", "hub CPU us", "worker CPU us"),
        rows=rows,
        notes=f"Medians of {rounds} rounds; each has one turn and one of each part, so that all find the processor as"
        f" the others left it. The answer has {len(sample.chunks)} chunks of {sum(map(len, sample.chunks))} bytes in"
        " all, and so has the echo's.",
        reach=(Reach("warm turn, one at a time", "wall, times the floor", middle["turn"] / total, 2),),
    )


def _row(what: str, walls: list[float], cost: Cost | None = None) -> dict[str, Cell]:
    return {
        "what": what,
        "wall us": 1e6 * statistics.median(walls),
        "p99 us": 1e6 * statistics.quantiles(walls, n=100)[98],
        "hub CPU us": cost.hub_us if cost is not None else None,
        "worker CPU us": cost.worker_us if cost is not None else None,
    }


async def together(
    above: list[Connection], below: list[Connection], running: Rig, bottom: Floor, *, rounds: int, count: int
) -> Table:
    """Compare turns of 64 sessions at once with as many streamed echoes at once."""
    turns = [turn(each, f"s{number}") for number, each in enumerate(above)]
    for _ in range(4):
        sample = (await asyncio.gather(*(send() for send in turns)))[-1]
    await bottom.set_up(below[0], [len(chunk) for chunk in sample.chunks], down=FRAME_DOWN_BYTES, up=FRAME_UP_BYTES)
    costs: dict[str, list[Cost]] = {"turn": [], "/echo": [], "/apart": [], "/turn": []}
    walls: dict[str, list[float]] = {name: [] for name in costs}
    commits: list[float] = []
    for _ in range(rounds):
        for name, spent in costs.items():
            sends = turns if name == "turn" else [bare(each, name, b"x" * len(TEXT)) for each in below]
            server = (running.hub, running.workers[0]) if name == "turn" else (bottom.hub, bottom.worker)
            before = running.commits()
            cost, each = await block(sends, count, *server)
            spent.append(cost)
            walls[name] += each
            if name == "turn":
                commits.append((running.commits() - before) / len(each))
    names = {
        "turn": "warm turn",
        "/echo": "bare streamed echo, same chunks",
        "/apart": "the same, a pass of the loop between chunks",
        "/turn": "the three parts in one bare program",
    }
    middle = {name: median(each) for name, each in costs.items()}
    rows = [_row(what, walls[name], middle[name]) for name, what in names.items()]
    for row, cost in zip(rows, middle.values(), strict=True):
        row["hub CPU / echo"] = cost.hub_us / middle["/echo"].hub_us
        row["a second"] = 1e6 / cost.wall_us
    rows[0]["fsyncs"] = statistics.median(commits)
    return Table(
        name="warm-together",
        title=f"A warm turn, {SESSIONS} sessions at once",
        columns=("what", "hub CPU us", "hub CPU / echo", "worker CPU us", "wall us", "p99 us", "a second", "fsyncs"),
        rows=rows,
        notes=f"Medians of {rounds} alternating blocks of {SESSIONS} x {count}; wall is what one caller waits. fsyncs"
        " are the transactions of the store's log, as SQLite counts them.",
        reach=(
            Reach(
                f"hub CPU of a warm turn, {SESSIONS} at once",
                "times a bare streamed echo",
                middle["turn"].hub_us / middle["/echo"].hub_us,
                4,
            ),
            Reach(f"group commit, {SESSIONS} at once", "fsyncs a turn", statistics.median(commits), 0.2),
        ),
    )


async def _measured(running: Rig, bottom: Floor, *, quick: bool) -> list[Table]:
    async with connections(running.url, SESSIONS) as above, connections(bottom.url, SESSIONS) as below:
        return [
            await alone(above[0], below[0], running, bottom, rounds=20 if quick else 600),
            await together(above, below, running, bottom, rounds=2 if quick else 9, count=2 if quick else 10),
        ]


def measure(*, quick: bool) -> list[Table]:
    with rig("plain") as running, floor() as bottom:
        return uvloop.run(_measured(running, bottom, quick=quick))
