"""An agent that does what a test's message says. Gates are files, so that a test decides when it goes on."""

import asyncio
import os
import pathlib
import time

from satchel import Turn, TurnRefused, Worker

GATES = pathlib.Path(os.environ.get("PROBE_GATES", "."))

worker = Worker(
    "probe",
    schema="CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;",
    turn_timeout_s=float(os.environ.get("PROBE_TURN_TIMEOUT_S", "60")),
)
other = Worker("other")


def note(turn: Turn, text: str) -> int:
    turn.state.execute("INSERT INTO note (text) VALUES (?)", (text,))
    return int(turn.state.execute("SELECT count(*) FROM note").scalar())


async def gate(turn: Turn) -> None:
    (GATES / f"{turn.message_id}.started.{turn.attempt}").touch()
    while not (GATES / f"{turn.message_id}.go").exists():
        await asyncio.sleep(0.01)


@worker.on_message
async def reply(turn: Turn) -> None:
    verb, _, rest = turn.text.partition(" ")
    match verb:
        case "add":
            await turn.say(f"{note(turn, rest)} notes")
        case "wait":
            note(turn, rest)
            await turn.say("half an ")
            await gate(turn)
            await turn.say(f"answer after {turn.attempt}")
        case "raise":
            note(turn, rest)
            raise ValueError("a secret that callers must not see")
        case "refuse":
            note(turn, rest)
            raise TurnRefused(rest)
        case "nothing":
            pass
        case "clear":
            turn.state.execute("DELETE FROM note")
        case "cart":
            cart = turn.state.setdefault("cart", [])
            cart.append(rest)
            await turn.say(",".join(cart))
        case "notjson":
            turn.state["bad"] = {1, 2}
        case "block":
            time.sleep(float(rest))
            await turn.say("unblocked")
        case "keys":
            keys = f"{turn.idempotency_key('charge')} {turn.idempotency_key('mail')}"
            (GATES / f"keys.{turn.attempt}").write_text(keys)
            if turn.attempt == 1:
                os._exit(9)
        case "die":
            os._exit(9)
        case "tokens":
            await turn.say(word + " " for word in rest.split())
        case "blob":
            turn.state.execute("INSERT INTO note (text) VALUES (hex(randomblob(?)))", (int(rest) // 2,))
        case "pid":
            await turn.say(str(os.getpid()))
        case _:
            await turn.say(f"what is {turn.text!r}?")


@other.on_message
def other_reply(turn: Turn) -> str:
    return f"other: {turn.text}"
