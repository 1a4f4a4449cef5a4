"""A worker of another protocol version is told so, in a frame, and is not served."""

import time

import websockets

from satchel.model import WorkerId
from satchel.protocol.link import Link, Role
from satchel.protocol.messages import PROTOCOL_VERSION, Refused, Register
from satchel.worker.worker import Worker
from tests.acceptance.processes import Fleet


async def test_a_worker_of_another_protocol_version_is_refused_with_the_way_out(one: Fleet):
    """Cut off without a word it would dial for ever, and its operator would look at the network."""
    link = Link(Role.WORKER, now=time.monotonic())
    register = Register(
        worker_id=WorkerId("future"),
        protocol_version=PROTOCOL_VERSION + 1,
        build="satchel/9",
        slots=1,
        agents=(Worker("later").spec,),
    )

    async with websockets.connect(one.url.replace("http", "ws") + "/v1/worker") as socket:
        await socket.send(link.send(register))
        data = await socket.recv()

    assert isinstance(data, bytes)
    (refused,) = link.receive(data, time.monotonic())
    assert isinstance(refused, Refused)
    assert "protocol 2" in refused.message
    assert "same release" in refused.hint
    assert len(await one.list_workers()) == 1
