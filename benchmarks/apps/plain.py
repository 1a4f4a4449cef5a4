"""An agent that does next to nothing: what is left of a turn is ours."""

from satchel import Turn, Worker

worker = Worker("bench", schema="CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;")


@worker.on_message
async def reply(turn: Turn) -> None:
    turn.state.execute("INSERT INTO note (body) VALUES (?)", (turn.text,))
    await turn.say("A short answer of some fifty or so characters here.")
