"""How large payloads share a link: whole, in order per session, under credit, and never in anybody's way."""

import itertools
from collections import defaultdict, deque
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satchel import limits
from satchel.errors import LinkClosed, PeerViolation
from satchel.protocol.codec import decode_hub, decode_worker, encode_hub
from satchel.protocol.link import Link, LinkState, Role
from satchel.protocol.messages import (
    Announced,
    AttemptName,
    Cancel,
    Chunk,
    Credit,
    Frame,
    Ping,
    Request,
    session_of,
)
from tests.protocol import frames
from tests.protocol.frames import REGISTER, SNAPSHOT, state

OVER, CHUNK, CREDIT = 40, 16, 48


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Bounds at which a few bytes make a transfer."""
    monkeypatch.setattr(limits, "FRAME_DATA_BYTES_MAX", OVER)
    monkeypatch.setattr(limits, "CHUNK_BYTES_MAX", CHUNK)
    monkeypatch.setattr(limits, "CREDIT_BYTES_MAX", CREDIT)
    monkeypatch.setattr(limits, "TRANSFERS_MAX", 2)


def opened() -> tuple[Link, Link]:
    """Return both sides of a link that is open, worker first."""
    worker, hub = Link(Role.WORKER, now=0), Link(Role.HUB, now=0)
    worker.send(REGISTER)
    hub.receive(worker.next_message(), 0)
    hub.send(frames.Registered("default", 5.0))
    worker.receive(hub.next_message(), 0)
    return worker, hub


def request(session: str, *sizes: int, number: int = 1) -> Request:
    """Return a cold start of *session* whose payloads have data of *sizes*."""
    links = [
        frames.Link(state(version), frames.payload(kind, bytes([version]) * size))
        for version, kind, size in zip(
            itertools.count(1), [frames.PayloadKind.SNAPSHOT] + [frames.PayloadKind.DELTA] * 99, sizes, strict=False
        )
    ]
    made = frames.request(*links, base=state(len(links)))
    return msgspec.structs.replace(made, attempt=AttemptName(session, f"m{number}", number))


def cancel(session: str, number: int) -> Cancel:
    return Cancel(AttemptName(session, f"m{number}", number))


def large(session: str, number: int = 1) -> Request:
    return request(session, 100, number=number)


def next_of(hub: Link) -> list[Frame]:
    """Return the frames of the next message that a hub has to send."""
    return decode_hub(hub.next_message())


def chunk_bytes(frames: Iterable[Frame]) -> int:
    return sum(len(frame.data) for frame in frames if isinstance(frame, Chunk))


def announced(transfer: int, *sizes: int) -> bytes:
    """Return what a hub says that has data of *sizes* to send."""
    bare = request("alice", *(0 for _ in sizes))
    return encode_hub(Announced(bare, transfer, sizes))


# --- whole, in order, in turns --------------------------------------------------------------------

sent_frames = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 120), min_size=1, max_size=4)),
        st.tuples(st.sampled_from("abc"), st.none()),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(sent_frames, st.randoms(use_true_random=False))
def test_every_frame_arrives_whole_and_in_its_sessions_order(sent, chance):
    """Whatever the network does with time: sends, deliveries and credit in any interleaving."""
    worker, hub = opened()
    to_worker: deque[bytes] = deque()
    to_hub: deque[bytes] = deque()
    frames_left = deque(
        cancel(session, number) if sizes is None else request(session, *sizes, number=number)
        for number, (session, sizes) in enumerate(sent, start=1)
    )
    given_order, taken_order = defaultdict(list), defaultdict(list)
    in_flight = 0

    while frames_left or to_worker or to_hub or not hub.is_idle or not worker.is_idle:
        match chance.randrange(5):
            case 0 if frames_left:
                frame = frames_left.popleft()
                given_order[session_of(frame)].append(frame)
                hub.send(frame)
            case 1 if (message := hub.next_message()) is not None:
                to_worker.append(message)
                in_flight += chunk_bytes(decode_hub(message))
            case 2 if to_worker:
                for frame in worker.receive(to_worker.popleft(), 0):
                    taken_order[session_of(frame)].append(frame)
            case 3 if (message := worker.next_message()) is not None:
                to_hub.append(message)
            case 4 if to_hub:
                message = to_hub.popleft()
                in_flight -= sum(frame.size for frame in decode_worker(message))
                hub.receive(message, 0)
        assert in_flight <= CREDIT, "more than the credit is under way"

    assert taken_order == given_order


def test_a_payload_up_to_the_line_stays_in_its_frame():
    """Most deltas are small: they cost no frame more."""
    worker, hub = opened()

    hub.send(request("alice", OVER))

    assert worker.receive(hub.next_message(), 0) == [request("alice", OVER)]
    assert hub.is_idle


def test_the_other_frames_go_before_the_next_chunk():
    """A token of another session waits for one chunk, not for a state."""
    _, hub = opened()
    hub.send(large("alice"))
    first = [type(frame) for _ in range(2) for frame in next_of(hub)]

    hub.send(cancel("bob", 1))
    hub.send(cancel("carol", 2))

    assert first == [Announced, Chunk]
    assert next_of(hub) == [cancel("bob", 1), cancel("carol", 2)]
    assert [type(frame) for frame in next_of(hub)] == [Chunk]


def test_a_ping_goes_before_the_next_chunk():
    """A peer must not seem dead because it is sent a state."""
    _, hub = opened()
    hub.send(large("alice"))
    hub.next_message()

    hub.tick(100)

    assert next_of(hub) == [Ping(1)]


def test_what_is_behind_a_transfer_of_its_session_waits_for_its_end():
    """A cancel that overtook its request would cancel nothing."""
    worker, hub = opened()
    hub.send(large("alice"))
    hub.send(cancel("alice", 1))
    hub.send(large("alice", 2))
    hub.send(cancel("alice", 2))

    taken = carried(hub, worker)

    assert taken == [large("alice"), cancel("alice", 1), large("alice", 2), cancel("alice", 2)]


def test_transfers_take_turns():
    """A small one is not behind a large one."""
    worker, hub = opened()
    hub.send(request("alice", 1000))
    hub.send(request("bob", 60))

    assert carried(hub, worker) == [request("bob", 60), request("alice", 1000)]


def test_only_so_many_transfers_are_open_and_the_next_begins_when_one_ends():
    """The peer's memory is bounded by them."""
    worker, hub = opened()
    for session in ("alice", "bob", "carol", "dave"):
        hub.send(large(session))
    hub.send(cancel("carol", 1))
    seen: list[Frame] = []

    taken = carried(hub, worker, seen)

    assert [session_of(frame) for frame in taken] == ["alice", "bob", "carol", "carol", "dave"]
    opens = [frame.transfer for frame in seen if isinstance(frame, Announced)]
    assert opens == [1, 2, 3, 4], "in the order in which they were sent"
    before = itertools.takewhile(lambda frame: not isinstance(frame, Announced) or frame.transfer < 3, seen)
    of_first = [frame for frame in before if isinstance(frame, Chunk) and frame.transfer == 1]
    assert chunk_bytes(of_first) == 100, "the third began when the first had ended"


