"""The rules of a link: who may send what when, and when the peer is lost."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satchel.errors import LinkClosed, LinkError, PeerViolation
from satchel.limits import PACKED_BYTES_MAX, PING_INTERVAL_S, PINGS_LOST_MAX
from satchel.protocol.codec import decode_worker, encode_hub, encode_worker
from satchel.protocol.link import MOVES, Link, LinkState, Role
from satchel.protocol.messages import Cancel, Frame, Pieces, Ping, Pong, Refused, Register, Registered, Released
from tests.protocol.frames import ATTEMPT, HUB_FRAMES, REGISTER, RESULT, WARM, WORKER_FRAMES

REGISTERED = Registered("default", 2.0)


def outgoing(link: Link) -> list[bytes]:
    """Return every message that a side has to send now."""
    return list(iter(link.next_message, None))


def said(link: Link, frame: Frame) -> bytes:
    link.send(frame)
    (message,) = outgoing(link)
    return message


def ticked(link: Link, now: float) -> list[bytes]:
    link.tick(now)
    return outgoing(link)


def opened(now: float = 0.0) -> tuple[Link, Link]:
    """Return both sides of a link that is open, worker first."""
    worker, hub = Link(Role.WORKER, now=now), Link(Role.HUB, now=now)
    hub.receive(said(worker, REGISTER), now)
    worker.receive(said(hub, REGISTERED), now)
    return worker, hub


def test_a_worker_registers_and_a_turn_goes_both_ways():
    worker, hub = Link(Role.WORKER, now=0), Link(Role.HUB, now=0)

    assert hub.receive(said(worker, REGISTER), 0) == [REGISTER]
    assert worker.receive(said(hub, REGISTERED), 0) == [REGISTERED]
    assert worker.receive(said(hub, WARM), 0) == [WARM]
    assert hub.receive(said(worker, RESULT), 0) == [RESULT]
    assert worker.state is hub.state is LinkState.OPEN


@pytest.mark.parametrize("frame", [frame for frame in WORKER_FRAMES if not isinstance(frame, Register)])
def test_nothing_comes_before_register(frame):
    """Until then the hub does not know who speaks."""
    hub = Link(Role.HUB, now=0)

    with pytest.raises(PeerViolation, match="opened"):
        hub.receive(encode_worker(frame), 0)


@pytest.mark.parametrize("frame", HUB_FRAMES)
def test_a_hub_says_nothing_before_it_is_asked(frame):
    worker = Link(Role.WORKER, now=0)

    with pytest.raises(PeerViolation, match="opened"):
        worker.receive(encode_hub(frame), 0)


def test_a_worker_registers_once():
    """A second one would give the link another name in the middle of its turns."""
    _, hub = opened()

    with pytest.raises(PeerViolation, match="Register"):
        hub.receive(encode_worker(REGISTER), 0)


def test_what_is_not_legal_now_is_not_sent():
    """Our own mistake is another class than the peer's, and harms no link."""
    worker = Link(Role.WORKER, now=0)

    with pytest.raises(LinkError, match="opened") as caught:
        said(worker, RESULT)

    assert not isinstance(caught.value, LinkClosed | PeerViolation)
    assert said(worker, REGISTER)


def test_every_move_is_legal_on_both_sides():
    """What one side may send, the other may receive: the table is one."""
    for frame in WORKER_FRAMES + HUB_FRAMES:
        senders = [role for role, moves in MOVES.items() if any(type(frame) in kinds for kinds in moves.values())]
        assert senders, type(frame).__name__


@given(st.lists(st.sampled_from(WORKER_FRAMES + HUB_FRAMES), max_size=6))
def test_what_one_side_may_send_the_other_takes(sent):
    """Both sides move together through any conversation."""
    worker, hub = Link(Role.WORKER, now=0), Link(Role.HUB, now=0)
    for frame, (sender, receiver) in itertools.product(sent, [(worker, hub), (hub, worker)]):
        if isinstance(frame, Pong):
            continue  # answers a ping that was sent, which these are not
        try:
            data = said(sender, frame)
        except LinkError:
            continue
        receiver.receive(data, 0)
        assert worker.state is hub.state


def test_a_side_that_saw_a_violation_is_dead_and_says_why():
    """Nothing that comes after it can be trusted."""
    _, hub = opened()
    with pytest.raises(PeerViolation):
        hub.receive(b"\xff", 0)

    for use in (
        lambda: hub.receive(encode_worker(Ping(1)), 0),
        lambda: hub.send(WARM),
        lambda: ticked(hub, 100),
    ):
        with pytest.raises(LinkClosed, match="not protobuf"):
            use()


def test_a_refused_worker_learns_why_and_is_closed():
    worker, hub = Link(Role.WORKER, now=0), Link(Role.HUB, now=0)
    hub.receive(said(worker, REGISTER), 0)
    refused = Refused("LINK_REFUSED", "Its schema is another.")

    assert worker.receive(said(hub, refused), 0) == [refused]
    for side in (worker, hub):
        with pytest.raises(LinkClosed, match="Its schema is another"):
            ticked(side, 100)


def test_a_frame_that_cannot_be_encoded_leaves_the_link_as_it_was():
    _, hub = opened()

    with pytest.raises(Exception, match="cannot be sent"):
        said(hub, Cancel(ATTEMPT, "\ud800"))

    assert said(hub, WARM)


# --- heartbeat ---------------------------------------------------------------------------------


def test_a_ping_is_due_every_interval_the_hub_names():
    worker, hub = opened()

    for side in (worker, hub):
        assert side.next_deadline() == 2.0
        assert ticked(side, 1.9) == []
        assert len(ticked(side, 2.0)) == 1
        assert side.next_deadline() == 4.0


