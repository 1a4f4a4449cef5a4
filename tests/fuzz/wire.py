"""One frame, in either direction: what is taken is within its bounds, and means the same when it is sent on."""

import enum
import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as Protobuf

from satchel.errors import LinkError
from satchel.limits import EVENT_BYTES_MAX
from satchel.protocol import codec
from satchel.protocol import link_pb2 as pb
from satchel.protocol.link import Link, LinkState, Role
from satchel.protocol.messages import Request, Result
from tests.fuzz.inputs import NUMBERS
from tests.protocol import frames

ID = re.compile(r"[A-Za-z0-9._~:@+-]{1,128}", re.ASCII)
IDS = {"session_id", "message_id", "worker_id", "tenant", "agent"}
SIZES = {"state_id": 16, "checksum": 16, "fingerprint": 32, "digest": 32}
VALUES: dict[int, tuple[Any, ...]] = {
    FieldDescriptor.CPPTYPE_DOUBLE: (0.0, -1.0, 0.001, 1e300, math.inf, -math.inf, math.nan),
    FieldDescriptor.CPPTYPE_BOOL: (False, True),
    FieldDescriptor.CPPTYPE_STRING: ("", ".", "..", "m1", "a" * 128, "a" * 129, "\0", "é\u2028", "queue"),
    FieldDescriptor.CPPTYPE_ENUM: (0, 1, 2, 3, 4, 16, 99, -1, 2**31 - 1),
}
NUMBERS_SENT = (*NUMBERS, -1, -(2**31), -(2**63), 2**63 - 1, 2**64 - 1, 10**9, 253_402_300_800)
SIZES_SENT = (0, 1, 15, 16, 17, 31, 32, 33, 1000)
LONG_FIELDS = {"text", "metadata", "message", "arguments"}
"""Which texts are sent past their bound: a few, for they are long."""


def check_frame_to_hub(data: bytes) -> bool:
    """A frame is taken and means the same when it is sent on, or the link is dead and says so."""
    links = (_link(Role.HUB, is_open=False), _link(Role.HUB, is_open=True))
    taken = [_is_taken(link, data, codec.encode_worker, codec.decode_worker) for link in links]
    return any(taken)


def check_frame_to_worker(data: bytes) -> bool:
    """The same on the worker's side."""
    links = (_link(Role.WORKER, is_open=False), _link(Role.WORKER, is_open=True))
    taken = [_is_taken(link, data, codec.encode_hub, codec.decode_hub) for link in links]
    return any(taken)


def _link(role: Role, *, is_open: bool) -> Link:
    """Return a link whose peer is to speak first, or one that is open."""
    link = Link(role, now=0.0)
    if role is Role.WORKER:
        link.send(frames.REGISTER)
    if is_open and role is Role.HUB:
        link.receive(codec.encode_worker(frames.REGISTER), 0.0)
        link.send(frames.REGISTERED)
    if is_open and role is Role.WORKER:
        link.receive(codec.encode_hub(frames.REGISTERED), 0.0)
    return link


def _is_taken(link: Link, data: bytes, encode: Any, decode: Any) -> bool:
    try:
        link.receive(data, 1.0)
    except LinkError:
        assert link.state is LinkState.CLOSED, "a side that saw a violation is dead"
        return False
    for frame in decode(data):
        check_bounds(frame)
        assert decode(encode(frame)) == [frame], "what was taken means something else when it is sent"
    return True


def check_bounds(value: Any, field: str = "") -> None:
    """What came through a decoder needs no second look: numbers, times and names are what they should be."""
    match value:
        case None | bool() | enum.Enum():
            pass
        case int():
            assert 0 <= value < 2**63, (field, value)
        case float():
            assert math.isfinite(value), (field, value)
            assert value >= 0, (field, value)
        case bytes():
            assert len(value) == SIZES.get(field, len(value)), (field, value)
        case str():
            is_id = field in IDS
            assert len(value.encode()) <= EVENT_BYTES_MAX, field
            assert not is_id or (ID.fullmatch(value) and value not in {".", ".."}), (field, value)
        case tuple():
            for item in value:
                check_bounds(item, field)
        case dict():
            check_bounds(tuple(value.values()), field)
        case msgspec.Struct():
            for each in value.__struct_fields__:
                check_bounds(getattr(value, each), each)
    match value:
        case Request(chain=(*_, last)):
            first = value.chain[0].name.version
            assert last.name == value.base, "a chain that ends elsewhere"
            assert [link.name.version for link in value.chain] == list(range(first, value.base.version + 1))
        case Result():
            assert value.name.version == value.base.version + 1, "a result that is not the next version"


