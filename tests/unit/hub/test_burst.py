"""What is due in a pass of the loop is written at its end, all at once, where the server lets us."""

import asyncio
from typing import Any

import httpx
import uvicorn

from satchel.hub.burst import Burst, channel
from satchel.hub.server import listen


class Line:
    """Something to write, which notes what happens to it."""

    def __init__(self, name: str, log: list[str], *, is_needed: bool = True) -> None:
        self._name = name
        self._log = log
        self._is_needed = is_needed

    def ready(self):
        self._log.append(f"{self._name} is made")
        return (self._log.append, f"{self._name} is written") if self._is_needed else None


async def test_all_that_is_due_is_made_before_the_first_of_it_is_written():
    """Between two writes a caller's process would fall asleep again, and waking it costs more than writing."""
    burst, log = Burst(), []

    for line in (Line("one", log), Line("none", log, is_needed=False), Line("two", log)):
        burst.add(line)
    assert log == []
    await asyncio.sleep(0)

    assert log == ["one is made", "none is made", "two is made", "one is written", "two is written"]


async def test_what_comes_after_a_burst_is_due_in_the_next():
    burst, log = Burst(), []

    burst.add(Line("one", log))
    await asyncio.sleep(0)
    burst.add(Line("two", log))
    await asyncio.sleep(0)

    assert log[2:] == ["two is made", "two is written"]


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Answer by ``send`` alone, or with a part that goes its own way."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/straight":
        straight = channel(scope, send)
        assert straight is not None
        assert straight.is_free
        straight.write(straight.chunk(b"part"))
    else:
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
    await send({"type": "http.response.body", "body": b"end", "more_body": False})


async def test_the_server_that_we_run_gives_a_channel():
    """It is found by uvicorn's own class: if that changes, lines are slower, and this says so."""
    server = uvicorn.Server(uvicorn.Config(_app, http="httptools", lifespan="off", log_config=None))
    listening = listen("127.0.0.1", 0)
    serving = asyncio.create_task(server.serve([listening]))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
        answers = [await client.get(path) for path in ("/straight", "/send")]
    server.should_exit = True
    await serving

    assert [answer.content for answer in answers] == [b"partend", b"partend"]
    assert answers[0].headers["transfer-encoding"] == answers[1].headers["transfer-encoding"] == "chunked"


def test_a_response_that_somebody_wraps_has_no_channel():
    """Middleware may count, change or hold back what passes."""

    async def wrapped(message: Any) -> None: ...

    assert channel({}, wrapped) is None
