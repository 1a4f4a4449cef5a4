"""The saver against LangGraph's own: the published contract, the same graphs on both, and what a turn adds."""

import asyncio
import copy
import operator
import sqlite3
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph, add_messages
from langgraph.types import Command, Overwrite, Send, interrupt

import satchel.testing
from satchel import Turn, Worker, current_turn
from satchel.adapters.langgraph import SatchelSaver
from satchel.client.model import Answer
from satchel.errors import HandlerError, StateMisused, TurnMisused

Graph = Any
"""A compiled graph, of whichever state."""
Step = Callable[[Graph, RunnableConfig], Awaitable[object]]


# --- the published contract ------------------------------------------------------------------


@checkpointer_test(name="SatchelSaver")
async def satchel_saver() -> AsyncIterator[SatchelSaver]:
    yield SatchelSaver()


async def test_langgraphs_conformance_suite_passes_in_every_capability():
    """Their contract, not our reading of it; and what it wrote is the same on a second copy."""
    reports = []

    async def check(_turn: Turn) -> None:
        reports.append(await validate(satchel_saver))

    async with satchel.testing.session(worker_of(check)) as session:
        await session.send("check")

    (report,) = reports
    assert {name for name, result in report.results.items() if result.detected} == {c.value for c in ALL_CAPABILITIES}
    assert [failure for result in report.results.values() for failure in result.failures] == []
    assert sum(result.tests_passed for result in report.results.values()) >= 80


# --- the same graphs on both -----------------------------------------------------------------


def chat(build: StateGraph[Any, Any, Any, Any], node: Callable[..., Any]) -> StateGraph[Any, Any, Any, Any]:
    return build.add_node("chat", node).add_edge(START, "chat")


def answer(state: Any) -> dict[str, Any]:
    count = len(state["messages"])
    return {"messages": [AIMessage(f"answer {count}", id=f"a{count}")]}


def messages_graph(saver: BaseCheckpointSaver[Any]) -> Graph:
    return chat(StateGraph(MessagesState), answer).compile(checkpointer=saver)


def add_all(left: Any, writes: Sequence[Any]) -> Any:
    for write in writes:
        left = add_messages(left, write)
    return left


class Delta(TypedDict):
    messages: Annotated[list[Any], DeltaChannel(add_all, snapshot_frequency=3)]


def delta_graph(saver: BaseCheckpointSaver[Any]) -> Graph:
    return chat(StateGraph(Delta), answer).compile(checkpointer=saver)


def subgraph_graph(saver: BaseCheckpointSaver[Any]) -> Graph:
    inner = chat(StateGraph(MessagesState), answer).compile()
    return chat(StateGraph(MessagesState), inner).compile(checkpointer=saver)


def lasting_subgraph_graph(saver: BaseCheckpointSaver[Any]) -> Graph:
    inner = chat(StateGraph(MessagesState), answer).compile(checkpointer=True)
    return chat(StateGraph(MessagesState), inner).compile(checkpointer=saver)


class Todo(TypedDict):
    todos: list[dict[str, Any]]
    notes: Annotated[list[str], operator.add]
    total: Annotated[int, operator.add]


def todo_graph(saver: BaseCheckpointSaver[Any]) -> Graph:
    """A list without a reducer, changed in place, beside equal texts and a number."""

    async def work(state: Todo) -> dict[str, Any]:
        state["todos"][-1]["done"] = True
        return {"todos": state["todos"], "notes": ["ok", "ok"], "total": 1}

    return chat(StateGraph(Todo), work).compile(checkpointer=saver)


