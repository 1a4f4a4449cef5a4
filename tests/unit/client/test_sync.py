"""The blocking client: the same, from any thread, and safe to interrupt."""

import os
import signal
import threading

import pytest

from satchel.client.sync import Client
from satchel.errors import HandlerError, QueueFull, SessionNotFound
from tests.unit.client.fake_hub import ACCEPTED, FAILED, FakeHub, events_of, said


def test_a_reply_is_read_like_an_answer(hub: FakeHub, url: str):
    with Client(url, api_key="secret") as client:
        answer = client.session("alice", agent="concierge").send("a room", message_id="m1", metadata={"n": 1})

        assert (answer.text, answer.version, answer.attempts, answer.message_id) == ("Booked.", 12, 1, "m1")
        assert answer.changed_rows == {"booking": (1, 2, 0)}
        assert len(answer.events) == 5
    assert hub.bodies == [{"text": "a room", "agent": "concierge", "message_id": "m1", "metadata": {"n": 1}}]
    assert hub.headers[0]["authorization"] == "Bearer secret"


def test_events_come_before_the_turn_ends(hub: FakeHub, url: str):
    gate = hub.gates[2] = threading.Event()
    with Client(url) as client:
        events = iter(client.session("alice").send("a room"))
        first = [next(events).type, next(events).type]
        gate.set()
        rest = [event.type for event in events]

    assert first == ["accepted", "text_delta"]
    assert rest == ["text_delta", "message", "complete"]


def test_send_returns_when_the_hub_has_the_message(hub: FakeHub, url: str):
    """A program may go on, or end, once the message is safe."""
    gate = hub.gates[1] = threading.Event()

    with Client(url) as client:
        reply = client.session("alice").send("a room")
        assert len(hub.bodies) == 1
        gate.set()
        assert reply.text == "Booked."


def test_a_refusal_is_raised_by_send(hub: FakeHub, url: str):
    hub.refusals = [(429, {"code": "QUEUE_FULL", "message": "Too many."})]

    with Client(url) as client, pytest.raises(QueueFull):
        client.session("alice").send("a room")
    assert len(hub.requests) == 1


def test_a_message_that_was_sent_before_is_followed(hub: FakeHub, url: str):
    """A program that was restarted asks for the answer to what the one before it sent."""
    with Client(url) as client:
        reply = client.session("alice").follow("m1")

        assert (reply.text, len(list(reply))) == ("Booked.", 5)
    assert hub.bodies == []


def test_the_error_of_a_turn_is_raised_where_it_is_looked_at(hub: FakeHub, url: str):
    hub.lines = events_of(ACCEPTED, said("I"), FAILED)

    with Client(url) as client:
        reply = client.session("alice").send("a room")
        with pytest.raises(HandlerError):
            _ = reply.text
        with pytest.raises(HandlerError):
            list(reply)
    assert len(hub.requests) == 1


def test_a_drop_is_resumed_while_nobody_looks(hub: FakeHub, url: str):
    hub.cuts = [2]

    with Client(url) as client:
        assert client.session("alice").send("a room", message_id="m1").text == "Booked."
    assert hub.requests[1:] == ["GET /v1/sessions/alice/messages/m1?after=1048577"]


def test_replies_that_nobody_reads_hold_no_connection(hub: FakeHub, url: str):
    """Otherwise a loop that only sends would open one socket a message."""
    with Client(url) as client:
        session = client.session("alice")
        replies = [session.send("a room") for _ in range(3)]
        assert [reply.text for reply in replies] == ["Booked."] * 3
        for _ in range(5):
            assert session.send("a room").text == "Booked."

    assert len(hub.ports) <= 3


def test_any_thread_may_call(hub: FakeHub, url: str):
    texts: list[str] = []
    with Client(url) as client:
        threads = [
            threading.Thread(target=lambda number=number: texts.append(client.session(f"s{number}").send("x").text))
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert texts == ["Booked."] * 8
    assert len(hub.bodies) == 8


def test_ctrl_c_ends_a_wait_and_not_the_turn(hub: FakeHub, url: str):
    """Stop is a verb of its own; the reply can be looked at again."""
    gate = hub.gates[2] = threading.Event()
    with Client(url) as client:
        reply = client.session("alice").send("a room")
        thread = threading.Thread(target=lambda: hub.has_sent.wait() and os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # it may come at any point from here
            thread.start()
            list(reply)
        thread.join()
        gate.set()

        assert [event.type for event in reply][-1] == "complete"
        assert reply.text == "Booked."
    assert not hub.cancelled


def test_closing_ends_what_waits_and_is_idempotent(hub: FakeHub, url: str):
    gate = hub.gates[2] = threading.Event()
    client = Client(url)
    client.session("alice").send("a room")

    client.close()
    client.close()
    gate.set()

    with pytest.raises(RuntimeError, match="closed"):
        client.workers()
    assert not any(thread.name == "satchel-client" for thread in threading.enumerate())


def test_the_other_calls_are_the_same(url: str):
    with Client(url) as client:
        session = client.session("alice")

        assert session.info().head == 12
        assert session.messages(limit=1).next_cursor == "7"
        assert session.message("m1").answer.text == "Booked."
        assert session.cancel("m1").status == "cancelled"
        assert session.snapshot(3).startswith(b"SQLite format 3")
        assert [row.session_id for row in client.sessions().sessions] == ["alice"]
        assert [row.worker_id for row in client.workers()] == ["w1"]
        with pytest.raises(SessionNotFound):
            client.session("nobody").info()
