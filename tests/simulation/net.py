"""Connections in simulated time: messages and HTTP in order with delays, cut at any of them, half a one included."""

import asyncio
import contextlib
import enum
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.message import DecodeError

from satchel.errors import LinkClosed
from satchel.protocol import link_pb2 as pb
from tests.simulation.loop import Strand
from tests.simulation.trace import Trace

DELAYS_S = (0, 0.0005, 0.001, 0.001, 0.005, 0.03)


class Half(enum.Enum):
    """What comes after a message that arrives in part."""

    LAST = enum.auto()
    """The end of the connection."""
    ALONE = enum.auto()
    """The next message: only the one is lost."""


class Lane:
    """One direction of a connection: what is put in comes out on the other strand, in order, after delays."""

    def __init__(self, to: Strand, chance: random.Random) -> None:
        self._to = to
        self._chance = chance
        self._last_at = 0.0

    def carry(self, call: Callable[..., Any], *args: Any, late_s: float = 0) -> None:
        now = self._to.process.loop.time()
        self._last_at = max(self._last_at, now + late_s + self._chance.choice(DELAYS_S))
        self._to.post(call, *args, delay_s=self._last_at - now)


class End:
    """One end of a link's connection: a ``Transport``."""

    def __init__(self, wire: "Wire", name: str, strand: Strand, peer_strand: Strand) -> None:
        self._wire = wire
        self.name = name
        self.strand = strand
        self.lane = Lane(peer_strand, wire.chance)
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._is_closed = False
        self.peer: End = self

    async def send(self, message: bytes) -> None:
        if self._is_closed:
            raise LinkClosed
        if self._wire.chance.random() < 0.05:  # no room for it at once
            await asyncio.sleep(self._wire.chance.choice([0.001, 0.02, 0.3]))
        self._wire.carry(self, message)

    async def receive(self) -> bytes:
        message = None if self._is_closed else await self._arrived.get()
        if message is None:
            self._is_closed = True
            raise LinkClosed
        return message

    async def close(self, reason: str = "") -> None:  # noqa: ARG002  # a socket would carry it
        if not self._is_closed:
            self.end()
            self._wire.carry(self, None)

    def end(self) -> None:
        """Close this end alone, here and now."""
        self._is_closed = True
        self._arrived.put_nowait(None)

    def arrive(self, message: bytes | None) -> None:
        if not self._is_closed:
            self._arrived.put_nowait(message)


def _part(message: bytes, chance: random.Random) -> bytes:
    """Return the beginning of a message, and not up to where a frame of it ends: that would be a whole one."""
    part = message[: chance.randrange(len(message))]
    try:
        pb.WorkerMessage.FromString(part)
    except DecodeError:
        return part
    return part[:-1]


class Wire:
    """A connection between a worker and a hub."""

    def __init__(self, worker: Strand, hub: Strand, *, chance: random.Random, trace: Trace) -> None:
        self.chance = chance
        self._trace = trace
        self._is_silent = False
        self._messages_left: int | None = None
        self._half: Half | None = None
        self.worker = End(self, worker.process.name, worker, hub)
        self.hub = End(self, hub.process.name, hub, worker)
        self.worker.peer, self.hub.peer = self.hub, self.worker

    def carry(self, end: End, message: bytes | None) -> None:
        """Take a message, or the end, from one end towards the other."""
        if self._is_silent:
            return
        self._trace.add(f"{end.name} → {end.peer.name}", "" if message is not None else "closes", message or b"")
        if self._messages_left is not None and message is not None:
            self._messages_left -= 1
            if self._messages_left < 0:
                self._messages_left = None
                if self._half is not None:
                    end.lane.carry(end.peer.arrive, _part(message, self.chance))
                if self._half is not Half.ALONE:
                    self.cut()
                return
        end.lane.carry(end.peer.arrive, message)

    def cut(self) -> None:
        """Lose what is sent from now on; both ends hear of it after what was on its way."""
        self._trace.add("net", f"cut {self.worker.name} and {self.hub.name}")
        self._is_silent = True
        for end in (self.worker, self.hub):
            end.lane.carry(end.peer.arrive, None)

    def cut_after(self, messages: int, *, half: "Half | None") -> None:
        """Cut it at the message after *messages* more, of which nothing or *half* arrives."""
        self._messages_left, self._half = messages, half

    def fall_silent(self) -> None:
        """Lose everything from now on; neither end hears of it."""
        self._trace.add("net", f"silence {self.worker.name} and {self.hub.name}")
        self._is_silent = True

    def cut_at_worker(self, late_s: float) -> None:
        """Have the worker hear of the end at once, and the hub after *late_s*: it dials anew before that."""
        self._trace.add("net", f"cut {self.worker.name} and (late {late_s}) {self.hub.name}")
        self._is_silent = True
        self.worker.strand.post(self.worker.end)
        self.worker.lane.carry(self.hub.arrive, None, late_s=late_s)

    def cut_at_hub(self) -> None:
        """Have the hub hear of the end: the worker goes on, and nobody listens."""
        self._trace.add("net", f"cut {self.hub.name} from {self.worker.name}")
        self._is_silent = True
        self.hub.strand.post(self.hub.end)

    def end_at_worker(self) -> None:
        """Have the worker hear of the end of a connection that the hub has lost."""
        self.worker.strand.post(self.worker.end)

    def lose(self, dead: End) -> None:
        """A process died: its operating system closes its end."""
        self._is_silent = True
        dead.lane.carry(dead.peer.arrive, None)


