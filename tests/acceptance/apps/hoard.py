"""An agent whose state is as large as it is told to be, of bytes that do not compress."""

from satchel import Turn, Worker

worker = Worker(
    "hoard", schema="CREATE TABLE thing (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;", history=False
)


@worker.on_message
def reply(turn: Turn) -> str:
    verb, _, rest = turn.text.partition(" ")
    if verb == "keep":
        for _ in range(int(rest)):
            turn.state.execute("INSERT INTO thing (bytes) VALUES (randomblob(1000000))")
    turn.state["visits"] = turn.state.get("visits", 0) + 1
    return f"{turn.state.execute('SELECT count(*) FROM thing').scalar()} things, {turn.state['visits']} visits"
