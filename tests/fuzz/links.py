"""Any order of frames, sends and silence on one side of a link, against a short account of what is legal."""

from unittest.mock import patch

import hypothesis.strategies as st

from satchel import limits
from satchel.errors import LinkClosed, LinkError, PeerViolation
from satchel.limits import PING_INTERVAL_S, PINGS_LOST_MAX
from satchel.protocol import codec
from satchel.protocol.link import Link, LinkState, Role
from satchel.protocol.messages import (
    Announced,
    Carried,
    Chunk,
    Credit,
    Frame,
    Ping,
    Pong,
    Refused,
    Register,
    Registered,
)
from tests.protocol.frames import HUB_FRAMES, REGISTER, REGISTERED, WORKER_FRAMES

SPOKEN = {Role.WORKER: WORKER_FRAMES, Role.HUB: HUB_FRAMES}


def kind_of(frame: Frame) -> type:
    """Return what tells who may send a frame: of one that is announced, the frame itself."""
    return type(frame.frame if isinstance(frame, Announced) else frame)


KINDS = {role: {kind_of(frame) for frame in spoken} for role, spoken in SPOKEN.items()}
FRAMES = (*WORKER_FRAMES, *HUB_FRAMES)
ENCODE = {Role.WORKER: codec.encode_worker, Role.HUB: codec.encode_hub}
DECODE = {Role.WORKER: codec.decode_worker, Role.HUB: codec.decode_hub}
STEPS_MAX = 400
SMALL = {"FRAME_DATA_BYTES_MAX": 3, "CHUNK_BYTES_MAX": 2, "CREDIT_BYTES_MAX": 5, "TRANSFERS_MAX": 2}
"""Bounds at which the frames here have their data sent in chunks."""


def check_link_order(data: bytes) -> bool:
    """Each pair of bytes is a step: something comes, something is to be sent, or time passes.

    What is legal goes through, and nothing else; every refusal is typed; a side that
    erred is dead; each ping is answered once; silence ends a link; chunks keep to credit
    in both directions.
    """
    with patch.multiple(limits, **SMALL):
        walk = _Walk(Role.HUB if data[:1] > b"\x7f" else Role.WORKER)
        for kind, detail in zip(data[1:STEPS_MAX:2], data[2:STEPS_MAX:2], strict=False):
            walk.step(kind, detail)
        return walk.phase == "open"


