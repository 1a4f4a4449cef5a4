"""A reply reads one message's events to the end, whatever happens to the connections."""

import asyncio
import contextlib
import gc
import threading

import httpx
import msgspec
import pytest

from satchel.client.client import AsyncClient
from satchel.errors import HandlerError, HubDraining, HubUnreachable, MessageNotFound, QueueFull
from satchel.model import Restarted, TextDelta, TurnEvent
from tests.unit.client.fake_hub import ACCEPTED, COMMITTED, FAILED, FakeHub, events_of, said

RESUMED = "GET /v1/sessions/alice/messages/m1"
SENT = "POST /v1/sessions/alice/messages"
DRAINING = {"code": "HUB_DRAINING", "message": "The hub is shutting down.", "retryable": True}


async def read(url: str, **options: float) -> list[TurnEvent]:
    async with AsyncClient(url, **options) as client:
        return [event async for event in client.session("alice").send("a room", message_id="m1")]


async def test_an_awaited_reply_is_the_answer(hub: FakeHub, url: str):
    async with AsyncClient(url) as client:
        answer = await client.session("alice", agent="concierge").send("a room", message_id="m1", metadata={"n": 1})

    assert (answer.text, answer.version, answer.attempts, answer.message_id) == ("Booked.", 12, 1, "m1")
    assert answer.changed_rows == {"booking": (1, 2, 0)}
    assert [event.type for event in answer.events] == ["accepted", "text_delta", "text_delta", "message", "complete"]
    assert hub.bodies == [{"text": "a room", "agent": "concierge", "message_id": "m1", "metadata": {"n": 1}}]


async def test_the_message_id_is_made_before_anything_is_sent(hub: FakeHub, url: str):
    """It is the handle to what happened, whatever became of the request."""
    async with AsyncClient(url) as client:
        reply = client.session("alice").send("a room")
        assert hub.requests == []
        await reply

    assert len(reply.message_id) == 32
    assert hub.bodies[0]["message_id"] == reply.message_id


async def test_a_reply_can_be_iterated_and_then_awaited(hub: FakeHub, url: str):
    """Streaming and the answer are one message: it is sent once."""
    async with AsyncClient(url) as client:
        reply = client.session("alice").send("a room", message_id="m1")
        texts = [event.text_delta.text async for event in reply if event.text_delta is not None]
        answer = await reply

    assert texts == ["Boo", "ked."]
    assert answer.text == "Booked."
    assert hub.requests == [SENT]


@pytest.mark.parametrize("cut", range(1, 6))
async def test_a_drop_resumes_behind_the_last_event(hub: FakeHub, url: str, cut: int):
    """At every place of the stream, no event is lost and none comes twice."""
    hub.cuts = [cut]

    events = await read(url)

    assert [msgspec.json.encode(event) for event in events] == hub.lines
    resumed = [] if cut == len(hub.lines) else [f"{RESUMED}?after={2**20 + cut - 1}"]
    assert hub.requests == [SENT, *resumed]


async def test_drops_in_a_row_are_one_stream(hub: FakeHub, url: str):
    hub.cuts = [2, 1, 0, -1, 1]

    events = await read(url)

    assert [msgspec.json.encode(event) for event in events] == hub.lines
    assert sum(request.startswith("POST") for request in hub.requests) == 1


async def test_a_message_that_may_have_arrived_is_sent_again_with_its_id(hub: FakeHub, url: str):
    """The connection dropped before the head: only the hub knows, and the ID makes it one turn."""
    hub.cuts = [-1]

    await read(url)

    assert hub.requests == [SENT, SENT]
    assert hub.bodies[0] == hub.bodies[1]
    assert hub.bodies[0]["message_id"] == "m1"


async def test_an_accepted_message_is_never_posted_again(hub: FakeHub, url: str):
    """A post would start a failed message again; the head of the answer says that it arrived."""
    hub.cuts = [0]

    await read(url)

    assert hub.requests == [SENT, RESUMED]