class Fan(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    found: Annotated[list[str], operator.add]


def send_graph(saver: BaseCheckpointSaver[Any]) -> Graph:
    """Each task is sent the whole state, as LangGraph's own agent sends it to its tools."""

    def fan(state: Fan) -> list[Send]:
        return [Send("look", {"at": at, "state": {**state}}) for at in ("x", "y", "z")]

    def look(sent: dict[str, Any]) -> dict[str, Any]:
        return {"found": [f"{sent['at']}{len(sent['state']['messages'])}"]}

    build: Any = StateGraph(Fan).add_node("chat", answer).add_node("look", look)
    return build.add_edge(START, "chat").add_conditional_edges("chat", fan, ["look"]).compile(checkpointer=saver)


def asking_graph(saver: BaseCheckpointSaver[Any]) -> Graph:
    def ask(state: MessagesState) -> dict[str, Any]:
        said = [interrupt("first?"), interrupt("second?")]
        return {"messages": [AIMessage(f"{said}", id=f"a{len(state['messages'])}")]}

    return chat(StateGraph(MessagesState), ask).compile(checkpointer=saver)


def function_graph(saver: BaseCheckpointSaver[Any]) -> Graph:
    @entrypoint(checkpointer=saver)
    def turn(given: dict[str, Any], *, previous: Any = None) -> Any:
        past = (previous or {"messages": []})["messages"]
        messages = [*past, *given["messages"], AIMessage("answer", id=f"a{len(past)}")]
        return entrypoint.final(value={"count": len(messages)}, save={"messages": messages, "n": len(messages)})

    return turn


def say(index: int, **more: Any) -> Step:
    text = f"question {index}, which is long enough to be worth a reference"

    async def step(graph: Graph, config: RunnableConfig) -> object:
        return await graph.ainvoke({"messages": [HumanMessage(text, id=f"h{index}")]}, config, **more)

    return step


def invoke(given: Any) -> Step:
    async def step(graph: Graph, config: RunnableConfig) -> object:
        return await graph.ainvoke(copy.deepcopy(given), config, durability="sync")

    return step


def update(values: Any, **more: Any) -> Step:
    async def step(graph: Graph, config: RunnableConfig) -> object:
        return await graph.aupdate_state(config, values, **more)

    return step


def back(count: int, step: Step) -> Step:
    """Do *step* from the checkpoint *count* before the last: a fork."""

    async def fork(graph: Graph, config: RunnableConfig) -> object:
        history = [state async for state in graph.aget_state_history(config)]
        return await step(graph, history[count].config)

    return fork


REMOVALS = {"messages": [RemoveMessage(id="h1"), RemoveMessage(id="a1")]}
SCENARIOS: dict[str, tuple[Callable[[BaseCheckpointSaver[Any]], Graph], list[Step]]] = {
    "a conversation": (messages_graph, [say(n) for n in range(12)]),
    "a checkpoint per run": (messages_graph, [say(n, durability="exit") for n in range(6)]),
    "messages removed and replaced": (
        messages_graph,
        [
            *(say(n) for n in range(4)),
            update(REMOVALS),
            say(9),
            update({"messages": [HumanMessage("edited", id="h2")]}),
            say(10),
            update({"messages": Overwrite([HumanMessage("anew", id="h20")])}),
            say(11),
        ],
    ),
    "time travel": (
        messages_graph,
        [
            *(say(n) for n in range(4)),
            back(4, say(20)),
            say(21),
            back(3, update({"messages": [HumanMessage("other", id="h30")]})),
            say(22),
            back(6, invoke(None)),
            back(2, update(None, as_node="__copy__")),
            say(23),
        ],
    ),
    "a delta channel": (
        delta_graph,
        [
            *(say(n) for n in range(8)),
            update(REMOVALS),
            say(9, durability="exit"),
            back(5, say(20)),
            say(21),
            back(2, update({"messages": [HumanMessage("other", id="h30")]})),
            say(22),
            update({"messages": Overwrite([HumanMessage("anew", id="h40")])}),
            say(23),
        ],
    ),
    "a subgraph": (subgraph_graph, [*(say(n) for n in range(5)), back(2, say(20)), say(21)]),
    "a subgraph that remembers": (lasting_subgraph_graph, [*(say(n) for n in range(5)), say(21)]),
    "lists changed in place": (
        todo_graph,
        [
            invoke({"todos": [{"name": f"todo {n}, with a name of some length", "done": False} for n in range(9)]}),
            *(invoke({"notes": ["ok", f"note {n}"], "total": 0}) for n in range(4)),
            update({"todos": [{"name": "only this"}]}),
            invoke({"total": 1}),
        ],
    ),
    "the state sent to tasks": (send_graph, [*(say(n) for n in range(6)), back(2, say(20))]),
    "interrupts": (
        asking_graph,
        [
            say(0),
            invoke(Command(resume="one")),
            invoke(Command(resume="two")),
            say(1),
            invoke(Command(resume="three")),
            back(0, invoke(Command(resume="four"))),
            say(2, durability="exit"),
            invoke(Command(resume="five")),
        ],
    ),
    "functions": (function_graph, [say(n) for n in range(12)]),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_graph_does_on_both_savers_the_same(name: str):
    """Whatever LangGraph keeps in its own saver is here after any number of turns, each on another worker."""
    make, steps = SCENARIOS[name]
    theirs = make(InMemorySaver())
    ours = make(SatchelSaver())
    config: RunnableConfig = {"configurable": {"thread_id": "test"}}
    results: list[object] = []

    async def reply(turn: Turn) -> None:
        if turn.text == "look":
            results.append(await story(ours, config))
        else:
            results.append(plain(await steps[int(turn.text)](ours, config)))

    async with satchel.testing.session(worker_of(reply)) as session:
        for index, step in enumerate(steps):
            expected = plain(await step(theirs, config))
            await session.send(str(index))
            await session.restart()
            assert results[-1] == expected
        await session.send("look")

    assert results[-1] == await story(theirs, config)


async def story(graph: Graph, config: RunnableConfig) -> list[object]:
    """Return a thread's history without what differs from run to run: its IDs and times."""
    states = [state async for state in graph.aget_state_history(config)]
    ids = [state.config["configurable"]["checkpoint_id"] for state in states]
    return [
        (
            plain(state.values),
            state.next,
            [(task.name, plain(task.result), [each.value for each in task.interrupts]) for task in state.tasks],
            {key: value for key, value in (state.metadata or {}).items() if key in {"source", "step"}},
            ids.index(state.parent_config["configurable"]["checkpoint_id"]) if state.parent_config else None,
        )
        for state in states
    ]


def plain(value: Any) -> Any:
    """Return a result without the IDs of checkpoints in it."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if key not in {"checkpoint_id", "__interrupt__"}}
    return value


# --- what a turn adds ------------------------------------------------------------------------


def worker_of(handler: Callable[[Turn], Awaitable[object]]) -> Worker[Any]:
    worker = Worker("langgraph", history=False)

    @worker.on_message
    async def reply(turn: Turn) -> None:
        await handler(turn)

    return worker


async def run_in_turn(act: Callable[[Turn], Awaitable[object]]) -> None:
    """Run *act* in a turn that is committed, and compared with a second copy."""
    async with satchel.testing.session(worker_of(act)) as session:
        await session.send("act")


def received_bytes(answer: Answer) -> int:
    complete = answer.events[-1].complete
    assert complete is not None
    assert complete.turn is not None
    return complete.turn.received_bytes


class Lines(TypedDict):
    messages: Annotated[list[dict[str, str]], operator.add]


def lines_graph(saver: BaseCheckpointSaver[Any]) -> Graph:
    """A conversation as plain dicts, which are read faster than LangChain's messages."""

    def reply(state: Lines) -> Any:
        return {"messages": [{"role": "assistant", "content": line(len(state["messages"]))}]}

    return chat(StateGraph(Lines), reply).compile(checkpointer=saver)


def line(index: int) -> str:
    return f"I was shown {index:04} messages; an answer of an ordinary length."


THREAD: RunnableConfig = {"configurable": {"thread_id": "test"}}


@pytest.mark.timeout(600)  # a thousand turns, and each reads the whole conversation, as graphs do
async def test_a_turn_writes_its_own_messages_only(capsys: pytest.CaptureFixture[str]):
    """The point of the adapter: the thousandth turn costs what the tenth did, in bytes and in rows.

    Beside it what LangGraph's SqliteSaver writes in the same turn of the same graph: the bytes
    of the rows that one run adds to a thread of that length. Ours are given so, too: a delta is
    these rows compressed.
    """
    graph = lines_graph(SatchelSaver())

    async def reply(turn: Turn) -> None:
        given = {"messages": [{"role": "user", "content": turn.text}]}
        await graph.ainvoke(given, THREAD, durability="exit")

    async with satchel.testing.session(worker_of(reply)) as session:
        answers = [await session.send(f"message {count:04}") for count in range(1, 1001)]
        ours = session.state.execute(OUR_ROW_BYTES).scalar() // 1000
        state = session.state.execute("SELECT count(*) FROM langgraph_item").scalar()

    sizes = [received_bytes(answer) for answer in answers]
    turns = (10, 100, 1000)
    with capsys.disabled():
        print("\nbytes of a turn's delta:", {turn: sizes[turn - 1] for turn in turns})  # noqa: T201  # figures
        print(f"bytes of a turn's rows: {ours}; SqliteSaver:", {turn: sqlite_bytes(turn) for turn in turns})  # noqa: T201
    assert state == 2000
    assert all(
        answer.changed_rows
        == {"langgraph_checkpoint": (1, 0, 0), "langgraph_value": (1, 0, 0), "langgraph_item": (2, 0, 0)}
        for answer in answers[1:]
    )
    assert sum(sizes[-100:]) <= 1.05 * sum(sizes[50:150])


OUR_ROW_BYTES = """
SELECT (SELECT sum(length(checkpoint) + length(metadata) + 3 * 36) FROM langgraph_checkpoint)
+ (SELECT sum(length(value) + length(lists) + length(channel) + 36) FROM langgraph_value)
+ (SELECT sum(length(value)) FROM langgraph_item)
"""
THEIR_ROW_BYTES = """
SELECT (SELECT sum(length(checkpoint) + length(metadata) + 3 * 36) FROM checkpoints)
+ (SELECT ifnull(sum(length(value) + length(channel) + 3 * 36), 0) FROM writes)
"""


def sqlite_bytes(turn: int) -> int:
    """Return the bytes of the rows that SqliteSaver adds in the turn of that number."""
    with sqlite3.connect(":memory:", check_same_thread=False) as database:
        graph = lines_graph(SqliteSaver(database))
        before = [{"role": "user", "content": line(index)} for index in range(2 * turn - 3)]
        graph.invoke({"messages": before}, THREAD, durability="exit")
        ((had,),) = database.execute(THEIR_ROW_BYTES).fetchall()
        graph.invoke({"messages": [{"role": "user", "content": "message"}]}, THREAD, durability="exit")
        ((has,),) = database.execute(THEIR_ROW_BYTES).fetchall()
    database.close()
    return int(has - had)


class Plain(TypedDict):
    messages: list[Any]


def whole_list_graph(saver: BaseCheckpointSaver[Any]) -> Graph:
    """No reducer: the node returns the whole conversation, and so does its caller."""

    def reply(state: Plain) -> dict[str, Any]:
        count = len(state["messages"])
        return {"messages": [*state["messages"], AIMessage(line(count), id=f"a{count:06}")]}

    return chat(StateGraph(Plain), reply).compile(checkpointer=saver)


GROWING = {
    "messages": messages_graph,
    "a subgraph": subgraph_graph,
    "a subgraph that remembers": lasting_subgraph_graph,
    "the state sent to tasks": send_graph,
    "the whole list returned": whole_list_graph,
    "functions": function_graph,
}


@pytest.mark.parametrize("durability", ["async", "exit"])
@pytest.mark.parametrize("name", GROWING)
async def test_a_turn_of_a_long_conversation_writes_what_one_of_a_short_does(name: str, durability: Any):
    """A list is in the input, the writes, the sends, each step's checkpoint and the subgraph's: once in all."""
    graph = GROWING[name](SatchelSaver())

    async def reply(turn: Turn) -> None:
        count = 600 if turn.text == "long" else 1
        fresh: list[Any] = [HumanMessage(line(turn.version), id=f"{turn.version}.{n:06}") for n in range(count)]
        if graph_is_told_all(name):
            fresh = [*(await graph.aget_state(THREAD)).values.get("messages", []), *fresh]
        await graph.ainvoke({"messages": fresh}, THREAD, durability=durability)

    sizes = {}
    for length in ("short", "long"):
        async with satchel.testing.session(worker_of(reply)) as session:
            await session.send(length)
            await session.send("one")
            answers = [await session.send("one") for _ in range(4)]
        sizes[length] = sum(map(received_bytes, answers))

    assert sizes["long"] <= 1.1 * sizes["short"]


def graph_is_told_all(name: str) -> bool:
    return name == "the whole list returned"


async def test_a_delta_channel_is_flat_with_its_snapshots():
    """It writes the whole value every so many updates: here a snapshot stores what is new since the last."""
    graph = delta_graph(SatchelSaver())

    async def reply(turn: Turn) -> None:
        given = [HumanMessage(line(n), id=f"{turn.version}.{n:06}") for n in range(600 if turn.text == "long" else 1)]
        await graph.ainvoke({"messages": given}, THREAD)

    sizes = {}
    for length in ("short", "long"):
        async with satchel.testing.session(worker_of(reply)) as session:
            answers = [await session.send(length), *[await session.send("one") for _ in range(12)]]
        sizes[length] = sum(map(received_bytes, answers[-6:]))

    assert sizes["long"] <= 1.1 * sizes["short"]


# --- lists, item by item ---------------------------------------------------------------------

EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 3), st.integers(0, 5)),
        st.tuples(st.just("remove"), st.integers(0, 30), st.integers(0, 5)),
        st.tuples(st.just("replace"), st.integers(0, 30), st.integers(0, 5)),
        st.tuples(st.just("move"), st.integers(0, 30), st.integers(0, 30)),
        st.tuples(st.just("forget"), st.just(0), st.just(0)),
    ),
    max_size=30,
)
ITEMS = [
    "ok",
    "a text that is long enough to be worth a reference, which short ones are not",
    7,
    None,
    {"a": [1, 2]},
    {3},
]