def carried(sender: Link, receiver: Link, seen: list[Frame] | None = None) -> list[Frame]:
    """Carry everything a hub has to say, and the credit back; return what the worker was told."""
    taken: list[Frame] = []
    while not sender.is_idle:
        message = sender.next_message()
        if message is not None:
            if seen is not None:
                seen += decode_hub(message)
            taken += receiver.receive(message, 0)
        for credit in iter(receiver.next_message, None):
            sender.receive(credit, 0)
    return taken


def test_without_credit_no_chunk_goes_and_everything_else_does():
    """The bytes that wait in sockets are bounded: a frame is behind no more of them."""
    _, hub = opened()
    hub.send(request("alice", 500))

    sent = [frame for message in iter(hub.next_message, None) for frame in decode_hub(message)]
    hub.send(cancel("bob", 1))

    assert chunk_bytes(sent) == CREDIT
    assert next_of(hub) == [cancel("bob", 1)]
    assert hub.next_message() is None
    assert not hub.is_idle, "it waits for credit"


def test_a_workers_snapshot_travels_in_chunks_too():
    worker, hub = opened()
    data = bytes(range(200))
    result = msgspec.structs.replace(frames.RESULT, payload=msgspec.structs.replace(SNAPSHOT, data=data))
    worker.send(result)
    taken: list[Frame] = []

    while not worker.is_idle:
        for message in iter(worker.next_message, None):
            taken += hub.receive(message, 0)
        for credit in iter(hub.next_message, None):
            worker.receive(credit, 0)

    assert taken == [result]


