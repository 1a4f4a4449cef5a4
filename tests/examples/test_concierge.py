"""The hotel desk, tested as its own author would test it."""

import pytest

import satchel
from examples import concierge
from satchel import TurnRefused


async def test_a_guest_is_booked_into_the_cheapest_free_room():
    async with satchel.testing.session(concierge.worker) as session:
        answer = await session.send("a room for Ada")

        assert answer.text == "Room 101 is yours, Ada: one night, 80 in all."
        assert answer.changed_rows["booking"] == (1, 0, 0)
        assert [event.type for event in answer.events].count("function_call") == 2
        assert session.state["visits"] == 1


async def test_the_desk_remembers_across_turns_and_a_cold_start():
    async with satchel.testing.session(concierge.worker) as session:
        await session.send("two nights for Grace in a double")
        await session.restart()
        await session.send("a room for Ada")

        assert (await session.send("who is here?")).text == "Ada in 101, Grace in 201"
        assert (await session.send("check out Ada")).text == "Goodbye, Ada. Room 101 is free."
        assert (await session.send("who is here?")).text == "Grace in 201"


async def test_a_full_house_refuses_and_books_nobody():
    """A refusal is a text for the guest, and leaves no trace."""
    async with satchel.testing.session(concierge.worker) as session:
        for guest in ("Ada", "Bob", "Cyd", "Dan", "Eve"):
            await session.send(f"a room for {guest}")

        with pytest.raises(TurnRefused, match="The house is full"):
            await session.send("a room for Fay")

        assert (session.version, session.state["visits"]) == (5, 5)


async def test_nobody_has_two_rooms():
    async with satchel.testing.session(concierge.worker) as session:
        await session.send("a room for Ada")

        with pytest.raises(TurnRefused, match="Ada has a room already"):
            await session.send("a room for Ada")