def edited(items: list[Any], edit: tuple[str, int, int]) -> list[Any]:
    kind, first, second = edit
    at = first % len(items) if items else 0
    match kind:
        case "append":
            return [*items, *(ITEMS[(second + n) % len(ITEMS)] for n in range(first))]
        case "remove":
            return items[:at] + items[at + second :]
        case "replace" if items:
            return [*items[:at], ITEMS[second], *items[at + 1 :]]
        case "move" if items:
            rest = items[:at] + items[at + 1 :]
            return [*rest[:second], items[at], *rest[second:]]
    return items


async def test_every_version_of_a_list_is_read_back_as_it_was():
    """Whatever was done to it, in a turn that knows the last version or in one that has forgotten it."""

    @settings(max_examples=80, deadline=None)
    @given(EDITS)
    def check(edits: list[tuple[str, int, int]]) -> None:
        saver, turn = SatchelSaver(), current_turn()
        config: RunnableConfig = {"configurable": {"thread_id": uuid.uuid4().hex, "checkpoint_ns": ""}}
        stored: list[tuple[RunnableConfig, Any]] = []
        items: list[Any] = []
        for version, edit in enumerate(edits):
            if edit[0] == "forget":
                turn.state.execute("SAVEPOINT here; ROLLBACK TO here; RELEASE here")
            items = edited(items, edit)
            value = {
                "list": items,
                "in a dict": {"deep/~": [*items, *ITEMS, *ITEMS]},
                "sent": [Send("x", {"a": items})],
            }
            config = put(saver, config, value, version)
            saver.put_writes(config, [(channel, value[channel]) for channel in value], "task")
            stored.append((config, value))
        for named, expected in stored:
            found = saver.get_tuple(named)
            assert found is not None
            assert found.checkpoint["channel_values"] == expected
            assert {channel: each for _, channel, each in found.pending_writes or []} == expected
        saver.delete_thread(config["configurable"]["thread_id"])

    worker = Worker("lists")

    @worker.on_message
    def reply(turn: Turn) -> None:
        check()
        left = [turn.state.execute(f"SELECT count(*) FROM {table}").scalar() for table in TABLES]
        assert left == [0, 0, 0, 0, 0]

    async with satchel.testing.session(worker) as session:
        await session.send("check")