async def test_a_hub_that_restarts_is_waited_out(hub: FakeHub):
    """The reader notices only that the last events took longer."""
    with hub.serving() as url:
        client = AsyncClient(url)
        hub.cuts = [3]
        reply = client.session("alice").send("a room", message_id="m1")
        first = await reply.event_at(2)
    reader = asyncio.create_task(_listed(reply))
    with hub.serving(int(url.rpartition(":")[2])):
        events = await reader
    await client.aclose()

    assert first == events[2]
    assert [msgspec.json.encode(event) for event in events] == hub.lines
    assert hub.requests[0] == SENT
    assert hub.requests[-1] == f"{RESUMED}?after={first.seq}"


async def test_a_client_gives_up_with_the_message_id(unused_port: int):
    """Bounded: and the caller can look the message up later."""
    with pytest.raises(HubUnreachable) as caught:
        await read(f"http://127.0.0.1:{unused_port}", reconnect_s=0)

    assert caught.value.retryable
    assert caught.value.details == {"message_id": "m1"}
    assert isinstance(caught.value.__cause__, httpx.ConnectError)


async def test_a_refusal_is_raised_at_once(hub: FakeHub, url: str):
    """Whether to wait and send again is the caller's decision."""
    hub.refusals = [
        (429, {"code": "QUEUE_FULL", "message": "Too many.", "retryable": True, "details": {"waiting": 32}})
    ]

    with pytest.raises(QueueFull) as caught:
        await read(url)

    assert caught.value.details == {"waiting": 32}
    assert len(hub.requests) == 1


async def test_a_draining_hub_refuses_a_first_message(hub: FakeHub, url: str):
    hub.refusals = [(503, DRAINING)]

    with pytest.raises(HubDraining):
        await read(url)


async def test_a_draining_hub_is_waited_out_once_it_has_the_message(hub: FakeHub, url: str):
    """Its restart is near, and the message is in its store."""
    hub.cuts = [2]
    original = hub._answer

    def answer(lines):
        if len(hub.requests) == 2:
            hub.refusals = [(503, DRAINING)]
        return original(lines)

    hub._answer = answer

    events = await read(url)

    assert [msgspec.json.encode(event) for event in events] == hub.lines
    assert len(hub.requests) == 3


async def test_a_proxy_in_front_of_a_restarting_hub_counts_as_a_drop(hub: FakeHub, url: str):
    hub.refusals = [(502, "<html>Bad Gateway</html>")]

    assert len(await read(url)) == 5
    assert hub.requests == [SENT, SENT]


async def test_a_turn_that_failed_raises_its_error(hub: FakeHub, url: str):
    hub.lines = events_of(ACCEPTED, said("I"), FAILED)

    async with AsyncClient(url) as client:
        with pytest.raises(HandlerError) as caught:
            await client.session("alice").send("a room", message_id="m1")

    assert caught.value.message == "The handler raised ValueError."
    assert caught.value.details == {"kind": "x"}


async def test_an_iteration_shows_the_end_before_it_raises(hub: FakeHub, url: str):
    """A loop that looks at texts alone must not miss that the turn failed."""
    hub.lines = events_of(ACCEPTED, said("I"), FAILED)
    types = []

    async with AsyncClient(url) as client:
        with pytest.raises(HandlerError):  # noqa: PT012  # the loop is what raises
            async for event in client.session("alice").send("a room", message_id="m1"):
                types.append(event.type)  # noqa: PERF401  # what came before the error counts

    assert types == ["accepted", "message", "complete"]


async def test_an_answer_leaves_out_what_a_lost_attempt_said(hub: FakeHub, url: str):
    hub.lines = events_of(
        ACCEPTED, said("Lost."), Restarted("worker lost"), said("Kept."), said("Too.", "i2"), COMMITTED
    )

    async with AsyncClient(url) as client:
        answer = await client.session("alice").send("a room", message_id="m1")

    assert answer.text == "Kept.\nToo."
    assert [event.type for event in answer.events] == ["accepted", "restarted", "message", "message", "complete"]


async def test_unknown_events_and_fields_are_skipped(hub: FakeHub, url: str):
    """A newer hub may say more."""
    new = b'{"seq":1048577,"attempt":1,"type":"mood","session_id":"alice","message_id":"m1","mood":{"is":"good"}}'
    hub.lines = [hub.lines[0], new, *(line.replace(b"{", b'{"later":1,', 1) for line in hub.lines[2:])]

    events = await read(url)

    assert [event.type for event in events] == ["accepted", "text_delta", "message", "complete"]


