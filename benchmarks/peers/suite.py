"""The same conversation through Satchel and through what people use today.

Each peer is a process of its own. A round is a block of turns of each peer, in pairs, one
of 2 items and one of 4, in an order that changes; while one works the others wait. Compared
are medians of pairs. Linux: it reads clocks, files and sockets from ``/proc``.
"""

import contextlib
import dataclasses
import pathlib
import random
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from benchmarks.peers.running import Running, environment, postgres
from benchmarks.processes import scratch
from benchmarks.tables import Cell, Reach, Table

GROUP: Final = "bench-peers"
ADK_GROUP: Final = "bench-adk"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A row of each size."""

    name: str
    peer: str
    """``module:Class`` in this package."""
    group: str = ""
    """The dependency group with what it needs; empty: what runs this has it."""
    is_served: bool = False
    """It needs a PostgreSQL server."""
    is_compared: bool = True
    """It may be the fastest peer: a product as it comes, whose model is given the whole conversation."""


STATE: Final = Kind("Satchel, state work", "satchel_state:SatchelState", is_compared=False)
DEFAULT: Final = Kind("LangGraph SqliteSaver", "langgraph:LangGraphSqlite", GROUP)
KINDS: Final = (
    STATE,
    Kind("Satchel, whole turn over HTTP", "satchel_turn:SatchelTurn", is_compared=False),
    Kind("OpenAI Agents SQLiteSession", "openai_agents:OpenAIAgents", GROUP),
    Kind("OpenAI Agents SQLiteSession, limit 20", "openai_agents:OpenAIAgentsBounded", GROUP, is_compared=False),
    Kind(
        "OpenAI Agents SQLAlchemySession, PostgreSQL",
        "openai_agents_postgres:OpenAIPostgres",
        GROUP,
        is_served=True,
    ),
    DEFAULT,
    Kind("LangGraph SqliteSaver, delta channel", "langgraph:LangGraphSqliteDelta", GROUP),
    Kind("LangGraph PostgresSaver", "langgraph_postgres:LangGraphPostgres", GROUP, is_served=True),
    Kind("LangGraph PostgresSaver, delta channel", "langgraph_postgres:LangGraphPostgresDelta", GROUP, is_served=True),
    Kind("Google ADK SqliteSessionService", "google_adk:AdkSqlite", ADK_GROUP),
    Kind("Google ADK DatabaseSessionService, SQLite", "google_adk:AdkDatabase", ADK_GROUP),
    Kind("full state shipped", "full_state:FullState", is_compared=False),
)
WITH_MESSAGE: Final = "Satchel, state work and message"
"""The state work, and before it the durable write of the user's message, and the making of what the turn says."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a size is measured: in *conversations* of their own, so that a short one stays short."""

    items: int
    conversations: int
    rounds: int
    """In each conversation."""
    colds: int


PLANS: Final = (Plan(10, 6, 1, 3), Plan(100, 2, 3, 3), Plan(1_000, 1, 8, 3), Plan(10_000, 1, 5, 1))
QUICK: Final = (Plan(10, 1, 1, 1), Plan(1_000, 1, 1, 1))

BLOCK: Final = 3
CHEAP_S: Final = 0.1
"""A round has a block of ``BLOCK`` pairs of turns of each peer, or one pair where a turn takes longer than this."""

STEADY: Final = 24
STEADY_ITEMS: Final = 1_000
"""A peer whose turn is cheap runs so many more pairs of turns, in a conversation that is so long already, for what
it stores in the mean: databases grow by the page."""


@dataclasses.dataclass
class Found:
    """What was read of one peer at one size."""

    pairs: list[dict[str, float]] = dataclasses.field(default_factory=list)
    colds: list[dict[str, float]] = dataclasses.field(default_factory=list)
    steady_pairs: int = 0
    grown_bytes: int = 0

    def middle(self, name: str) -> float:
        return statistics.median(pair[name] for pair in self.pairs)

    def cold(self, name: str) -> float:
        return statistics.median(cold[name] for cold in self.colds)

    @property
    def stored_bytes(self) -> float:
        return self.grown_bytes / (2 * (len(self.pairs) + self.steady_pairs))


