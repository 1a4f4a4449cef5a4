"""Everything that takes bytes from outside: a function each that raises only when a promise about them is broken.

The same functions are run by Hypothesis in CI, by a coverage-guided fuzzer by hand
(``just fuzz``), and over every find that was kept.
"""

import contextlib
from collections.abc import Callable

import apsw
import msgspec

from satchel.errors import ApplyConflict, CorruptPayload, CorruptState, LinkError, StateError
from satchel.limits import STATE_BYTES_MAX
from satchel.model import Encoding, Epoch, Link, Payload, PayloadKind, StateName, Version, next_state_id
from satchel.protocol import codec
from satchel.protocol.link import Link as LinkRules
from satchel.protocol.link import LinkState, Role
from satchel.state.delta import check_turn_mark
from satchel.state.payload import checksum, seal, unseal
from satchel.state.session import OpenSession
from tests.protocol import frames
from tests.unit.state.sessions import KEY, Recording

SCHEMA = """
CREATE TABLE note (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL) STRICT;
CREATE TABLE part (name TEXT PRIMARY KEY NOT NULL, size REAL, data BLOB, UNIQUE (size)) WITHOUT ROWID;
CREATE VIRTUAL TABLE search USING fts5 (text);
CREATE TRIGGER noted AFTER INSERT ON note BEGIN INSERT INTO search (text) VALUES (new.text); END;
"""


class Target(msgspec.Struct, frozen=True):
    """*check* raises if *data* did what bytes may not; *corpus* makes valid bytes to begin from."""

    name: str
    check: Callable[[bytes], None]
    corpus: Callable[[], list[bytes]]


# --- frames --------------------------------------------------------------------------------------


def _open_link(role: Role) -> LinkRules:
    link = LinkRules(role, now=0.0)
    if role is Role.HUB:
        link.receive(codec.encode_worker(frames.REGISTER), 0.0)
        link.send(frames.REGISTERED)
    else:
        link.send(frames.REGISTER)
        link.receive(codec.encode_hub(frames.REGISTERED), 0.0)
    return link


def check_frame_to_hub(data: bytes) -> None:
    """A frame is taken and means the same when it is sent on, or the link is dead and says so."""
    _check_frame(data, Role.HUB)


def check_frame_to_worker(data: bytes) -> None:
    """The same on the worker's side."""
    _check_frame(data, Role.WORKER)


def _check_frame(data: bytes, role: Role) -> None:
    encode, decode = (
        (codec.encode_worker, codec.decode_worker) if role is Role.HUB else (codec.encode_hub, codec.decode_hub)
    )
    link = _open_link(role)
    try:
        received = link.receive(data, 1.0)
    except LinkError:
        assert link.state is LinkState.CLOSED, "a side that saw a violation is dead"
        return
    for frame in received:
        again = encode(frame)  # type: ignore[operator]  # one of the peer's frames
        assert decode(again) == frame, "what was taken means something else when it is sent"


# --- payloads and states -------------------------------------------------------------------------


def check_payload(data: bytes) -> None:
    """An envelope gives the bytes it names or is refused; it never gives more, and never asks for more memory."""
    if len(data) < 6:
        return
    raw_size = int.from_bytes(data[1:5], "big")
    body = data[6:]
    sum_ = checksum(body) if data[5] else body[:16]
    payload = Payload(list(PayloadKind)[data[0] % 2], Encoding(data[0] // 2 % 2), raw_size, sum_, body)
    try:
        raw = unseal(payload, raw_size_max=STATE_BYTES_MAX)
    except CorruptPayload:
        return
    assert len(raw) == raw_size <= STATE_BYTES_MAX


def _payload_corpus() -> list[bytes]:
    made = []
    for raw in (b"", b"x" * 10_000, bytes(range(256)) * 20):
        payload = seal(PayloadKind.SNAPSHOT, raw)
        made.append(bytes([2 * payload.encoding]) + len(raw).to_bytes(4, "big") + b"\1" + payload.data)
    made.append(b"\2" + (2**31).to_bytes(4, "big") + b"\1" + seal(PayloadKind.DELTA, b"z" * 100_000).data)
    return made


class States:
    """A session of two versions, whose delta and image are what the bytes claim to be."""

    def __init__(self) -> None:
        with Recording(SCHEMA) as recording:
            recording.turn("INSERT INTO note (text) VALUES ('first'), ('second')")
            self.snapshot = recording.links()[0]
            self.image = recording.session._database.image()
            recording.turn(_busy_turn)
            self.delta = recording.chain[-1]
            self.schema = recording.session.schema

    def check_changeset(self, data: bytes) -> None:
        """A changeset under its own right name is applied or refused; the hub's look at its end takes any bytes."""
        base = self.snapshot.name
        kind, version = PayloadKind.DELTA, Version(base.version + 1)
        link = Link(StateName(version, next_state_id(base.state_id, version, kind, data)), seal(kind, data))
        self._check_chain([self.snapshot, link])
        with contextlib.suppress(CorruptPayload):
            check_turn_mark(data, session_id=KEY.session_id, version=version, epoch=Epoch(2), base=base)

    def check_image(self, data: bytes) -> None:
        """An image is opened and can be read, or is refused."""
        self._check_chain([Link(self.snapshot.name, seal(PayloadKind.SNAPSHOT, data))])

    def _check_chain(self, links: list[Link]) -> None:
        open_before = len(apsw.connections())
        try:
            session = OpenSession.from_chain(
                KEY.session_id, links, base=links[-1].name, schema=self.schema, digest=None
            )
        except (CorruptPayload, CorruptState, ApplyConflict, StateError):
            pass
        else:
            for table in ("note", "part", "_satchel_turn", "_satchel_values", "_satchel_history"):
                session._database.run(f"SELECT count(*) FROM {table}")
            session.close()
        assert len(apsw.connections()) == open_before, "a connection was left open"

    def changesets(self) -> list[bytes]:
        return [unseal(self.delta.payload, raw_size_max=STATE_BYTES_MAX)]

    def images(self) -> list[bytes]:
        return [self.image]


def _busy_turn(session: OpenSession) -> None:
    for statement in (
        "INSERT INTO note (text) VALUES ('third')",
        "UPDATE note SET text = 'other' WHERE id = 1",
        "DELETE FROM note WHERE id = 2",
        "INSERT INTO part VALUES ('a', 1.5, x'00ff'), ('b', NULL, NULL)",
    ):
        session.state.execute(statement)


# --- all of them ---------------------------------------------------------------------------------


def targets() -> dict[str, Target]:
    """Return every target by its name."""
    from tests.fuzz.http import Requests  # noqa: PLC0415  # it opens a store
    from tests.fuzz.links import check_link_order, link_orders  # noqa: PLC0415
    from tests.fuzz.runtimes import Scripts  # noqa: PLC0415

    states, requests, scripts = States(), Requests(), Scripts()
    made = (
        Target("frame-to-hub", check_frame_to_hub, lambda: list(map(codec.encode_worker, frames.WORKER_FRAMES))),
        Target("frame-to-worker", check_frame_to_worker, lambda: list(map(codec.encode_hub, frames.HUB_FRAMES))),
        Target("link", check_link_order, link_orders),
        Target("payload", check_payload, _payload_corpus),
        Target("changeset", states.check_changeset, states.changesets),
        Target("image", states.check_image, states.images),
        Target("request", requests.check, requests.corpus),
        Target("runtime", scripts.check, scripts.corpus),
    )
    return {target.name: target for target in made}
