"""A session's database without hub or link: recording, opening, catching up, and what stays in memory.

Each way of a table does the same work in turn with the others, and the medians are
compared; processor time is the thread's own.
"""

import asyncio
import contextlib
import gc
import itertools
import multiprocessing
import pathlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import apsw
import msgspec
import uvloop
import zstandard

from benchmarks.prose import prose
from benchmarks.tables import Cell, Reach, Table
from satchel import Turn, Worker
from satchel.limits import CHAIN_BYTES_MAX
from satchel.model import (
    DEFAULT_TENANT,
    EMPTY,
    Content,
    Epoch,
    Link,
    Message,
    MessageId,
    SessionId,
    SessionKey,
    StateName,
    Version,
    first_state_id,
    next_state_id,
)
from satchel.protocol.messages import AttemptName, Committed, Registered, Request, Result, WorkerFrame
from satchel.state import tables
from satchel.state.database import empty_database, trim_connections
from satchel.state.history import History
from satchel.state.payload import seal
from satchel.state.schema import create_own_tables
from satchel.state.session import OpenSession, Recorded
from satchel.state.values import State
from satchel.worker.runtime import Runtime

SESSION = SessionId("bench")
TURNS = 50
"""Turns between two looks at the clock."""
ITEM_WORDS = 143
"""Words of one item: about 1 KB."""
TEXTS = [prose(str(number), ITEM_WORDS) for number in range(2048)]

NOTE = "INSERT INTO note (topic, body) VALUES (?, ?)"
APPEND = f"INSERT INTO {tables.HISTORY} VALUES (?, ?, ?, ?, ?, ?, ?)"
GET = f"SELECT value FROM {tables.VALUES} WHERE key = 'turns'"
PUT = f"INSERT INTO {tables.VALUES} VALUES ('turns', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"

worker = Worker(
    "bench",
    schema="""
    CREATE TABLE note (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE INDEX note_topic ON note (topic);
    """,
)


@worker.on_message
async def reply(turn: Turn) -> None:
    _write(turn.state, turn.version)
    await turn.say(TEXTS[turn.version % len(TEXTS)])
    await turn.say(TEXTS[turn.version % 1024])


def _write(state: State, number: int) -> None:
    state.execute(NOTE, (f"t{number}", TEXTS[number % len(TEXTS)][:200]))
    state["turns"] = state.get("turns", 0) + 1


def _item(number: int, place: int) -> Message:
    text = TEXTS[(number + place) % len(TEXTS)]
    return Message(f"item_{number}_{place}", (Content(text),), "2026-01-01T00:00:00.000Z", "ASSISTANT")


# --- a turn, in ever more of what it is ----------------------------------------------------------


class Bare:
    """The statements of a turn on a connection of nobody's: three items, a row and a value."""

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        for statement in (*tables.STATEMENTS.values(), *worker.schema.texts):
            self.connection.execute(statement).fetchall()
        self._numbers = itertools.count(1)

    def turn(self) -> None:
        number = next(self._numbers)
        run = self.connection.execute
        run("BEGIN")
        run(NOTE, (f"t{number}", TEXTS[number % len(TEXTS)][:200]))
        value = run(GET).fetchall()
        run(PUT, (str(int(value[0][0]) + 1 if value else 1),))
        for place in range(3):
            item = _item(number, place)
            content = msgspec.json.encode(item).decode()
            run(APPEND, (3 * number + place, item.id, "message", item.role, "m", content, item.created_at))
        run("COMMIT")


class BareRecorded(Bare):
    """The same with a bare recorder, and its changeset."""

    def turn(self) -> None:
        recorder = apsw.Session(self.connection, "main")
        recorder.attach()
        super().turn()
        recorder.changeset()
        recorder.close()


class Unrecorded:
    """The same writes as a handler makes them, through ``state`` and ``history``, with no recorder."""

    def __init__(self) -> None:
        self._database = empty_database()
        create_own_tables(self._database)
        worker.schema.migrate(self._database, after=0)
        self._database.set_quiet(quiet=False)
        self._numbers = itertools.count(1)

    def turn(self) -> None:
        number = next(self._numbers)
        self._database.begin()
        state, history = State(self._database), History(self._database, MessageId("m"))
        _write(state, number)
        for place in range(3):
            history.append(_item(number, place))
        state.flush()
        self._database.commit()


