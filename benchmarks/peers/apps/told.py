"""The agent of ``satchel_turn``: it says what the conversation has it say, with no model to ask.

A message's metadata names a fill, ``{"seed": …, "items": …}``, or asks for a look at the whole
history, ``{"look": true}``. Any other message is the next turn of its session's conversation.
"""

import itertools
from collections import deque

from benchmarks.peers.conversation import Item, conversation, opening
from benchmarks.peers.satchel_state import WINDOW, history_item
from satchel import Turn, Worker

AHEAD = 200
"""Turns that are made at a fill, so that making prose is no part of a turn."""

worker = Worker("told")
_told: dict[str, deque[tuple[Item, ...]]] = {}


@worker.on_message
async def reply(turn: Turn) -> str | None:
    match turn.metadata:
        case {"seed": seed, "items": items}:
            fill(turn, seed, items)
            return None
        case {"look": True}:
            return f"{len(list(turn.history))}"
    turn.history.last(WINDOW)
    _, *calls, answer = _told[turn.session_id].popleft()
    if calls:
        call, output = calls
        turn.function_call_output(turn.function_call("look_up", {"query": call.text}), output.text)
    return answer.text


def fill(turn: Turn, seed: int, items: int) -> None:
    turns = conversation(seed)
    for item in opening(turns, items)[1:]:
        turn.history.append(history_item(item))
    _told[turn.session_id] = deque(itertools.islice(turns, AHEAD))