class _Walk:
    def __init__(self, role: Role) -> None:
        self.role = role
        self.link = Link(role, now=0.0)
        self.now = 0.0
        self.phase = "new"
        """new, registering, open or dead: what the frames so far have made of the link."""
        self.answers: list[int] = []
        self.unanswered: list[int] = []
        """Our pings since the last one that was answered."""
        self.silent_s = 0.0
        self.arriving: dict[int, int] = {}
        """Bytes that are still to come of each of the peer's transfers."""
        self.room = limits.CREDIT_BYTES_MAX
        """What the peer may send of them."""
        self.under_way = 0
        """Bytes of our chunks that the peer has given no credit for."""

    def step(self, kind: int, detail: int) -> None:
        match kind % 5:
            case 0:
                self.receive(self._legal(self.role.peer, detail))
            case 1:
                self.send(self._legal(self.role, detail))
            case 2:
                self.wait(detail)
            case 3:
                self.receive(FRAMES[detail % len(FRAMES)])
            case _:
                self.send(FRAMES[detail % len(FRAMES)])

    def _legal(self, speaker: Role, detail: int) -> Frame:
        """Return what *speaker* may say now, if it may say anything."""
        if self.phase == "new":
            return REGISTER
        if self.phase == "registering":
            return HUB_FRAMES[1] if detail % 8 == 0 else REGISTERED
        if speaker is self.role.peer and self.unanswered and detail % 3 == 0:
            return Pong(self.unanswered[detail % len(self.unanswered)])
        if speaker is self.role.peer and self.arriving and self.room and detail % 3 == 1:
            transfer, left = list(self.arriving.items())[detail % len(self.arriving)]
            return Chunk(transfer, b"c" * min(left, self.room, detail % 4 + 1))
        if speaker is self.role.peer and self.under_way and detail % 3 == 2:
            return Credit(detail % self.under_way + 1)
        frame = SPOKEN[speaker][detail % len(SPOKEN[speaker])]
        return frame if self._is_legal(speaker, frame) else Ping(detail)

    def _is_legal(self, speaker: Role, frame: Frame) -> bool:
        is_greeting = isinstance(frame, Register | Registered | Refused)
        if self.phase == "new":
            return speaker is Role.WORKER and isinstance(frame, Register)
        if self.phase == "registering":
            return speaker is Role.HUB and isinstance(frame, Registered | Refused)
        if self.phase != "open" or kind_of(frame) not in KINDS[speaker] or is_greeting:
            return False
        return not isinstance(frame, Carried) if speaker is self.role else self._is_in_place(frame)

    def _is_in_place(self, frame: Frame) -> bool:
        """Whether what came before makes this frame of the peer's legal."""
        match frame:
            case Pong(number=number):
                return number in self.unanswered
            case Announced(transfer=transfer):
                return transfer not in self.arriving and len(self.arriving) < limits.TRANSFERS_MAX
            case Chunk(transfer=transfer, data=data):
                return len(data) <= min(self.arriving.get(transfer, 0), self.room)
            case Credit(size=size):
                return size <= self.under_way
            case _:
                return True

    def receive(self, frame: Frame) -> None:
        speaker = self.role.peer
        data = ENCODE[speaker if kind_of(frame) in KINDS[speaker] else self.role](frame)
        try:
            (frame,) = DECODE[speaker](data)  # the bytes of one side's frame may be another frame of the other's
            is_legal = self._is_legal(speaker, frame)
        except PeerViolation:
            is_legal = False
        try:
            whole = self.link.receive(data, self.now)
        except (PeerViolation, LinkClosed):
            assert not is_legal, f"a legal {type(frame).__name__} was refused"
            self.phase = "dead"
        else:
            assert is_legal, f"{type(frame).__name__} was taken while the link was {self.phase}"
            self._moved(frame)
            if isinstance(frame, Ping):
                self.answers.append(frame.number)
            if isinstance(frame, Pong):
                self.unanswered = [number for number in self.unanswered if number > frame.number]
            self.carried(frame, whole)
        self.look()

    def carried(self, frame: Frame, whole: list[Frame]) -> None:
        """Follow a transfer of the peer's; its frame comes with its last byte, and not before."""
        is_whole = not isinstance(frame, Ping | Pong | Carried)
        match frame:
            case Announced(transfer=transfer, sizes=sizes):
                self.arriving[transfer] = sum(sizes)
            case Chunk(transfer=transfer, data=data):
                self.room -= len(data)
                self.arriving[transfer] -= len(data)
                is_whole = not self.arriving[transfer]
                if is_whole:
                    del self.arriving[transfer]
            case Credit(size=size):
                self.under_way -= size
        assert len(whole) == is_whole, f"{len(whole)} frames came of a {type(frame).__name__}"

    def send(self, frame: Frame) -> None:
        is_legal = self._is_legal(self.role, frame)
        try:
            self.link.send(frame)
        except LinkError:  # a dead side says LinkClosed, which is one
            assert not is_legal, f"a legal {type(frame).__name__} was not sent"
        else:
            assert is_legal, f"{type(frame).__name__} was sent while the link was {self.phase}"
            self._moved(frame)
            if isinstance(frame, Pong):
                self.answers.append(frame.number)
        self.look()

    def wait(self, detail: int) -> None:
        waited_s = (detail % 8) * PING_INTERVAL_S / 4
        self.now += waited_s
        self.silent_s += waited_s
        try:
            self.link.tick(self.now)
            sent = self.said()
        except LinkClosed:
            is_early = self.silent_s < PINGS_LOST_MAX * PING_INTERVAL_S or (
                self.phase == "open" and len(self.unanswered) < PINGS_LOST_MAX
            )
            assert self.phase == "dead" or not is_early, f"the peer was given up after {self.silent_s} s"
            self.phase = "dead"
        else:
            assert self.phase != "dead", "a dead side went on"
            assert all(isinstance(ping, Ping) for ping in sent)
            assert self.phase == "open" or not sent, "a ping before the link was open"
            self.unanswered += [ping.number for ping in sent if isinstance(ping, Ping)]
            assert len(self.unanswered) <= PINGS_LOST_MAX, "silence goes on for ever"
        self.look()

    def _moved(self, frame: Frame) -> None:
        match frame:
            case Register():
                self.phase = "registering"
            case Registered():
                self.phase, self.silent_s = "open", 0.0
            case Refused():
                self.phase = "dead"

    def look(self) -> None:
        is_dead = self.link.state is LinkState.CLOSED
        assert is_dead == (self.phase == "dead"), f"the link is {self.link.state} when it should be {self.phase}"
        answers = [frame for frame in self.said() if isinstance(frame, Pong)]
        assert answers == [Pong(number) for number in self.answers], "each ping is answered once"
        assert not self.said(), "an answer is given twice"
        self.answers.clear()

    def said(self) -> list[Frame]:
        """Return what the link has to say now, and see that its chunks and its credit keep to the rules."""
        said = [frame for data in iter(self.link.next_message, None) for frame in DECODE[self.role](data)]
        self.under_way += sum(len(frame.data) for frame in said if isinstance(frame, Chunk))
        self.room += sum(frame.size for frame in said if isinstance(frame, Credit))
        assert self.under_way <= limits.CREDIT_BYTES_MAX, "more is under way than there was credit for"
        assert self.room <= limits.CREDIT_BYTES_MAX, "credit was given for nothing"
        return said


def link_orders() -> list[bytes]:
    """A registration and some turns, on either side; and silence."""
    talk = bytes(step for detail in range(1, 14) for step in (0, detail, 1, detail, 2, 2))
    hub, worker = b"\xff\0\0\1\1", b"\0\1\0\0\1"
    return [hub + talk, worker + talk, hub + b"\2\4" * 12, b"\xff" + b"\2\7" * 9]


def near_link_orders() -> st.SearchStrategy[bytes]:
    """A greeting, mostly, and then anything that is mostly legal."""
    step = st.tuples(st.sampled_from([0, 0, 0, 1, 1, 2, 2, 3, 4]), st.integers(0, 255)).map(bytes)
    steps = st.lists(step, max_size=40).map(b"".join)
    greeting = st.sampled_from([b"\xff\0\0\1\1", b"\0\1\0\0\1", b"\xff\0\0\1\0", b"\0", b"\xff"])
    return st.builds(bytes.__add__, greeting, steps)