# --- near-valid frames ---------------------------------------------------------------------------


def departures(kind: type[Protobuf], frame: bytes) -> Iterator[bytes]:
    """Yield *frame* with one of its fields, however deep, left out, doubled or of an odd value: every such frame."""
    for place, node in enumerate(_nodes(kind.FromString(frame))):
        for field in node.DESCRIPTOR.fields:
            for edit in _edits(node, field):
                message = kind.FromString(frame)
                edit(_nodes(message)[place])
                yield message.SerializeToString()


def _nodes(message: Any) -> list[Any]:
    """Return *message* and every message that is set inside it, in one order."""
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        inside = value.values() if _is_map(field) else value if field.is_repeated else [value]
        for each in inside:
            found += _nodes(each)
    return found


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _edits(node: Any, field: FieldDescriptor) -> Iterator[Callable[[Any], object]]:
    name = field.name
    if field.is_repeated or (field.message_type is not None and node.HasField(name)):
        yield lambda node: node.ClearField(name)
    if _is_map(field):
        yield lambda node: getattr(node, name)[""].SetInParent()
    elif field.is_repeated and field.message_type is not None:
        yield lambda node: getattr(node, name).add()
        for index in range(len(getattr(node, name))):
            yield lambda node, index=index: getattr(node, name).append(getattr(node, name)[index])
    elif field.is_repeated:
        yield lambda node: getattr(node, name).extend(["a" * 128, "a" * 129])
    elif field.message_type is not None:
        yield lambda node: getattr(node, name).SetInParent()
    else:
        for value in _values(field):
            yield lambda node, value=value: setattr(node, name, value)


def _values(field: FieldDescriptor) -> tuple[Any, ...]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return tuple(b"b" * size for size in SIZES_SENT)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING and field.name in LONG_FIELDS:
        return (*VALUES[field.cpp_type], "t" * (EVENT_BYTES_MAX + 1))
    return VALUES.get(field.cpp_type) or tuple(number for number in NUMBERS_SENT if _fits(number, field))


def _fits(number: int, field: FieldDescriptor) -> bool:
    width = 64 if field.cpp_type in {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64} else 32
    is_signed = field.cpp_type in {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
    return -(2 ** (width - 1)) <= number < 2 ** (width - 1) if is_signed else 0 <= number < 2**width


@functools.cache
def worker_corpus() -> list[bytes]:
    """One frame of each kind, and every single departure from it."""
    return _corpus(pb.WorkerMessage, list(map(codec.encode_worker, frames.WORKER_FRAMES)))


@functools.cache
def hub_corpus() -> list[bytes]:
    return _corpus(pb.HubMessage, list(map(codec.encode_hub, frames.HUB_FRAMES)))


def _corpus(kind: type[Protobuf], valid: list[bytes]) -> list[bytes]:
    return list(dict.fromkeys([*valid, *(each for frame in valid for each in departures(kind, frame))]))


def near_worker_frames() -> st.SearchStrategy[bytes]:
    return twice_edited(pb.WorkerMessage, worker_corpus())


def near_hub_frames() -> st.SearchStrategy[bytes]:
    return twice_edited(pb.HubMessage, hub_corpus())


@st.composite
def twice_edited(draw: st.DrawFn, kind: type[Protobuf], once: list[bytes]) -> bytes:
    """A frame with two departures."""
    return draw(st.sampled_from(list(departures(kind, draw(st.sampled_from(once))))))