class Recording:
    """A whole turn of a session: begun, written, finished, sealed, named, committed."""

    def __init__(self) -> None:
        name = StateName(EMPTY, first_state_id(SessionKey(DEFAULT_TENANT, SESSION)))
        self.session = OpenSession.empty(SESSION, worker.schema, name=name)

    def turn(self) -> None:
        self.link()

    def link(self, *, items: int = 3, wants_snapshot: bool = False) -> Link:
        number = self.session.name.version + 1
        _begin(self.session)
        _write(self.session.state, number)
        for place in range(items):
            self.session.history.append(_item(number, place))
        recorded = self.session.finish(wants_digest=False, wants_snapshot=wants_snapshot)
        link = Link(self._named(recorded), seal(recorded.kind, recorded.raw))
        self.session.set_pending(link.name)
        self.session.commit()
        return link

    def _named(self, recorded: Recorded) -> StateName:
        base = self.session.name
        version = Version(base.version + 1)
        return StateName(version, next_state_id(base.state_id, version, recorded.kind, recorded.raw))


def _begin(session: OpenSession) -> None:
    version = Version(session.name.version + 1)
    session.begin(version=version, epoch=Epoch(version), message_id=MessageId(f"m{version}"), schema=worker.schema)


def recording(*, quick: bool) -> Table:
    """A turn's processor time in units of its statements alone."""
    ways = {
        "the statements alone": Bare().turn,
        "through state and history": Unrecorded().turn,
        "the statements with a bare recorder": BareRecorded().turn,
        "a turn: recorded, sealed, named": Recording().turn,
    }
    medians = _medians(ways, rounds=4 if quick else 30, times=TURNS)
    unit = medians["the statements alone"][0]
    turn = medians["a turn: recorded, sealed, named"][0] / unit
    return Table(
        name="state-recording",
        title="A turn's writes, recorded and not",
        columns=("way", "CPU us", "wall us", "times the statements"),
        rows=[
            {"way": way, "CPU us": cpu, "wall us": wall, "times the statements": cpu / unit}
            for way, (cpu, wall) in medians.items()
        ],
        notes="Three items of 1 KB, a row with an index, a value. No handler's own work, no link, no disk.",
        reach=(Reach("worker CPU beside the handler", "times the statements of its writes", turn, 2),),
    )


def _medians(ways: Mapping[str, Callable[[], Any]], *, rounds: int, times: int) -> dict[str, tuple[float, float]]:
    """Return microseconds of processor and of time for each way, once all are warm."""
    seen: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, work in ways.items():
            cpu, wall = time.thread_time(), time.perf_counter()
            for _ in range(times):
                work()
            seen[way].append((1e6 * (time.thread_time() - cpu) / times, 1e6 * (time.perf_counter() - wall) / times))
    return {way: (_median(each, 0), _median(each, 1)) for way, each in seen.items()}


def _median(costs: list[tuple[float, float]], of: int) -> float:
    return statistics.median(cost[of] for cost in costs[1:])


# --- opening and catching up ---------------------------------------------------------------------