TABLES = ["langgraph_checkpoint", "langgraph_value", "langgraph_write", "langgraph_list", "langgraph_item"]


def put(saver: SatchelSaver, config: RunnableConfig, values: dict[str, Any], version: int) -> RunnableConfig:
    versions: dict[str, Any] = dict.fromkeys(values, version)
    return saver.put(
        config,
        {
            "v": 4,
            "id": str(uuid6()),
            "ts": "",
            "channel_values": values,
            "channel_versions": versions,
            "versions_seen": {},
            "updated_channels": None,
        },
        {"source": "loop", "step": version},
        versions,
    )


async def test_a_list_that_is_edited_in_the_middle_all_the_time_stays_in_few_runs():
    """Each edit leaves a seam; a list of nothing but seams would be written whole in every turn."""

    async def act(turn: Turn) -> None:
        saver = SatchelSaver()
        config: RunnableConfig = {"configurable": {"thread_id": "x", "checkpoint_ns": ""}}
        items: list[Any] = []
        for version in range(600):  # of three that come, the one in the middle goes again
            items = [*items[:-1], *items[len(items) :], f"first {version}", f"last {version}"]
            config = put(saver, config, {"list": items}, version)
        found = saver.get_tuple(config)
        assert found is not None
        assert found.checkpoint["channel_values"]["list"] == items
        longest = turn.state.execute("SELECT max(json_array_length(lists -> '$.\"\"')) FROM langgraph_value").scalar()
        copies = turn.state.execute("SELECT count(*) FROM langgraph_item").scalar() / 1200
        assert longest == 64
        assert copies < 4

    await run_in_turn(act)


