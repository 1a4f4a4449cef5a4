"""The agent that benchmarks talk to: each turn does a little of everything that a handler can do."""

import random

from satchel import Turn, Worker

WORDS = [random.Random(number).randbytes(3).hex() for number in range(2000)]  # the same words each time
ITEM_WORDS = 71
"""Words of one item: about 500 bytes that compress about as well as prose."""

worker = Worker(
    "bench",
    schema="""
    CREATE TABLE note (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE INDEX note_topic ON note (topic);
    """,
)


def prose(seed: str, words: int = ITEM_WORDS) -> str:
    """Return a text of *words* words, another one for each *seed*."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))  # the same text each time


@worker.on_message
async def reply(turn: Turn) -> None:
    recent = turn.history.last(20)
    topic = turn.text[:6]
    turn.state.execute("INSERT INTO note (topic, body) VALUES (?, ?)", (topic, turn.text[:200]))
    known = turn.state.execute("SELECT count(*) FROM note WHERE topic = ?", (topic,)).scalar()
    turn.state["turns"] = turn.state.get("turns", 0) + 1
    await turn.say(prose(f"{turn.message_id} {len(recent)} {known}"))