def measure(*, quick: bool) -> list[Table]:
    """Measure every peer; *quick*: only those that the developers' environment has, a few turns."""
    kinds = [kind for kind in KINDS if not kind.is_served and kind.group != ADK_GROUP] if quick else KINDS
    with scratch() as folder:
        pythons = {kind.group: sys.executable for kind in kinds} if quick else environments(kinds, folder)
        with running(folder, kinds, pythons) as peers:
            found = {plan.items: measured(plan, peers) for plan in (QUICK if quick else PLANS)}
    return [table(found), beside(found)]


def environments(kinds: Sequence[Kind], folder: pathlib.Path) -> dict[str, str]:
    """Install every group that *kinds* need in *folder*; return each group's Python."""
    groups = sorted({kind.group for kind in kinds} - {""})
    return {"": sys.executable, **{group: environment(group, folder / group) for group in groups}}


@contextlib.contextmanager
def running(folder: pathlib.Path, kinds: Sequence[Kind], pythons: Mapping[str, str]) -> Iterator[dict[Kind, Running]]:
    """Run a process for each of *kinds*, by its group's Python, on files in *folder* while the body runs."""
    folder.chmod(0o755)  # PostgreSQL may have to run as another user
    peers: dict[Kind, Running] = {}
    with contextlib.ExitStack() as stack:
        server: tuple[str, ...] = ()
        if any(kind.is_served for kind in kinds):
            server = stack.enter_context(postgres(pythons[GROUP], folder / "postgres"))
        for number, kind in enumerate(kinds):
            peer = Running(kind.peer, pythons[kind.group], folder / f"peer-{number}", server if kind.is_served else ())
            stack.callback(peer.stop)
            peers[kind] = peer
        for peer in peers.values():
            peer.ready()
        yield peers


def measured(plan: Plan, peers: Mapping[Kind, Running]) -> dict[Kind, Found]:
    """Measure every peer at one size, in turn."""
    print(f"… peers, {plan.items:,} items", file=sys.stderr, flush=True)
    found = {kind: Found() for kind in peers}
    shuffled = random.Random(plan.items)
    for number in range(plan.conversations):
        for kind, peer in peers.items():
            peer.fill(plan.items + number, plan.items)
            found[kind].grown_bytes -= peer.stored_bytes()
        for _ in range(plan.rounds):
            # No peer always comes after the same one, whose writes the disk may still be busy with.
            for kind in shuffled.sample([*peers], len(peers)):
                found[kind].pairs += _block(peers[kind], BLOCK)
        for kind, peer in peers.items():
            if plan.items >= STEADY_ITEMS:
                found[kind].steady_pairs += len(_block(peer, STEADY))
            found[kind].grown_bytes += peer.stored_bytes()
    for _ in range(plan.colds):
        for kind, peer in peers.items():
            found[kind].colds.append(peer.cold())
    return found


def _block(peer: Running, pairs: int) -> list[dict[str, float]]:
    """Run *pairs* pairs of turns, or one if it is not cheap; return what each cost."""
    costs = [peer.pair()]
    while len(costs) < pairs and costs[0]["wall_s"] < CHEAP_S:
        costs.append(peer.pair())
    return costs


TIMES_FASTER: Final = {1_000: 8, 10_000: 50}
"""What is to be reached at a size beside the fastest peer, in time and in processor time."""

COLUMNS: Final = (
    "items",
    "peer",
    "wall ms",
    "wall / Satchel",
    "CPU ms",
    "CPU / Satchel",
    "stored bytes",
    "written bytes",
    "wire bytes",
    "cold ms",
    "cold CPU ms",
)
NOTES: Final = """\
A turn has 3 items of about 1 KB in the mean: the user's message, the answer, in every second turn a tool call and its
output. Times are medians of pairs of turns, one of each kind, a turn's share. CPU is that of every process that works
for the peer, PostgreSQL's too. Stored is what the databases grow by. Written is what is given to write(2), and of
PostgreSQL its WAL. Wire is what crosses the sockets between what runs a turn and what keeps it, both ways. Cold:
something that has none of the history in memory reads all of it.

Satchel's state work is a turn recorded and committed durably (fsync) in one process, whose handler reads the last 20
items; "and message" has the durable write of the user's message before it, and the making of items and events. The
whole turn is over HTTP, with a hub and a worker, without its caller's CPU. In what Satchel stores are the message, the
answer and the turn's events, to be read again by themselves.

The others are used as their documentation says, and read all of the history for their model. LangGraph: one invoke of
a graph with one node, durability "async". OpenAI Agents: get_items, then add_items for the message, for a tool call
with its output, for the answer, as the Runner does; with limit 20 it reads the last 20 items, and is not in the
comparison. Google ADK: get_session, then append_event for each item, as the Runner does. All have committed when the
turn ends. SQLite syncs every commit here, through a WAL; through a rollback journal for Google ADK. PostgreSQL has
fsync on. Full state shipped: the whole state to a worker and back, as JSON under zstd-3, and one row of it a turn.
Conversations are filled by one call; those of Google ADK by rows in SQL."""