def test_a_ping_is_answered_by_the_link_itself():
    """No shell, and so no handler, stands between a ping and its answer."""
    worker, hub = opened()
    (ping,) = ticked(hub, 2)

    assert worker.receive(ping, 2) == []
    (pong,) = outgoing(worker)
    assert outgoing(worker) == []
    assert hub.receive(pong, 2) == []


def test_a_peer_that_answers_is_never_lost():
    worker, hub = opened()

    for now in range(2, 200, 2):
        for ping in ticked(hub, now):
            worker.receive(ping, now)
        for pong in outgoing(worker):
            hub.receive(pong, now)

    assert hub.state is LinkState.OPEN


def test_a_peer_is_lost_after_its_last_chance_and_not_before():
    _, hub = opened()
    pings = [ticked(hub, 2 * count) for count in range(1, PINGS_LOST_MAX + 1)]
    assert all(pings)

    assert ticked(hub, 2 * PINGS_LOST_MAX + 1.9) == []
    with pytest.raises(LinkClosed, match="3 pings"):
        ticked(hub, 2 * PINGS_LOST_MAX + 2)


def test_an_answer_to_an_early_ping_leaves_the_later_ones_unanswered():
    """Only what was answered counts: a peer that falls behind is lost later, not never."""
    _, hub = opened()
    for count in range(1, PINGS_LOST_MAX + 1):
        ticked(hub, 2 * count)
    hub.receive(encode_worker(Pong(1)), 6)

    assert len(ticked(hub, 8)) == 1
    with pytest.raises(LinkClosed):
        ticked(hub, 10)


@pytest.mark.parametrize("number", [0, 2])
def test_an_answer_to_no_ping_is_a_violation(number):
    """It would make a dead peer look alive."""
    _, hub = opened()
    ticked(hub, 2)

    with pytest.raises(PeerViolation, match="number"):
        hub.receive(encode_worker(Pong(number)), 2)


def test_a_ping_is_answered_once():
    _, hub = opened()
    ticked(hub, 2)
    hub.receive(encode_worker(Pong(1)), 2)

    with pytest.raises(PeerViolation, match="number"):
        hub.receive(encode_worker(Pong(1)), 2)


@pytest.mark.parametrize("role", Role)
def test_a_link_that_never_opens_is_lost_without_a_ping(role):
    """A peer that connects and is silent must not hold a place."""
    link = Link(role, now=0)
    due = [PING_INTERVAL_S * count for count in range(1, PINGS_LOST_MAX + 1)]

    assert [ticked(link, now) for now in due] == [[]] * PINGS_LOST_MAX
    with pytest.raises(LinkClosed):
        ticked(link, due[-1] + PING_INTERVAL_S)


def test_slow_registration_costs_no_pings_later():
    worker, hub = Link(Role.WORKER, now=0), Link(Role.HUB, now=0)
    hub.receive(said(worker, REGISTER), 0)
    for side in (worker, hub):
        ticked(side, PING_INTERVAL_S)
    worker.receive(said(hub, REGISTERED), 6)

    assert worker.next_deadline() == 8.0
    (ping,) = ticked(hub, 8)
    worker.receive(ping, 8)
    assert hub.receive(outgoing(worker)[0], 8) == []


def test_a_process_that_was_suspended_sends_one_ping():
    """A burst would count as several unanswered ones at once."""
    _, hub = opened()

    assert len(ticked(hub, 1000)) == 1
    assert ticked(hub, 1001) == []


# --- several frames in one message -------------------------------------------------------------


def test_frames_of_one_message_are_followed_in_order():
    worker, hub = opened()
    (ping,) = ticked(worker, 2)
    released = encode_worker(Released("alice"))

    assert hub.receive(released + ping + released, 2) == [Released("alice")] * 2
    assert worker.receive(hub.next_message(), 2) == []


def test_a_message_with_one_bad_frame_is_none():
    """What stood before it came from a peer that does not keep the rules either."""
    _, hub = opened()

    with pytest.raises(PeerViolation, match="Register"):
        hub.receive(encode_worker(Released("alice")) + encode_worker(REGISTER), 0)
    assert hub.state is LinkState.CLOSED


def test_nothing_rides_behind_a_register():
    """Until the hub has answered, a worker says nothing else, in the same message neither."""
    hub = Link(Role.HUB, now=0)

    with pytest.raises(PeerViolation, match="registering"):
        hub.receive(encode_worker(REGISTER) + encode_worker(Released("alice")), 0)


def test_what_waits_travels_in_one_message():
    """A system call and a wake-up for each would cost more than the frames do."""
    worker, hub = opened()
    released = [Released(f"s{number}") for number in range(100)]
    for frame in released:
        worker.send(frame)

    (message,) = outgoing(worker)

    assert hub.receive(message, 0) == released


@given(st.lists(st.integers(0, PACKED_BYTES_MAX + 10), max_size=12))
def test_frames_are_joined_up_to_a_bound_and_in_order(sizes: list[int]):
    """A frame behind a message waits for no more than that; one that is larger travels alone."""
    worker, _ = opened()
    sent = [Pieces(ATTEMPT, 1, "i1", ("x" * size,)) for size in sizes]
    for frame in sent:
        worker.send(frame)

    messages = outgoing(worker)

    assert [frame for message in messages for frame in decode_worker(message)] == sent
    assert all(len(message) <= PACKED_BYTES_MAX or len(decode_worker(message)) == 1 for message in messages)
    for one, next_one in itertools.pairwise(messages):
        assert len(one) + len(encode_worker(decode_worker(next_one)[0])) > PACKED_BYTES_MAX, "there was room"