class ConnectionLost(Exception):
    """The hub went away, or the client left."""


class Exchange:
    """One request and its answer: the app runs on the hub's strand, its client anywhere."""

    def __init__(
        self,
        app: Any,
        client: Strand,
        hub: Strand,
        method: str,
        path: str,
        *,
        chance: random.Random,
        body: Any = None,
        accept: str = "",
        **headers: str,
    ) -> None:
        self.status = 0
        self.is_over = False
        self._sent: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._body: bytes | None = b"" if body is None else json.dumps(body).encode()
        self._left = asyncio.Event()
        self._to_client, self._to_hub = Lane(client, chance), Lane(hub, chance)
        self._hub = hub
        path, _, query = path.partition("?")
        sent = {"accept": accept, **headers} | ({} if body is None else {"content-type": "application/json"})
        self._scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "http",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items() if value],
            "server": ("127.0.0.1", 80),
        }
        self._app = app
        self.task: asyncio.Task[None] | None = None
        self.ended: Callable[[Exchange], None] = lambda _: None
        self._to_hub.carry(self._begin)

    def _begin(self) -> None:
        self.task = self._hub.spawn(self._app(self._scope, self._receive, self._send))
        self.task.add_done_callback(self._app_ended)

    def _app_ended(self, _task: "asyncio.Task[None]") -> None:
        self._to_client.carry(self._end)
        self.ended(self)

    def _end(self) -> None:
        self.is_over = True
        self._sent.put_nowait(None)

    def lost(self) -> None:
        """The hub died: the client's system hears of it."""
        self._to_client.carry(self._end)

    # --- on the hub's strand -----------------------------------------------------------------

    async def _send(self, message: dict[str, Any]) -> None:
        self._to_client.carry(self._sent.put_nowait, message)

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    # --- on the client's ---------------------------------------------------------------------

    async def _next(self) -> dict[str, Any]:
        message = await self._sent.get()
        if message is None:
            self._sent.put_nowait(None)
            raise ConnectionLost
        return message

    async def head(self) -> int:
        self.status = (await self._next())["status"]
        return self.status

    async def pieces(self) -> AsyncIterator[bytes]:
        while True:
            message = await self._next()
            yield message.get("body", b"")
            if not message.get("more_body"):
                return

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the events; blank lines are signs of life."""
        async with contextlib.aclosing(self.pieces()) as pieces:  # type: ignore[type-var]  # an async generator
            async for piece in pieces:
                for line in piece.splitlines():
                    if line:
                        yield json.loads(line)

    async def json(self) -> Any:
        return json.loads(b"".join([piece async for piece in self.pieces()]))

    def leave(self) -> None:
        """Go away: the app hears of it."""
        self._to_hub.carry(self._left.set)

    async def over(self) -> None:
        """Go away, and wait until the app is done with it."""
        self.leave()
        with contextlib.suppress(ConnectionLost):
            while True:
                await self._next()

    def cancel(self) -> None:
        """Have the server cancel the app's task, wherever it is."""
        if self.task is not None:
            self._hub.post(self.task.cancel)