def test_what_was_sent_is_not_kept():
    """A hub holds a state while it is sent, and no longer."""
    worker, hub = opened()
    hub.send(large("alice"))

    carried(hub, worker)

    assert hub.is_idle
    assert not hub._outbox._open
    assert not hub._outbox._behind
    assert not worker._inbox._arriving


def test_a_frame_that_cannot_be_encoded_leaves_no_transfer_behind():
    worker, hub = opened()
    bad = msgspec.structs.replace(large("alice"), text="\ud800")

    with pytest.raises(Exception, match="cannot be sent"):
        hub.send(bad)
    hub.send(cancel("alice", 1))

    assert carried(hub, worker) == [cancel("alice", 1)]


# --- a peer that breaks the rules -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        ([encode_hub(Chunk(1, b"x"))], "no open transfer"),
        ([announced(1, 50), announced(1, 50)], "number of an open one"),
        ([announced(1, 50), announced(2, 50), announced(3, 50)], "more than 2"),
        ([announced(1, 10), encode_hub(Chunk(1, b"x" * 11))], "more bytes than it announced"),
        ([announced(1, 500), encode_hub(Chunk(1, b"x" * (CREDIT + 1)))], "more than its credit"),
        ([encode_hub(Credit(1))], "not sent"),
        ([announced(1, 10), encode_hub(Chunk(1, b"x" * 10)), encode_hub(Chunk(1, b"x"))], "no open transfer"),
    ],
)
def test_a_peer_that_breaks_the_rules_loses_its_link(sent, fault):
    """Each would be memory without a bound, or bytes of nobody."""
    worker, _ = opened()

    *legal, last = sent

    for message in legal:
        worker.receive(message, 0)
    with pytest.raises(PeerViolation, match=fault):
        worker.receive(last, 0)

    assert worker.state is LinkState.CLOSED
    with pytest.raises(LinkClosed):
        worker.receive(encode_hub(Ping(1)), 0)


@pytest.mark.parametrize("sizes", [(0,), (0, 0), (limits.CHAIN_BYTES_MAX + 1,), (limits.CHAIN_BYTES_MAX, 1)])
def test_nothing_and_more_than_a_chain_is_not_announced(sizes):
    """The bound holds before the first byte is taken in."""
    worker, _ = opened()

    with pytest.raises(PeerViolation, match="transfer"):
        worker.receive(announced(1, *sizes), 0)


def test_a_chain_at_its_bound_is_announced():
    worker, _ = opened()

    assert worker.receive(announced(1, limits.CHAIN_BYTES_MAX), 0) == []


def test_credit_that_is_given_twice_is_refused():
    """It would raise what may be under way, for ever."""
    worker, hub = opened()
    hub.send(large("alice"))
    for message in iter(hub.next_message, None):
        worker.receive(message, 0)
    credit = worker.next_message()
    hub.receive(credit, 0)

    with pytest.raises(PeerViolation, match="not sent"):
        hub.receive(credit, 0)


def test_a_dead_link_keeps_nothing():
    """A hundred megabytes must not wait for a collector."""
    worker, hub = opened()
    hub.send(large("alice"))
    worker.receive(hub.next_message(), 0)
    with pytest.raises(PeerViolation):
        hub.receive(b"\xff", 0)
    with pytest.raises(PeerViolation):
        worker.receive(b"\xff", 0)

    assert hub.next_message() is None
    assert hub.is_idle
    assert not worker._inbox._arriving
