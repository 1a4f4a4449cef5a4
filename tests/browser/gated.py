"""The example's app, as it is, but its agent says only as many words as a file allows."""

import asyncio
import collections
import os
import pathlib

from examples.fastapi_chat import agent
from examples.fastapi_chat.app import app
from satchel import current_turn

__all__ = ["app"]

GATE = pathlib.Path(os.environ["CHAT_GATE"])
said: collections.Counter[tuple[str, int]] = collections.Counter()


async def gated_pause() -> None:
    """Wait while the file holds a number of words, and this attempt has said as many."""
    turn = current_turn()
    said[turn.message_id, turn.attempt] += 1
    while GATE.exists() and said[turn.message_id, turn.attempt] >= int(GATE.read_text()):
        await asyncio.sleep(0.01)


agent.pause = gated_pause
