"""A streaming response: what is there goes out in one chunk, and silence is broken."""

import asyncio
import contextlib
from typing import Any

import pytest

from satchel.clock import Clock
from satchel.hub import response as response_module
from satchel.hub.burst import EXTENSION, Burst
from satchel.hub.response import EventStream
from satchel.hub.stream import TurnStream
from tests.unit.hub.test_stream import DONE, said, turn


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch):
    monkeypatch.setattr(response_module, "WATCH_AFTER_S", 0)


@pytest.fixture(autouse=True, params=["by its task", "in a burst"])
def _way(request, monkeypatch):
    """How a server lets us write makes no difference to what is written."""
    monkeypatch.setattr(Caller, "is_channel", request.param == "in a burst")


class Caller:
    """The server's end of one response: what the app sent, and when the caller leaves."""

    is_channel = False

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.is_whole = False
        self.leaves = asyncio.Event()
        self.has_room = asyncio.Event()
        self.has_room.set()
        self._heard = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            assert not self.is_whole, "the response was over"
            await self.has_room.wait()
            self.chunks.append(message["body"])
            self.is_whole = not message["more_body"]
            self._heard.set()

    @property
    def scope(self) -> dict[str, Any]:
        return {"extensions": {EXTENSION: self}} if self.is_channel else {}

    @property
    def is_free(self) -> bool:
        return self.has_room.is_set() and not self.leaves.is_set()

    def chunk(self, body: bytes) -> bytes:
        return body

    def write(self, chunk: bytes) -> None:
        assert not self.is_whole, "the response was over"
        self.chunks.append(chunk)
        self._heard.set()

    async def hears(self, chunks: int) -> None:
        """Wait until so many chunks have come."""
        while len(self.chunks) < chunks:
            self._heard.clear()
            await self._heard.wait()


@contextlib.asynccontextmanager
async def answered(stream: TurnStream, caller: Caller, *, is_sse: bool = False, keep_alive_s: float = 100):
    """Answer *caller* from *stream* while the body runs, and to its end."""
    response = EventStream(stream, is_sse=is_sse, keep_alive_s=keep_alive_s, burst=Burst())
    task = asyncio.create_task(response(caller.scope, caller.receive, caller.send))
    yield task
    async with asyncio.timeout(10):
        await task


async def test_lines_that_meet_are_one_chunk_and_the_last_closes_the_response():
    """A chunk costs a system call here, and a wake-up at the caller."""
    stream, caller = TurnStream(turn(starts=1), clock=Clock()), Caller()

    async with answered(stream, caller):
        await caller.hears(1)
        stream.add_pieces(1, "i", ("a", "b"))
        stream.add(3, said("ab"))
        await caller.hears(2)
        stream.finish(DONE)

    assert [chunk.count(b"\n") for chunk in caller.chunks] == [1, 3, 1]
    assert caller.is_whole
    assert not stream._readers


async def test_a_slow_caller_gets_what_came_meanwhile_in_one_chunk():
    """Nothing waits for it beyond what the turn keeps anyway."""
    stream, caller = TurnStream(turn(starts=1), clock=Clock()), Caller()
    caller.has_room.clear()

    async with answered(stream, caller):
        for index in range(1, 100):
            stream.add_pieces(index, "i", ("a",))
            await asyncio.sleep(0)
        caller.has_room.set()
        await caller.hears(2)
        stream.finish(DONE)

    assert [chunk.count(b"\n") for chunk in caller.chunks[1:]] == [98, 1]


async def test_a_caller_that_stops_reading_is_not_written_to_until_it_reads():
    """What it does not read would be kept twice: by the turn, and by its connection."""
    stream, caller = TurnStream(turn(starts=1), clock=Clock()), Caller()

    async with answered(stream, caller):
        await caller.hears(1)
        caller.has_room.clear()
        for index in range(1, 10):
            stream.add_pieces(index, "i", ("a",))
            await asyncio.sleep(0)
        written = len(caller.chunks)
        caller.has_room.set()
        await caller.hears(3)
        stream.finish(DONE)

    assert written == 1
    assert sum(chunk.count(b"\n") for chunk in caller.chunks) == 11


async def test_a_caller_that_leaves_ends_the_response_and_not_the_turn():
    stream, caller = TurnStream(turn(starts=1), clock=Clock()), Caller()

    async with answered(stream, caller):
        await caller.hears(1)
        caller.leaves.set()

    assert caller.chunks[1:] == [b""]
    assert not stream._readers
    stream.add(1, said("goes on"))


async def test_a_caller_that_leaves_while_it_is_slow_ends_the_response_too():
    """Nobody is waited for twice: it left while a chunk was on its way."""
    stream, caller = TurnStream(turn(starts=1), clock=Clock()), Caller()
    caller.has_room.clear()

    async with answered(stream, caller):
        for _ in range(5):
            await asyncio.sleep(0)
        caller.leaves.set()
        for _ in range(5):
            await asyncio.sleep(0)
        caller.has_room.set()

    assert not stream._readers


async def test_a_response_that_is_over_soon_never_looks_for_its_caller(monkeypatch):
    """A task for that is a fifth of what such a response costs."""
    monkeypatch.setattr(response_module, "WATCH_AFTER_S", 100)
    stream, caller = TurnStream(turn(starts=1), clock=Clock()), Caller()
    monkeypatch.setattr(caller, "receive", None)

    async with answered(stream, caller):
        await caller.hears(1)
        stream.finish(DONE)

    assert caller.is_whole


async def test_silence_is_broken_by_an_empty_line_as_often_as_it_lasts():
    """Proxies close what says nothing; readers skip it."""
    stream, caller = TurnStream(turn(starts=1), clock=Clock()), Caller()

    async with answered(stream, caller, keep_alive_s=0.001):
        await caller.hears(4)
        stream.finish(DONE)

    assert set(caller.chunks[1:-1]) == {b"\n"}


async def test_a_browser_gets_events_and_comments():
    stream, caller = TurnStream(turn(starts=1), clock=Clock()), Caller()

    async with answered(stream, caller, is_sse=True, keep_alive_s=0.001):
        await caller.hears(2)
        stream.add_pieces(1, "i", ("a", "b"))
        stream.finish(DONE)

    assert caller.chunks[0].startswith(b"id: 1048576\nevent: accepted\ndata: {")
    assert b": keep-alive\n\n" in caller.chunks
    assert caller.chunks[-1].count(b"event: text_delta\n") == 2
    assert caller.chunks[-1].endswith(b"}\n\n")


async def test_what_is_known_to_its_end_is_one_chunk():
    caller = Caller()

    await EventStream([b"one\n", b"two\n"], keep_alive_s=1, burst=Burst())({}, caller.receive, caller.send)

    assert caller.chunks == [b"one\ntwo\n"]
    assert caller.is_whole
