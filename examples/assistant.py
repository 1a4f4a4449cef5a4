"""An assistant behind any OpenAI-compatible endpoint, its tokens streamed as they come.

    OPENAI_BASE_URL=http://127.0.0.1:11434/v1 OPENAI_MODEL=llama3.2 satchel dev examples/assistant.py

``OPENAI_API_KEY`` is sent if it is set. The conversation is ``turn.history``: there is
nothing else to store.
"""

import contextlib
import json
import os
from collections.abc import AsyncIterator

import httpx

from satchel import Turn, Worker
from satchel.model import Message

LAST_ITEMS = 40
"""How much of the conversation the model sees: a long session costs no more than a short one."""


@contextlib.asynccontextmanager
async def model_client() -> AsyncIterator[httpx.AsyncClient]:
    """Open one connection pool for the life of the worker."""
    key = os.environ.get("OPENAI_API_KEY", "")
    async with httpx.AsyncClient(
        base_url=os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(10, read=120),
    ) as client:
        yield client


worker = Worker("assistant", lifespan=model_client)


@worker.on_message
async def reply(turn: Turn[httpx.AsyncClient]) -> None:
    await turn.say(tokens(turn))


async def tokens(turn: Turn[httpx.AsyncClient]) -> AsyncIterator[str]:
    """Yield the model's answer to the conversation so far, piece by piece."""
    request = {
        "model": os.environ.get("OPENAI_MODEL", "gpt-4o-mini"),
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. Answer briefly."},
            *(
                {"role": item.role.lower(), "content": item.text}
                for item in turn.history.last(LAST_ITEMS)
                if isinstance(item, Message)
            ),
        ],
        "stream": True,
    }
    async with turn.deps.stream("POST", "/chat/completions", json=request) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    if text := choice["delta"].get("content"):
                        yield text