def table(found: Mapping[int, Mapping[Kind, Found]]) -> Table:
    """Return what was found, by size, the quickest first."""
    rows: list[dict[str, Cell]] = []
    for items, kinds in found.items():
        unit = kinds[STATE]
        some = [_row(items, kind.name, each, unit) for kind, each in kinds.items()]
        some.append(_row_with_message(items, unit))
        rows += sorted(some, key=lambda row: float(row["wall ms"] or 0))
    return Table(
        name="peers",
        title="The state work of a turn, beside what people use today",
        columns=COLUMNS,
        rows=rows,
        notes=NOTES,
        reach=tuple(line for items in TIMES_FASTER if items in found for line in _reach(items, found[items])),
    )


def beside(found: Mapping[int, Mapping[Kind, Found]]) -> Table:
    """Return the ratios alone: a row for each peer, a column for each size, the quickest first."""
    longest = max(found)
    times = {items: f"time, {items:,} items" for items in found}
    stored = {items: f"stored, {items:,} items" for items in found}
    rows: list[dict[str, Cell]] = []
    for kind in sorted(found[longest], key=lambda kind: found[longest][kind].middle("wall_s")):
        row: dict[str, Cell] = {"peer": kind.name}
        for items, kinds in found.items():
            row[times[items]] = kinds[kind].middle("wall_s") / kinds[STATE].middle("wall_s")
            row[stored[items]] = kinds[kind].stored_bytes / kinds[STATE].stored_bytes
        rows.append(row)
    return Table(
        name="peers-beside",
        title="A turn's time and its bytes at rest, in units of Satchel's state work",
        columns=("peer", *times.values(), *stored.values()),
        rows=rows,
        notes="Of the run that the table of all measurements is of.",
    )


def _row(items: int, name: str, found: Found, unit: Found) -> dict[str, Cell]:
    return {
        "items": items,
        "peer": name,
        "wall ms": 1000 * found.middle("wall_s"),
        "wall / Satchel": found.middle("wall_s") / unit.middle("wall_s"),
        "CPU ms": 1000 * found.middle("cpu_s"),
        "CPU / Satchel": found.middle("cpu_s") / unit.middle("cpu_s"),
        "stored bytes": round(found.stored_bytes),
        "written bytes": round(found.middle("written_bytes")),
        "wire bytes": round(found.middle("wire_bytes")),
        "cold ms": 1000 * found.cold("wall_s"),
        "cold CPU ms": 1000 * found.cold("cpu_s"),
    }


def _row_with_message(items: int, state: Found) -> dict[str, Cell]:
    pairs = [
        {**pair, "wall_s": pair["wall_s"] + pair["arrive_wall_s"], "cpu_s": pair["cpu_s"] + pair["arrive_cpu_s"]}
        for pair in state.pairs
    ]
    return _row(items, WITH_MESSAGE, dataclasses.replace(state, pairs=pairs), state)


def _reach(items: int, kinds: Mapping[Kind, Found]) -> Iterator[Reach]:
    state = kinds[STATE]
    compared = {kind: each for kind, each in kinds.items() if kind.is_compared}
    fastest = min(compared, key=lambda kind: compared[kind].middle("wall_s"))
    for what, column in (("state work", "wall_s"), ("state work, CPU", "cpu_s")):
        yield Reach(
            f"{what}, {items:,} items",
            f"the fastest peer's ({fastest.name}), times ours",
            compared[fastest].middle(column) / state.middle(column),
            TIMES_FASTER[items],
            at_least=True,
        )
    yield Reach(
        f"stored a turn, {items:,} items",
        f"times the fastest peer's ({fastest.name})",
        state.stored_bytes / compared[fastest].stored_bytes,
        1,
    )
    yield Reach(
        f"stored a turn beside LangGraph's default, {items:,} items",
        "its bytes, times ours",
        compared[DEFAULT].stored_bytes / state.stored_bytes,
        10,
        at_least=True,
    )
