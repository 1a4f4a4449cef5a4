"""An agent that says as many pieces of text as asked, at the pace asked."""

import asyncio
from collections.abc import AsyncIterator

from satchel import Turn, Worker

worker = Worker("bench", history=False)


@worker.on_message
async def reply(turn: Turn) -> None:
    count, gap_s = turn.text.split()
    await turn.say(_pieces(int(count), float(gap_s)))


async def _pieces(count: int, gap_s: float) -> AsyncIterator[str]:
    for _ in range(count):
        yield " token"
        await asyncio.sleep(gap_s)
