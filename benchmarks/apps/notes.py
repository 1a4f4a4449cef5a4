"""The agent that benchmarks talk to: each turn does a little of everything that a handler can do."""

from benchmarks.prose import prose
from satchel import Turn, Worker

worker = Worker(
    "bench",
    schema="""
    CREATE TABLE note (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE INDEX note_topic ON note (topic);
    """,
)


@worker.on_message
async def reply(turn: Turn) -> None:
    recent = turn.history.last(20)
    topic = turn.text[:6]
    turn.state.execute("INSERT INTO note (topic, body) VALUES (?, ?)", (topic, turn.text[:200]))
    known = turn.state.execute("SELECT count(*) FROM note WHERE topic = ?", (topic,)).scalar()
    turn.state["turns"] = turn.state.get("turns", 0) + 1
    await turn.say(prose(f"{turn.message_id} {len(recent)} {known}"))