async def test_a_rollback_to_a_savepoint_is_noticed():
    """What was stored after it is gone, and must not be referred to."""
    graph = messages_graph(SatchelSaver())

    async def act(turn: Turn) -> None:
        await say(0)(graph, THREAD)
        turn.state.execute("SAVEPOINT before")
        await say(1)(graph, THREAD)
        turn.state.execute("ROLLBACK TO before; RELEASE before")
        await say(1)(graph, THREAD)
        state = await graph.aget_state(THREAD)
        assert [message.id for message in state.values["messages"]] == ["h0", "a1", "h1", "a3"]

    await run_in_turn(act)


async def test_an_item_whose_row_is_gone_is_named():
    async def act(turn: Turn) -> None:
        config = put(SatchelSaver(), {"configurable": {"thread_id": "x", "checkpoint_ns": ""}}, {"list": ["a", "b"]}, 1)
        turn.state.execute("DELETE FROM langgraph_item WHERE position = 2")
        with pytest.raises(StateMisused, match="Item 2 of list 1 is not in langgraph_item"):
            SatchelSaver().get_tuple(config)

    await run_in_turn(act)


# --- threads, turns and deletion -------------------------------------------------------------


async def test_a_saver_is_one_for_all_sessions_and_is_of_none_outside_a_turn():
    """It is compiled into a module's graph: what it keeps is found by the turn, at each call."""
    graph = messages_graph(SatchelSaver())
    counts = []

    async def reply(_turn: Turn) -> None:
        await say(0)(graph, THREAD)
        counts.append(len((await graph.aget_state(THREAD)).values["messages"]))

    worker = worker_of(reply)
    for session_id in ("ada", "bob"):
        async with satchel.testing.session(worker, session_id=session_id) as session:
            await session.send("hello")

    assert counts == [2, 2]
    with pytest.raises(TurnMisused):
        await graph.aget_state(THREAD)