async def test_a_drop_after_an_unknown_event_does_not_ask_for_it_again(hub: FakeHub, url: str):
    new = b'{"seq":1048577,"attempt":1,"type":"mood","session_id":"alice","message_id":"m1"}'
    hub.lines = [hub.lines[0], new, *hub.lines[2:]]
    hub.cuts = [2]

    await read(url)

    assert hub.requests[1] == f"{RESUMED}?after=1048577"


async def test_only_a_newline_ends_an_event(hub: FakeHub, url: str):
    """JSON may hold U+2028, U+0085 and the like as they are; other line readers break there."""
    text = "a\u2028b\u0085c\u000bd"
    hub.lines = events_of(ACCEPTED, TextDelta("i1", text), said(text), COMMITTED)

    async with AsyncClient(url) as client:
        answer = await client.session("alice").send("a room", message_id="m1")

    assert answer.text == text


async def test_what_is_no_event_counts_as_a_drop_and_has_an_end(hub: FakeHub, url: str):
    """Garbage at the same place again and again must not be asked for without end."""
    hub.lines = [hub.lines[0], b"<html>"]

    with pytest.raises(HubUnreachable):
        await read(url, reconnect_s=0)


async def test_leaving_an_iteration_keeps_the_place(hub: FakeHub, url: str):
    """The turn goes on; what is read later begins behind what was read."""
    async with AsyncClient(url) as client:
        reply = client.session("alice").send("a room", message_id="m1")
        async for event in reply:
            if event.text_delta is not None:
                break
        answer = await reply

    assert answer.text == "Booked."
    assert len(answer.events) == 5
    assert hub.requests[1:] in ([], [f"{RESUMED}?after=1048577"])


async def test_a_cancelled_wait_can_be_taken_up_again(hub: FakeHub, url: str):
    gate = hub.gates[2] = threading.Event()
    async with AsyncClient(url) as client:
        reply = client.session("alice").send("a room", message_id="m1")
        waiting = asyncio.ensure_future(_awaited(reply))
        await asyncio.to_thread(hub.has_sent.wait)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        gate.set()
        answer = await reply

    assert waiting.cancelled()
    assert len(answer.events) == 5


async def _awaited(reply):
    return await reply


async def test_two_readers_share_one_stream(hub: FakeHub, url: str):
    async with AsyncClient(url) as client:
        reply = client.session("alice").send("a room", message_id="m1")
        first, second = await asyncio.gather(_listed(reply), _listed(reply))

    assert first == second
    assert hub.requests == [SENT]


async def test_a_reader_that_leaves_does_not_take_the_stream_along(hub: FakeHub, url: str):
    """The other one would have to open it again in the middle of the turn."""
    gate = hub.gates[2] = threading.Event()
    async with AsyncClient(url) as client:
        reply = client.session("alice").send("a room", message_id="m1")
        other = asyncio.create_task(_listed(reply))
        async with contextlib.aclosing(aiter(reply)) as events:
            await anext(events)
        await asyncio.to_thread(hub.has_sent.wait)
        gate.set()
        events = await other

    assert len(events) == 5
    assert hub.requests == [SENT]


async def _listed(reply):
    return [event async for event in reply]


async def test_turns_in_a_row_use_one_connection(hub: FakeHub, url: str):
    """The stream is read to its end, so that a warm turn pays no handshake."""
    async with AsyncClient(url) as client:
        for _ in range(3):
            await client.session("alice").send("a room")

    assert len(hub.ports) == 1


async def test_a_key_is_presented(hub: FakeHub, url: str):
    async with AsyncClient(url, api_key="secret") as client:
        await client.session("alice").send("a room")

    assert hub.headers[0]["authorization"] == "Bearer secret"


async def test_a_reply_that_nobody_awaits_is_told():
    """``session.send(...)`` without ``await`` sends nothing: silence would be a lost message."""
    async with AsyncClient("http://127.0.0.1:1") as client:
        with pytest.warns(RuntimeWarning, match="Message m1 was never sent"):  # noqa: PT031  # it is told when it goes
            client.session("alice").send("a room", message_id="m1")
            gc.collect()


