"""A small hotel desk: real tables, tool calls, no network and no key.

Run it with ``satchel dev examples/concierge.py`` and say "a room for Ada",
"two nights for Grace in a double", "who is here?", "check out Ada".
"""

import re

from satchel import Turn, TurnRefused, Worker, current_turn

worker = Worker(
    "concierge",
    schema="""
    CREATE TABLE room (number INTEGER PRIMARY KEY, beds INTEGER NOT NULL, price INTEGER NOT NULL) STRICT;
    CREATE TABLE booking (
        id INTEGER PRIMARY KEY,
        guest TEXT NOT NULL UNIQUE,
        room INTEGER NOT NULL UNIQUE REFERENCES room (number),
        nights INTEGER NOT NULL CHECK (nights > 0)
    ) STRICT;
    """,
)

ROOMS = [(101, 1, 80), (102, 1, 80), (201, 2, 120), (202, 2, 120), (301, 2, 190)]
NUMBERS = {"a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7}


@worker.on_message
async def reply(turn: Turn) -> str:
    if not turn.state.execute("SELECT 1 FROM room").first():
        turn.state.executemany("INSERT INTO room VALUES (?, ?, ?)", ROOMS)
    turn.state["visits"] = turn.state.get("visits", 0) + 1

    words = turn.text.lower()
    if re.search(r"\b(who|list|guests)\b", words):
        return guests(turn)
    if leaving := re.search(r"\b(?:check ?out|cancel)\s+(\w+)", turn.text, re.IGNORECASE):
        return await turn.call(check_out, guest=leaving[1].title())
    if arriving := re.search(r"\bfor (?!one\b|two\b|three\b|four\b|five\b|six\b|seven\b)(\w+)", turn.text):
        nights = re.search(r"\b(\w+) nights?\b", words)
        beds = 2 if "double" in words else 1
        room = await turn.call(find_room, beds=beds)
        return await turn.call(
            book_room, guest=arriving[1].title(), room=room, nights=NUMBERS.get(nights[1], 1) if nights else 1
        )
    return "Welcome. I can book 'a room for Ada', say 'who is here?' and 'check out Ada'."


def find_room(*, beds: int) -> int:
    """Return the cheapest free room with at least that many beds."""
    free = current_turn().state.execute(
        "SELECT number FROM room WHERE beds >= ? AND number NOT IN (SELECT room FROM booking) ORDER BY price, number",
        (beds,),
    )
    room = free.first()
    if room is None:
        raise TurnRefused("The house is full.")
    return int(room["number"])


def book_room(*, guest: str, room: int, nights: int) -> str:
    """Write the booking and say what it costs."""
    state = current_turn().state
    if state.execute("SELECT 1 FROM booking WHERE guest = ?", (guest,)).first():
        raise TurnRefused(f"{guest} has a room already.")
    state.execute("INSERT INTO booking (guest, room, nights) VALUES (?, ?, ?)", (guest, room, nights))
    price = state.execute("SELECT price FROM room WHERE number = ?", (room,)).scalar()
    stay = "one night" if nights == 1 else f"{nights} nights"
    return f"Room {room} is yours, {guest}: {stay}, {nights * price} in all."


def check_out(*, guest: str) -> str:
    """Delete the booking and say goodbye."""
    left = current_turn().state.execute("DELETE FROM booking WHERE guest = ? RETURNING room", (guest,)).first()
    return f"Goodbye, {guest}. Room {left['room']} is free." if left else f"There is no {guest} here."


def guests(turn: Turn) -> str:
    """Return who is in the house."""
    booked = turn.state.execute("SELECT guest, room FROM booking ORDER BY room")
    return ", ".join(f"{row['guest']} in {row['room']}" for row in booked) or "Nobody yet."