async def test_a_thread_without_a_name_is_the_sessions():
    """The session is the conversation; other threads in it are kept apart."""
    graph = messages_graph(SatchelSaver())

    async def act(turn: Turn) -> None:
        await say(0)(graph, {"configurable": {"checkpoint_ns": ""}})
        other: RunnableConfig = {"configurable": {"thread_id": "other"}}
        named: RunnableConfig = {"configurable": {"thread_id": turn.session_id}}
        assert len((await graph.aget_state(named)).values["messages"]) == 2
        assert (await graph.aget_state(other)).values == {}
        assert [each.config["configurable"]["thread_id"] async for each in SatchelSaver().alist(None)] == ["test"] * 3
        threads = turn.state.execute("SELECT DISTINCT thread_id FROM langgraph_checkpoint").scalar()
        assert threads == ""  # a copy of the session has another ID, and the same conversation

    await run_in_turn(act)


async def test_the_last_checkpoint_is_the_last_put_whatever_the_clocks_say():
    """An ID is a time. The next turn's worker may have a clock that is behind."""

    async def act(_turn: Turn) -> None:
        saver = SatchelSaver()
        ids = ["1f0c0000-0000-6000-8000-000000000002", "1f0c0000-0000-6000-8000-000000000001"]
        config: RunnableConfig = {"configurable": {"thread_id": "x", "checkpoint_ns": ""}}
        for checkpoint_id in ids:
            config = saver.put(config, {**empty_checkpoint(), "id": checkpoint_id}, {"step": 1}, {})
        thread: RunnableConfig = {"configurable": {"thread_id": "x", "checkpoint_ns": ""}}
        found = saver.get_tuple(thread)
        assert found is not None
        assert found.checkpoint["id"] == ids[1]
        assert [each.checkpoint["id"] for each in saver.list(thread, before=config)] == [ids[0]]

    await run_in_turn(act)