async def test_sse_frames_carry_the_cursor(hub: FakeHub, url: str):
    async with AsyncClient(url) as client:
        frames = [frame async for frame in client.session("alice").send("a room", message_id="m1").sse()]

    assert frames[0] == b"id: 1048576\nevent: accepted\ndata: " + hub.lines[0] + b"\n\n"
    assert frames[-1].startswith(b"id: 1048580\nevent: complete\n")
    assert len(frames) == 5


async def test_sse_passes_signs_of_life_on(hub: FakeHub, url: str):
    """The next proxy needs them as much as the last."""
    gate = hub.gates[1] = threading.Event()

    async with AsyncClient(url) as client:
        frames = client.session("alice").send("a room", message_id="m1").sse()
        first, second = await anext(frames), await anext(frames)
        gate.set()
        rest = [frame async for frame in frames]

    assert first.startswith(b"id: 1048576\n")
    assert second == b": keep-alive\n\n"
    assert len(rest) == 4


async def test_sse_ends_with_the_error_of_a_message_that_was_refused(hub: FakeHub, url: str):
    """The head of the response is on its way already: the page learns it from the last event."""
    hub.refusals = [(503, DRAINING)]

    async with AsyncClient(url) as client:
        frames = [frame async for frame in client.session("alice").send("a room", message_id="m1").sse()]

    assert len(frames) == 1
    assert frames[0].startswith(b"id: 0\nevent: complete\n")
    assert b'"code":"HUB_DRAINING"' in frames[0]


async def test_sse_goes_on_behind_a_browsers_last_event(url: str):
    """A browser that comes back names the last event it saw: it must not get the words before it twice."""
    async with AsyncClient(url) as client:
        frames = [frame async for frame in client.session("alice").follow("m1").sse(after=2**20 + 2)]

    assert [frame.partition(b"\n")[0] for frame in frames] == [b"id: 1048579", b"id: 1048580"]


async def test_sse_shows_the_end_to_a_browser_that_has_seen_all(url: str):
    """Else a page that asks whether the turn is over would wait for ever."""
    async with AsyncClient(url) as client:
        frames = [frame async for frame in client.session("alice").follow("m1").sse(after=2**40)]

    assert [frame.partition(b"\n")[0] for frame in frames] == [b"id: 1048580"]


async def test_a_message_that_was_sent_before_is_followed_without_sending(hub: FakeHub, url: str):
    """A post could start a failed message again; a page that is reloaded only looks."""
    async with AsyncClient(url) as client:
        reply = client.session("alice").follow("m1")
        events = await _listed(reply)
        answer = await reply

    assert [msgspec.json.encode(event) for event in events] == hub.lines
    assert (answer.text, answer.message_id) == ("Booked.", "m1")
    assert hub.requests == [RESUMED]


@pytest.mark.parametrize("cut", [-1, 0, 2])
async def test_a_followed_message_goes_on_after_a_drop(hub: FakeHub, url: str, cut: int):
    hub.cuts = [cut]

    async with AsyncClient(url) as client:
        events = await _listed(client.session("alice").follow("m1"))

    assert [msgspec.json.encode(event) for event in events] == hub.lines
    assert hub.requests == [RESUMED, RESUMED if cut < 1 else f"{RESUMED}?after={2**20 + cut - 1}"]


async def test_a_message_that_the_hub_does_not_know_is_not_waited_for(hub: FakeHub, url: str):
    hub.refusals = [(404, {"code": "MESSAGE_NOT_FOUND", "message": "The session has no such message."})]

    async with AsyncClient(url) as client:
        with pytest.raises(MessageNotFound):
            await client.session("alice").follow("m1")


async def test_a_follower_that_nobody_reads_is_no_lost_message():
    async with AsyncClient("http://127.0.0.1:1") as client:
        client.session("alice").follow("m1")
        gc.collect()


async def test_a_transport_replaces_the_socket(hub: FakeHub):
    async with AsyncClient("http://hub", transport=httpx.ASGITransport(hub.app)) as client:
        answer = await client.session("alice").send("a room")

    assert answer.text == "Booked."
