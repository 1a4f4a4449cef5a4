"""What an operator and a proxy see: signs of life in silence, metrics, and one log line per turn."""

import asyncio
import logging
import pathlib

import httpx
import pytest

from satchel import Hub, Turn, Worker
from satchel.embedded import AsgiTransport
from satchel.hub.settings import HubSettings

go_on = asyncio.Event()


def desk() -> Worker:
    """Return an agent that waits for the word and says one thing; made per test, for its loop."""
    worker = Worker("desk")

    @worker.on_message
    async def reply(turn: Turn) -> str:
        if turn.text == "raise":
            raise ValueError("private")
        while turn.text == "wait" and not go_on.is_set():
            await asyncio.sleep(0.01)
        return "the secret answer"

    return worker


@pytest.mark.parametrize(("accept", "sign"), [("application/x-ndjson", b"\n"), ("text/event-stream", b": ")])
async def test_a_silent_stream_shows_that_it_lives(tmp_path: pathlib.Path, accept: str, sign: bytes):
    """A proxy closes a connection on which nothing comes for a minute; a model may think for two."""
    go_on.clear()
    settings = HubSettings(keep_alive_s=0.02)
    async with (
        Hub(store=str(tmp_path / "app.db"), workers=[desk()], settings=settings) as hub,
        httpx.AsyncClient(transport=AsgiTransport(hub), base_url="http://127.0.0.1") as client,
        client.stream("POST", "/v1/sessions/a/messages", json={"text": "wait"}, headers={"Accept": accept}) as response,
    ):
        pieces = []
        async for piece in response.aiter_raw():
            pieces.append(piece)
            if piece.startswith(sign):
                go_on.set()

    assert b"accepted" in pieces[0]
    assert any(piece.startswith(sign) for piece in pieces[1:-1])
    assert b"complete" in pieces[-1]


async def test_each_turn_is_counted_and_logged_once_without_its_content(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
):
    """Operators need the outcome, the cost and the names; what people say is not theirs to read."""
    with caplog.at_level(logging.INFO, logger="satchel.hub"):
        async with (
            Hub(store=str(tmp_path / "app.db"), workers=[desk()]) as hub,
            httpx.AsyncClient(transport=AsgiTransport(hub), base_url="http://127.0.0.1") as client,
        ):
            await hub.session("a").send("my card number", message_id="m1")
            await client.post("/v1/sessions/a/messages", json={"text": "raise", "message_id": "m2"})
            metrics = (await client.get("/metrics")).text

    turns = [vars(record) for record in caplog.records if record.message == "turn ended"]
    assert [(t["session_id"], t["message_id"], t["outcome"], t["version"]) for t in turns] == [
        ("a", "m1", "committed", 1),
        ("a", "m2", "TEXT_HANDLER_ERROR", None),
    ]
    assert turns[0]["received_bytes"] > 0
    assert 'satchel_turns_total{agent="desk",outcome="committed",start="new"} 1.0' in metrics
    assert 'satchel_turns_total{agent="desk",outcome="TEXT_HANDLER_ERROR",start="warm"} 1.0' in metrics
    assert "satchel_workers 1.0" in metrics
    everything = metrics + "".join(f"{vars(record)}" for record in caplog.records if record.name == "satchel.hub")
    for private in ("card number", "secret answer", "private"):
        assert private not in everything
