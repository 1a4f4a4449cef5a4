"""A handler's tools may run in threads, as frameworks run plain functions: each use is whole, and none comes late."""

import asyncio
import threading

import pytest

import satchel
import satchel.testing
from satchel import Turn, Worker
from satchel.errors import StateMisused

THREADS = 4
USES = 200

SCHEMA = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;"


async def test_tools_in_threads_use_the_state_at_once():
    """A framework runs the plain functions of one response side by side; SQLite takes one at a time."""
    worker = Worker("threads", schema=SCHEMA)

    def tool(name: str, turn: Turn, begin: threading.Barrier) -> None:
        begin.wait()
        for count in range(1, USES + 1):
            turn.state.execute("INSERT INTO note (text) VALUES (?)", (name,))
            turn.state[name] = turn.state.get(name, 0) + 1
            assert turn.state[name] == count
            assert turn.history[-1].id == turn.message_id

    @worker.on_message
    async def reply(turn: Turn) -> None:
        begin = threading.Barrier(THREADS)
        await asyncio.gather(*(asyncio.to_thread(tool, f"tool {n}", turn, begin) for n in range(THREADS)))

    async with satchel.testing.session(worker) as session:
        answer = await session.send("go")

        assert answer.changed_rows == {"note": (THREADS * USES, 0, 0)}
        assert {name: session.state[name] for name in session.state} == {f"tool {n}": USES for n in range(THREADS)}


async def test_what_is_refused_is_refused_in_threads():
    """The fence is down for our own statements: another thread's must not slip through meanwhile."""
    worker = Worker("threads", schema=SCHEMA)
    refused: list[StateMisused] = []

    def commit(turn: Turn, begin: threading.Barrier) -> None:
        begin.wait()
        for _ in range(USES):
            with pytest.raises(StateMisused) as caught:
                turn.state.execute("COMMIT")
            refused.append(caught.value)

    def read(turn: Turn, begin: threading.Barrier) -> None:
        begin.wait()
        for _ in range(USES):
            assert len(turn.state) == 0

    @worker.on_message
    async def reply(turn: Turn) -> None:
        begin = threading.Barrier(2)
        await asyncio.gather(asyncio.to_thread(commit, turn, begin), asyncio.to_thread(read, turn, begin))

    async with satchel.testing.session(worker) as session:
        await session.send("go")

    assert len(refused) == USES


@pytest.mark.parametrize("fails", [False, True])
async def test_a_tools_thread_that_outlives_its_handler_is_refused(*, fails: bool):
    """Its rows are in the turn or nowhere, and the session goes on; the testing session compares with a second copy."""
    worker = Worker("threads", schema=SCHEMA)
    ended: list[Exception] = []
    threads: list[threading.Thread] = []

    def tool(turn: Turn, begun: threading.Event) -> None:
        try:
            while True:
                turn.state.execute("INSERT INTO note (text) VALUES ('late')")
                begun.set()
        except Exception as error:  # noqa: BLE001  # whatever ends it is compared below
            ended.append(error)

    @worker.on_message
    async def reply(turn: Turn) -> None:
        if turn.text == "go on":
            return
        begun = threading.Event()
        threads.append(threading.Thread(target=tool, args=(turn, begun)))
        threads[0].start()
        await asyncio.to_thread(begun.wait)
        if fails:
            raise satchel.TurnRefused("no")

    async with satchel.testing.session(worker) as session:
        try:
            await session.send("go")
        except satchel.TurnRefused:
            assert fails
        threads[0].join()
        answer = await session.send("go on")

        assert answer.version == (1 if fails else 2)
    assert [type(error) for error in ended] == [StateMisused]
