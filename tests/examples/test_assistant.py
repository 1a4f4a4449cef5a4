"""The assistant against a stand-in for the model's endpoint: a real server that streams what it is told."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import satchel
from examples import assistant
from satchel.errors import HandlerError
from satchel.hub.server import base_url, listen


class Endpoint:
    """Answers every conversation with how many messages it has, in three pieces."""

    def __init__(self) -> None:
        self.requests: list[dict[str, object]] = []
        self.is_broken = False
        self.app = Starlette(routes=[Route("/v1/chat/completions", self.complete, methods=["POST"])])

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append({**body, "authorization": request.headers.get("authorization")})
        if self.is_broken:
            return JSONResponse({"error": "overloaded"}, status_code=529)
        return StreamingResponse(self.pieces(len(body["messages"])), media_type="text/event-stream")

    async def pieces(self, count: int) -> AsyncIterator[bytes]:
        for text in ("I see ", str(count), " messages."):
            yield b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"
        yield b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Endpoint]:
    model = Endpoint()
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(model.app, log_config=None, lifespan="off"))
    monkeypatch.setenv("OPENAI_BASE_URL", f"{base_url(listening)}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    yield model
    server.should_exit = True
    await serving


async def test_tokens_are_streamed_and_the_conversation_is_the_history(endpoint: Endpoint):
    async with (
        assistant.model_client() as client,
        satchel.testing.session(assistant.worker, deps=client) as session,
    ):
        first = await session.send("hello")
        second = await session.send("and again")

    assert first.text == "I see 2 messages."
    assert second.text == "I see 4 messages.", "system, hello, the first answer, and again"
    deltas = [event.text_delta.text for event in first.events if event.text_delta is not None]
    assert deltas == ["I see ", "2", " messages."]
    assert endpoint.requests[1]["messages"][1:] == [  # type: ignore[index]  # JSON
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "I see 2 messages."},
        {"role": "user", "content": "and again"},
    ]
    assert endpoint.requests[0]["authorization"] == "Bearer test-key"


async def test_an_endpoint_that_fails_leaves_no_half_conversation(endpoint: Endpoint):
    """The user's message is not kept without its answer: sending it again is the first time."""
    async with (
        assistant.model_client() as client,
        satchel.testing.session(assistant.worker, deps=client) as session,
    ):
        endpoint.is_broken = True
        with pytest.raises(HandlerError, match="HTTPStatusError"):
            await session.send("hello")
        endpoint.is_broken = False

        assert (await session.send("hello")).text == "I see 2 messages."
