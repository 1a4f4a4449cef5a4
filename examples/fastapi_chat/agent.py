"""The agent of the chat: it keeps notes, counts and divides. It needs no model and no key.

Where its words come from is yours to fill in: ``examples/assistant.py`` streams a model's.
"""

import asyncio
import re
from collections.abc import AsyncIterator

from satchel import Turn, TurnRefused, Worker, current_turn

worker = Worker("notes", schema="CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;")

COUNT_MAX = 1000


@worker.on_message
async def reply(turn: Turn) -> None:
    if note := re.match(r"remember (.+)", turn.text, re.IGNORECASE | re.DOTALL):
        kept = await turn.call(add_note, text=note[1])
        await turn.say(words(f"Noted. That makes {kept}."))
    elif re.match(r"(my )?notes", turn.text, re.IGNORECASE):
        await turn.say(words("\n".join(await turn.call(list_notes)) or "There are no notes yet."))
    elif count := re.match(r"count to (\d+)", turn.text, re.IGNORECASE):
        await turn.say(words(" ".join(map(str, range(1, numbers_to(count[1]) + 1)))))
    elif sum_ := re.match(r"(\d+) ?/ ?(\d+)", turn.text):
        await turn.say(words(f"That is {await turn.call(divide, a=int(sum_[1]), b=int(sum_[2])):g}."))
    else:
        await turn.say(words("I understand 'remember the milk', 'notes', 'count to 100' and '6 / 2'."))


async def words(text: str) -> AsyncIterator[str]:
    """Yield *text* piece by piece, as a model would."""
    for word in re.findall(r"\S+\s*", text):
        yield word
        await pause()


async def pause() -> None:
    """Take about as long as a model takes for a word."""
    await asyncio.sleep(0.05)


def numbers_to(last: str) -> int:
    """Return how far to count. Its refusal is text that the user sees."""
    if len(last) > len(str(COUNT_MAX)) or int(last) > COUNT_MAX:
        raise TurnRefused(f"I count to {COUNT_MAX} at most.")
    return int(last)


def add_note(*, text: str) -> int:
    """Write a note; return how many there are."""
    state = current_turn().state
    state.execute("INSERT INTO note (text) VALUES (?)", (text,))
    return int(state.execute("SELECT count(*) FROM note").scalar())


def list_notes() -> list[str]:
    """Return all notes, oldest first."""
    return [row["text"] for row in current_turn().state.execute("SELECT text FROM note ORDER BY id")]


def divide(*, a: int, b: int) -> float:
    """Return a / b. Of its ``ZeroDivisionError`` the user sees that something failed, and no more."""
    return a / b
