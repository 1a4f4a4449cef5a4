"""The peers that the developers' environment has: each keeps its conversation, and what Satchel stores beside them."""

import ast
import itertools
import json
import pathlib
import statistics
import sys
from collections.abc import Callable

import pytest
import zstandard

from benchmarks.peers.child import Child
from benchmarks.peers.conversation import as_json, conversation, opening
from benchmarks.peers.full_state import FullState
from benchmarks.peers.langgraph import LangGraphSqlite, LangGraphSqliteDelta
from benchmarks.peers.openai_agents import OpenAIAgents, OpenAIAgentsBounded
from benchmarks.peers.peer import Peer
from benchmarks.peers.running import Running
from benchmarks.peers.satchel_state import SatchelState
from benchmarks.peers.suite import KINDS, STATE, Found, Kind, beside, table

LOCAL = (SatchelState, OpenAIAgents, OpenAIAgentsBounded, LangGraphSqlite, LangGraphSqliteDelta, FullState)
FOLDER = pathlib.Path(conversation.__code__.co_filename).parent
PAIRS = 12
"""Of turns: databases grow by the page, so bytes are a mean."""


def test_a_conversation_has_turns_of_two_and_four_items_of_a_kilobyte_that_compress_as_prose_does():
    turns = list(itertools.islice(conversation(1), 80))
    assert [[item.kind for item in turn] for turn in turns[:2]] == [
        ["user", "assistant"],
        ["user", "call", "output", "assistant"],
    ]
    assert turns == list(itertools.islice(conversation(1), 80))
    assert turns != list(itertools.islice(conversation(2), 80))
    items = [json.dumps(as_json(item, "msg_000001")).encode() for turn in turns for item in turn]
    assert 950 < statistics.mean(map(len, items)) < 1050
    prose = b"\n".join(items[:200])
    assert 3.1 < len(prose) / len(zstandard.ZstdCompressor(level=3).compress(prose)) < 3.5


@pytest.mark.parametrize("items", [10, 1_000])
@pytest.mark.parametrize("kind", LOCAL, ids=lambda kind: kind.__name__)
async def test_a_peer_finds_all_that_it_was_told_when_it_reads_it_cold(
    tmp_path: pathlib.Path, kind: Callable[[pathlib.Path], Peer], items: int
):
    peer = kind(tmp_path)
    await peer.open()
    child = Child(peer)
    await child.fill(seed=1, items=7)
    await child.pair()
    await child.fill(seed=2, items=items)
    cost = await child.pair()
    found = await child.cold()
    await peer.close()
    assert found["items"] == len(opening(conversation(2), items)) + 6
    assert cost["cpu_s"] > 0
    assert cost["written_bytes"] > 0


async def stored_a_turn(folder: pathlib.Path, kind: Callable[[pathlib.Path], Peer], pairs: int) -> float:
    """Return the bytes that a turn stores in a conversation of 1,000 items."""
    folder.mkdir()
    peer = kind(folder)
    await peer.open()
    child = Child(peer)
    await child.fill(seed=1, items=1_000)
    before = peer.stored_bytes()
    for _ in range(pairs):
        await child.pair()
    grown = peer.stored_bytes() - before
    await peer.close()
    return grown / (2 * pairs)


async def test_a_turn_stores_little_more_than_with_the_peer_that_stores_least(tmp_path: pathlib.Path):
    """It stores the items once and no events; how much more is left is in docs/explanation/performance.md."""
    ours, theirs = [await stored_a_turn(tmp_path / kind.__name__, kind, PAIRS) for kind in (SatchelState, OpenAIAgents)]
    assert ours <= 1.5 * theirs


async def test_a_turn_stores_a_tenth_of_what_it_does_with_langgraph(tmp_path: pathlib.Path):
    ours = await stored_a_turn(tmp_path / "satchel", SatchelState, PAIRS)
    theirs = await stored_a_turn(tmp_path / "default", LangGraphSqlite, pairs=2)
    deltas = await stored_a_turn(tmp_path / "delta", LangGraphSqliteDelta, PAIRS)
    assert 10 * ours <= theirs
    assert ours <= deltas


def test_a_process_of_its_own_does_what_it_is_asked(tmp_path: pathlib.Path):
    peer = Running("full_state:FullState", sys.executable, tmp_path / "peer", ())
    try:
        peer.ready()
        peer.fill(1, 10)
        before = peer.stored_bytes()
        assert peer.pair()["wire_bytes"] > 2_000
        assert peer.stored_bytes() > before
        assert peer.cold()["items"] == 18
    finally:
        peer.stop()


def test_a_process_that_fails_says_why(tmp_path: pathlib.Path):
    peer = Running("full_state:Absent", sys.executable, tmp_path / "peer", ())
    with pytest.raises(RuntimeError, match="has no attribute 'Absent'"):
        peer.ready()
    peer.stop()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_row_names_a_class(kind: Kind):
    module, _, name = kind.peer.partition(":")
    tree = ast.parse((FOLDER / f"{module}.py").read_text())  # what it imports may not be installed here
    assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def found(wall_s: float, stored_bytes: int) -> Found:
    cost = dict.fromkeys(("cpu_s", "arrive_wall_s", "arrive_cpu_s", "written_bytes", "wire_bytes"), 0.001)
    return Found(
        pairs=[{**cost, "wall_s": wall_s}],
        colds=[{"wall_s": 0.1, "cpu_s": 0.1}],
        grown_bytes=2 * stored_bytes,
    )


def test_the_fastest_peer_is_one_that_reads_the_whole_history_as_it_comes():
    costs = {kind: found(0.1, 50_000) for kind in KINDS}
    costs[STATE] = found(0.001, 3_000)
    fast, bounded = (named(name) for name in ("OpenAI Agents SQLiteSession", "OpenAI Agents SQLiteSession, limit 20"))
    costs[fast], costs[bounded] = found(0.006, 4_000), found(0.001, 1)
    made = table({1_000: costs})
    assert [line.value for line in made.reach] == pytest.approx([6, 1, 0.75, 50_000 / 3_000])
    assert [line.is_reached for line in made.reach] == [False, False, True, True]
    assert [row["peer"] for row in made.rows[:2]] == [STATE.name, bounded.name]


def test_a_summary_has_a_row_for_each_peer_in_units_of_satchel():
    short, long = ({kind: found(seconds, 6_000) for kind in KINDS} for seconds in (0.002, 0.2))
    short[STATE], long[STATE] = found(0.001, 3_000), found(0.001, 3_000)
    rows = beside({10: short, 10_000: long}).rows
    assert rows[0] == {
        "peer": STATE.name,
        "time, 10 items": 1,
        "time, 10,000 items": 1,
        "stored, 10 items": 1,
        "stored, 10,000 items": 1,
    }
    assert [row["time, 10,000 items"] for row in rows[1:]] == pytest.approx([200] * (len(KINDS) - 1))
    assert [row["stored, 10 items"] for row in rows[1:]] == [2] * (len(KINDS) - 1)


def named(name: str) -> Kind:
    (kind,) = [kind for kind in KINDS if kind.name == name]
    return kind