async def test_a_plain_handlers_graph_saves_from_its_threads():
    """`invoke` runs nodes and saves in threads of its own, several at once, and nodes use the state, too."""
    worker = Worker("plain", schema="CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;")

    def look(sent: dict[str, Any]) -> dict[str, Any]:
        current_turn().state.execute("INSERT INTO note (text) VALUES (?)", (sent["at"],))
        return {"found": [sent["at"]]}

    build: Any = StateGraph(Fan).add_node("look", look)
    names = [f"{n:02}" for n in range(20)]
    build.add_conditional_edges(START, lambda _: [Send("look", {"at": name}) for name in names], ["look"])
    graph = build.compile(checkpointer=SatchelSaver())

    @worker.on_message
    def reply(_turn: Turn) -> str:
        return ",".join(graph.invoke({"messages": []}, THREAD)["found"])

    async with satchel.testing.session(worker) as session:
        answer = await session.send("go")

        assert answer.text == ",".join(names)
        assert session.state.execute("SELECT count(*) FROM note").scalar() == 20


async def test_a_copied_thread_shares_items_and_outlives_what_it_came_from():
    """Copying costs no item; deleting the source leaves what the copy still uses."""
    graph = messages_graph(SatchelSaver())
    copied: RunnableConfig = {"configurable": {"thread_id": "copy"}}

    async def act(turn: Turn) -> None:
        for index in range(4):
            await say(index)(graph, THREAD)
        items = turn.state.execute("SELECT count(*) FROM langgraph_item").scalar()
        before = await story(graph, THREAD)
        await SatchelSaver().acopy_thread("test", "copy")
        assert turn.state.execute("SELECT count(*) FROM langgraph_item").scalar() == items

        await SatchelSaver().adelete_thread("test")
        assert await story(graph, THREAD) == []
        assert await story(graph, copied) == before
        await say(4)(graph, copied)
        assert len((await graph.aget_state(copied)).values["messages"]) == 10

    await run_in_turn(act)


