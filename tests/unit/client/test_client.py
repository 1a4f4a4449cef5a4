"""The calls beside send: what they ask, what they return, what they raise."""

from typing import Any

import httpx
import pytest

from satchel.client.client import AsyncClient
from satchel.client.http import http_url
from satchel.errors import HubUnreachable, InvalidRequest, SatchelError, SessionNotFound
from satchel.model import TurnStatus
from tests.unit.client.fake_hub import FakeHub


async def test_a_transcript_is_read_in_pages(hub: FakeHub, url: str):
    async with AsyncClient(url) as client:
        page = await client.session("alice").messages(limit=1, before="9")

    (row,) = page.messages
    assert (row.message_id, row.status, row.version, row.answer.text) == ("m1", TurnStatus.COMMITTED, 12, "Booked.")
    assert page.next_cursor == "7"
    assert hub.requests == ["GET /v1/sessions/alice/messages?limit=1&before=9"]


async def test_a_message_is_looked_up_and_cancelled(hub: FakeHub, url: str):
    async with AsyncClient(url) as client:
        session = client.session("alice")
        row, after = await session.message("m1"), await session.cancel("m1")

    assert (row.status, after.status) == (TurnStatus.COMMITTED, TurnStatus.CANCELLED)
    assert after.answer is None
    assert hub.requests == [
        "GET /v1/sessions/alice/messages/m1",
        "POST /v1/sessions/alice/messages/m1/cancel",
    ]


async def test_sessions_are_listed_and_looked_at(hub: FakeHub, url: str):
    async with AsyncClient(url) as client:
        page = await client.sessions(agent="concierge", limit=5, cursor="aa")
        row = await client.session("alice").info()

    assert page.sessions == (row,)
    assert page.next_cursor is None
    assert (row.head, row.state_bytes, row.worker_id) == (12, 8192, "w1")
    assert hub.requests[0] == "GET /v1/sessions?agent=concierge&limit=5&cursor=aa"


async def test_a_version_is_a_file(url: str):
    async with AsyncClient(url) as client:
        assert await client.session("alice").snapshot(3) == b"SQLite format 3\0"


async def test_workers_are_listed_and_a_newer_hubs_fields_skipped(url: str):
    async with AsyncClient(url) as client:
        (worker,) = await client.workers()

    assert (worker.worker_id, worker.agents, worker.slots) == ("w1", ("concierge",), 32)


class _ClosedWhileItOpens(httpx.AsyncBaseTransport):
    """What httpx does on uvloop when a hub is killed while a connection opens: anyio asks None for its peer."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002  # httpx's signature
        nothing: Any = None
        return nothing.getpeername()


async def test_a_connection_that_closes_while_it_opens_is_a_hub_that_is_not_reached():
    """A killed hub must not show as an error of somebody's code: a reply would not try again."""
    async with AsyncClient("http://127.0.0.1:1", transport=_ClosedWhileItOpens()) as client:
        with pytest.raises(HubUnreachable, match="hung up"):
            await client.workers()


async def test_the_hubs_error_is_raised_as_its_class(url: str):
    async with AsyncClient(url) as client:
        with pytest.raises(SessionNotFound):
            await client.session("nobody").info()


async def test_a_code_of_a_newer_hub_is_kept(hub: FakeHub, url: str):
    hub.refusals = [(409, {"code": "TOO_NEW", "message": "Later.", "retryable": True})]

    async with AsyncClient(url) as client:
        with pytest.raises(SatchelError) as caught:
            await client.session("alice").send("x")

    assert (caught.value.code, caught.value.retryable) == ("TOO_NEW", True)


async def test_an_unreachable_hub_is_told_at_once(unused_port: int):
    """Only a message on its way is worth a wait."""
    async with AsyncClient(f"http://127.0.0.1:{unused_port}") as client:
        with pytest.raises(HubUnreachable, match=str(unused_port)):
            await client.workers()


async def test_what_is_no_hub_is_told(url: str):
    """A wrong port often has another server behind it."""
    async with AsyncClient(f"{url}/nothing") as client:
        with pytest.raises(HubUnreachable, match="404"):
            await client.workers()


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "x" * 129])
async def test_an_id_is_checked_before_it_becomes_a_path(name: str):
    async with AsyncClient("http://127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest):
            client.session(name)
        with pytest.raises(InvalidRequest):
            client.session("alice", agent=name)
        with pytest.raises(InvalidRequest):
            client.session("alice").send("x", message_id=name)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://hub:8700", "http://hub:8700"),
        ("https://hub/base/", "https://hub/base"),
        ("ws://hub:8700", "http://hub:8700"),
        ("WSS://hub", "https://hub"),
    ],
)
def test_a_hubs_url_is_http_or_ws(given: str, used: str):
    assert http_url(given) == used


@pytest.mark.parametrize("given", ["hub:8700", "ftp://hub", "http://", "", "http:///"])
def test_what_is_no_url_of_a_hub_is_refused(given: str):
    with pytest.raises(InvalidRequest):
        http_url(given)
