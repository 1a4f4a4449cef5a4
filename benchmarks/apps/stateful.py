"""An agent whose state is as large as asked, and which says when its first line ran."""

import asyncio
import time

from benchmarks.prose import prose
from satchel import Turn, Worker

BLOCK_WORDS = 145
"""Words of a row: about 1 KB."""

worker = Worker(
    "bench",
    schema="CREATE TABLE block (id INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;",
    history=False,
    max_attempts=10,
)


@worker.on_message
async def reply(turn: Turn) -> str:
    began = time.perf_counter()
    command, _, argument = turn.text.partition(" ")
    match command:
        case "fill":
            for number in range(int(argument)):
                turn.state.execute(
                    "INSERT INTO block (body) VALUES (?)", (prose(f"{turn.message_id} {number}", BLOCK_WORDS),)
                )
        case "hold":
            await asyncio.sleep(3600)
        case "hold-once" if turn.attempt == 1:
            await asyncio.sleep(3600)
    turn.state.execute("INSERT INTO block (body) VALUES (?)", (prose(turn.message_id),))
    return repr(began)