def opening(*, quick: bool) -> Table:
    """A cold start to the first line of a handler, in units of decompressing, opening and asking."""
    rows: list[dict[str, Cell]] = []
    ratio = 0.0
    for kilobytes in (40, 1024):
        whole = Recording()
        link = whole.link(items=kilobytes * 8 // 10, wants_snapshot=True)

        def alone(link: Link = link) -> None:
            raw = zstandard.ZstdDecompressor().decompress(link.payload.data)
            with contextlib.closing(apsw.Connection(":memory:")) as connection:
                connection.deserialize("main", raw)
                connection.execute(f"SELECT max(position) FROM {tables.HISTORY}").fetchall()

        def ours(link: Link = link, whole: Recording = whole) -> None:
            with contextlib.closing(_opened(whole, [link])) as session:
                _begin(session)
                len(session.history)

        medians = _medians({"alone": alone, "ours": ours}, rounds=4 if quick else 20, times=3)
        ratio = medians["ours"][0] / medians["alone"][0]
        rows.append(
            {
                "state KB": whole.session.state_bytes / 1024,
                "bytes alone, CPU us": medians["alone"][0],
                "cold start, CPU us": medians["ours"][0],
                "times": ratio,
            }
        )
    return Table(
        name="state-opening",
        title="A cold start in a worker, to the handler's first line",
        columns=tuple(rows[0]),
        rows=rows,
        notes="Alone: decompress, deserialize, one query. Cold start: also checksum, quick_check, schema, a turn.",
        reach=(Reach("cold start, 1 MB, in the worker", "times the bytes alone", ratio, 3),),
    )


def _opened(whole: Recording, links: list[Link]) -> OpenSession:
    return OpenSession.from_chain(SESSION, links, base=links[-1].name, schema=whole.session.schema, digest=None)


def catching_up(*, quick: bool) -> Table:
    """A copy brought to the head by deltas, of a small state and of a large one."""
    rows: list[dict[str, Cell]] = []
    for items, behind in itertools.product((80, 2_000 if quick else 10_000), (1, 16)):
        whole = Recording()
        links = [whole.link(items=items, wants_snapshot=True)]
        links += [whole.link() for _ in range(behind)]
        costs = [_catch_up(whole, links) for _ in range(3 if quick else 9)]
        rows.append(
            {
                "state KB": whole.session.state_bytes / 1024,
                "deltas behind": behind,
                "delta bytes": sum(link.payload.size for link in links[1:]),
                "CPU us": _median(costs, 0),
                "wall us": _median(costs, 1),
            }
        )
    return Table(
        name="state-catch-up",
        title="A catch-up in a worker",
        columns=tuple(rows[0]),
        rows=rows,
    )


def _catch_up(whole: Recording, links: list[Link]) -> tuple[float, float]:
    with contextlib.closing(_opened(whole, links[:1])) as copy:
        cpu, wall = time.thread_time(), time.perf_counter()
        copy.catch_up(links[1:], base=links[-1].name, schema=whole.session.schema, digest=None)
        return 1e6 * (time.thread_time() - cpu), 1e6 * (time.perf_counter() - wall)


# --- many sessions, and a large one --------------------------------------------------------------


class Hub:
    """A hub of one attempt at a time, for a runtime in this process."""

    def __init__(self) -> None:
        self._results: asyncio.Queue[WorkerFrame] = asyncio.Queue()
        self.runtime = Runtime([worker], send=self._results.put_nowait)
        self.runtime.receive(Registered(tenant=DEFAULT_TENANT, ping_interval_s=5, adopted=()))
        self._epochs = itertools.count(1000)  # beyond those that a chain was made with

    async def turn(self, session: str, last: Result | None = None, chain: tuple[Link, ...] = ()) -> Result:
        """Run a turn of a session behind *last*, or on a *chain*, and commit it."""
        name = StateName(EMPTY, first_state_id(SessionKey(DEFAULT_TENANT, SessionId(session))))
        epoch = next(self._epochs)
        self.runtime.receive(
            Request(
                attempt=AttemptName(SessionId(session), MessageId(f"m{epoch}"), Epoch(epoch)),
                start_number=1,
                attempt_number=1,
                agent=worker.name,
                text=TEXTS[epoch % len(TEXTS)],
                metadata="",
                accepted_at_ms=0,
                base=chain[-1].name if chain else last.name if last else name,
                chain=chain,
                schema=worker.schema.name if chain or last else None,
                digest=None,
                wants_digest=False,
                wants_snapshot=False,
                delta_bytes_max=CHAIN_BYTES_MAX,
            )
        )
        while not isinstance(frame := await self._results.get(), Result):
            pass
        self.runtime.receive(Committed(frame.attempt))
        return frame


def memory(*, quick: bool) -> Table:
    """What each of many idle sessions holds in a worker's process, after two turns."""
    sessions = 200 if quick else 1000
    (small,) = _apart(_warm_bytes, sessions)
    return Table(
        name="state-memory",
        title="Idle sessions in a worker",
        columns=("sessions", "KB each"),
        rows=[{"sessions": sessions, "KB each": small / 1000}],
        notes="Resident memory of a process of its own, each session with two turns behind it (24 KB of pages).",
        reach=(Reach("memory per warm session, runtime alone", "KB", small / 1000, 120),),
    )


def _apart(work: Callable[..., tuple[float, ...]], *arguments: Any) -> tuple[float, ...]:
    """Return what *work* gives in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _warm_bytes(sessions: int) -> tuple[float]:
    trim_connections()

    async def run() -> float:
        hub = Hub()
        for name in range(50):  # what a process takes once, it has taken
            await hub.turn(f"first-{name}")
        gc.collect()
        before = _resident("VmRSS")
        for name in range(sessions):
            await hub.turn(f"s{name}", await hub.turn(f"s{name}"))
        gc.collect()
        return (_resident("VmRSS") - before) / sessions

    return (uvloop.run(run()),)


def _resident(what: str) -> int:
    """Return bytes of this process's memory, by their name in ``/proc``."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


def large(*, quick: bool) -> Table:
    """The largest state opened in a worker: how long its loop waits, and how much memory that takes."""
    rows: list[dict[str, Cell]] = []
    share = 0.0
    for megabytes in (2, 12) if quick else (2, 12, 100):
        ms, wait_ms, state, encoded, more = _apart(_open_large, megabytes)
        share = (more + encoded) / state
        rows.append(
            {
                "state MB": state / 1e6,
                "encoded MB": encoded / 1e6,
                "start ms": ms,
                "longest wait of the loop ms": wait_ms,
                "peak, envelope included, times the state": share,
            }
        )
    return Table(
        name="state-large",
        title="A large state opened beside others",
        columns=tuple(rows[0]),
        rows=rows,
        notes="The wait is what a timer of 1 ms is late at most while the state is opened in a thread.",
        reach=() if quick else (Reach("memory of a large cold start, in the worker", "times the state", share, 2),),
    )


def _open_large(megabytes: int) -> tuple[float, float, float, float, float]:
    whole = Recording()
    link = _large_link(whole, megabytes)
    state_bytes, encoded_bytes = whole.session.state_bytes, link.payload.size
    whole.session.close()
    del whole

    async def run() -> tuple[float, float, float]:
        hub = Hub()
        await hub.turn("other")
        gc.collect()
        waits: list[float] = []
        ticking = asyncio.create_task(_tick(waits))
        with _peak() as peak:
            since = time.perf_counter()
            await hub.turn("bench", chain=(link,))
            ms = 1000 * (time.perf_counter() - since)
        ticking.cancel()
        return ms, 1000 * max(waits), peak[0]

    ms, wait_ms, peak = uvloop.run(run())
    return ms, wait_ms, state_bytes, encoded_bytes, peak


def _large_link(whole: Recording, megabytes: int) -> Link:
    """Fill a session's notes by SQL, which is quick, with text that compresses about as well as prose."""
    whole.link(items=1)
    _begin(whole.session)
    whole.session.state.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO note (topic, body) SELECT 't' || i, hex(randomblob(300)) || ? FROM n",
        (megabytes * 900, "x" * 400),
    )
    recorded = whole.session.finish(wants_digest=False, wants_snapshot=True)
    link = Link(whole._named(recorded), seal(recorded.kind, recorded.raw))  # noqa: SLF001  # its own part
    whole.session.set_pending(link.name)
    whole.session.commit()
    return link


async def _tick(waits: list[float]) -> None:
    while True:
        since = time.perf_counter()
        await asyncio.sleep(0.001)
        waits.append(time.perf_counter() - since - 0.001)


@contextlib.contextmanager
def _peak() -> Iterator[list[float]]:
    """Yield a list whose one number is, in the end, how much the process's memory grew at most."""
    peak, is_over, before = [0.0], threading.Event(), _resident("VmRSS")

    def watch() -> None:
        while not is_over.wait(0.002):
            peak[0] = max(peak[0], _resident("VmRSS") - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        is_over.set()
        watcher.join()


def measure(*, quick: bool) -> list[Table]:
    return [suite(quick=quick) for suite in (recording, opening, catching_up, memory, large)]
