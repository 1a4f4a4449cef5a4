"""What a user's own test can rely on: satchel.testing.session."""

import asyncio
import contextlib

import pytest

import satchel.testing
from satchel.errors import CorruptState, HandlerError, InvalidRequest, StateMisused, TurnRefused, TurnTimeout
from satchel.state.session import OpenSession
from satchel.worker.context import Turn
from satchel.worker.worker import Worker

BOOKING = "CREATE TABLE booking (id INTEGER PRIMARY KEY, guest TEXT NOT NULL) STRICT;"


def concierge(turn_timeout_s=600):
    worker = Worker("concierge", schema=BOOKING, turn_timeout_s=turn_timeout_s)

    @worker.on_message
    async def reply(turn: Turn) -> None:
        turn.state.execute("INSERT INTO booking (guest) VALUES (?)", (turn.text,))
        turn.state["visits"] = turn.state.get("visits", 0) + 1
        if turn.text == "refuse":
            raise TurnRefused("We are full.")
        if turn.text == "raise":
            raise KeyError("secret")
        if turn.text == "hang":
            await asyncio.Event().wait()
        await turn.say(f"Booked. Visit {turn.state['visits']}.")

    return worker


async def test_an_answer_and_the_committed_state_can_be_asserted():
    """It is the first test a user writes."""
    async with satchel.testing.session(concierge()) as session:
        answer = await session.send("Ada", metadata={"from": "web"})

        assert (answer.text, answer.version, session.version) == ("Booked. Visit 1.", 1, 1)
        assert answer.changed_rows == {"booking": (1, 0, 0)}
        assert [event.type for event in answer.events] == ["accepted", "message", "complete"]
        assert session.state["visits"] == 1
        assert session.state.execute("SELECT guest FROM booking").scalar() == "Ada"
        assert [item.role for item in session.history] == ["USER", "ASSISTANT"]


async def test_a_failed_turn_changes_nothing_and_brings_the_handlers_own_exception():
    """A test has to see why, which a caller in production does not."""
    async with satchel.testing.session(concierge()) as session:
        await session.send("Ada")

        with pytest.raises(TurnRefused, match="We are full"):
            await session.send("refuse")
        with pytest.raises(HandlerError, match="raised KeyError") as raised:
            await session.send("raise")

        assert isinstance(raised.value.__cause__, KeyError)
        assert "secret" not in str(raised.value)
        assert (await session.send("Bob")).text == "Booked. Visit 2."
        assert session.version == 2


async def test_a_restart_serves_the_next_turn_from_the_stored_chain():
    """What a worker would open after a deploy is what the test compares with."""
    async with satchel.testing.session(concierge()) as session:
        for guest in ("Ada", "Bob", "Cy"):
            await session.send(guest)
        await session.restart()

        answer = await session.send("Di")

        assert answer.text == "Booked. Visit 4."
        assert answer.events[-1].complete.turn.start == "cold"


async def test_a_turn_over_its_timeout_is_cancelled():
    """The timeout is the worker's own, so that a user's test meets it too."""
    async with satchel.testing.session(concierge(turn_timeout_s=0.05)) as session:
        with pytest.raises(TurnTimeout):
            await session.send("hang")

        assert (await session.send("Ada")).version == 1


async def test_state_is_only_to_read():
    """A test that repairs the state behind the handler's back tests something else."""
    async with satchel.testing.session(concierge()) as session:
        await session.send("Ada")

        with pytest.raises(StateMisused, match="to read"):
            session.state.execute("DELETE FROM booking")

        assert session.state.execute("SELECT count(*) FROM booking").scalar() == 1


async def test_a_second_copy_that_differs_fails_the_test(monkeypatch):
    """The comparison is the point of the replay: it must not pass by itself."""
    async with satchel.testing.session(concierge()) as session:
        await session.send("Ada")
        finish = OpenSession.finish
        monkeypatch.setattr(
            OpenSession,
            "finish",
            lambda self, **wants: _with_digest(finish(self, **wants), bytes(32)),
        )

        with pytest.raises(CorruptState, match="second copy"):
            await session.send("Bob")


def _with_digest(recorded, digest):
    import msgspec  # noqa: PLC0415  # only here

    return msgspec.structs.replace(recorded, digest=digest)


async def test_deps_are_given_or_come_from_the_lifespan():
    """A test passes a stand-in; without one the real lifespan is entered and left."""
    seen = []

    @contextlib.asynccontextmanager
    async def lifespan():
        yield "real"
        seen.append("left")

    worker = Worker("a", lifespan=lifespan)

    @worker.on_message
    def reply(turn):
        return turn.deps

    async with satchel.testing.session(worker) as session:
        assert (await session.send("x")).text == "real"
    async with satchel.testing.session(worker, deps="fake") as session:
        assert (await session.send("x")).text == "fake"
    assert seen == ["left"]


async def test_a_worker_without_a_handler_is_named():
    with pytest.raises(InvalidRequest, match="'bare' has no handler"):
        async with satchel.testing.session(Worker("bare")):
            pass