async def test_pruning_leaves_the_conversation_and_its_rows_alone():
    """What no kept checkpoint uses goes, items included; the conversation goes on."""
    graph = messages_graph(SatchelSaver())

    async def act(turn: Turn) -> None:
        for index in range(4):
            await say(index)(graph, THREAD)
        await update(REMOVALS)(graph, THREAD)
        await SatchelSaver().aprune(["test"])
        counts = [turn.state.execute(f"SELECT count(*) FROM {table}").scalar() for table in TABLES]
        assert counts == [1, 1, 0, 1, 6]
        await say(4)(graph, THREAD)
        ids = [message.id for message in (await graph.aget_state(THREAD)).values["messages"]]
        assert ids == ["h0", "a3", "h2", "a5", "h3", "a7", "h4"]
        with pytest.raises(StateMisused, match="keep_newest"):
            await SatchelSaver().aprune(["test"], strategy="keep_newest")

    await run_in_turn(act)


async def test_pruning_leaves_what_only_an_item_refers_to():
    """A task that was sent the state is an item, and what it was sent are items of another list."""
    texts = [line(index) for index in range(9)]

    async def act(_turn: Turn) -> None:
        saver = SatchelSaver()
        first = put(saver, {"configurable": {"thread_id": "x", "checkpoint_ns": ""}}, {"list": texts}, 1)
        sent = {"list": ["other"], "sent": [Send("look", {"state": {"list": texts}})]}
        second = put(saver, first, sent, 2)
        await saver.aprune(["x"])
        found = saver.get_tuple(second)
        assert found is not None
        assert found.checkpoint["channel_values"] == sent
        assert saver.get_tuple(first) is None

    await run_in_turn(act)


async def test_what_a_delta_channel_is_rebuilt_from_is_not_deleted_under_it():
    """LangGraph warns that a saver may corrupt such a channel silently."""
    graph = delta_graph(SatchelSaver())
    runs = [str(uuid.uuid4()) for _ in range(5)]

    async def act(_turn: Turn) -> None:
        for index, run_id in enumerate(runs):
            given = {"messages": [HumanMessage("hello", id=f"h{index}")]}
            await graph.ainvoke(given, {**THREAD, "run_id": uuid.UUID(run_id), "metadata": {"run_id": run_id}})
        with pytest.raises(StateMisused, match="delta channel"):
            await SatchelSaver().adelete_for_runs([runs[3]])
        await SatchelSaver().adelete_for_runs([runs[4]])
        whole = (await graph.aget_state(THREAD)).values
        assert len(whole["messages"]) == 8

        await SatchelSaver().aprune(["test"])
        assert (await graph.aget_state(THREAD)).values == whole
        assert 1 < len([state async for state in graph.aget_state_history(THREAD)]) < 8

    await run_in_turn(act)


async def test_a_failed_turn_leaves_no_checkpoint():
    """All or nothing: the graph goes on from the last committed turn."""
    graph = messages_graph(SatchelSaver())

    async def reply(turn: Turn) -> None:
        await say(turn.version)(graph, THREAD)
        if turn.text == "fail":
            raise ValueError(turn.text)

    async with satchel.testing.session(worker_of(reply)) as session:
        await session.send("hello")
        with pytest.raises(HandlerError):
            await session.send("fail")

        assert session.state.execute("SELECT count(*) FROM langgraph_item").scalar() == 2


async def test_a_missing_framework_is_named_with_its_extra():
    """An ImportError from deep inside says nothing of what to install."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys; sys.modules['langgraph.types'] = None; import satchel.adapters.langgraph",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await child.communicate()

    assert b"pip install 'satchel[langgraph]'" in errors.splitlines()[-1]
