"""One peer in a process of its own, which does what it is asked a line at a time: JSON in, JSON out.

A process of its own keeps one peer's objects out of the others' garbage collections, and
lets each have the environment that it needs.

    python -m benchmarks.peers.child benchmarks.peers.langgraph:LangGraphSqlite FOLDER [SERVER_PID SERVER_PORT]
"""

import dataclasses
import gc
import importlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvloop

from benchmarks.peers.conversation import Turn, conversation, opening
from benchmarks.peers.peer import Peer


@dataclasses.dataclass(frozen=True)
class Reading:
    """What has been spent so far."""

    written: int
    wire: int
    cpu_s: float
    at_s: float

    @classmethod
    def of(cls, peer: Peer) -> "Reading":
        # The clocks last: asking a server for its bytes costs it processor time.
        return cls(peer.written_bytes(), peer.wire_bytes(), peer.cpu_s(), time.perf_counter())

    def until(self, end: "Reading") -> dict[str, float]:
        """Return what was spent from here to *end*."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(end), strict=True)
        return dict(zip(("written_bytes", "wire_bytes", "cpu_s", "wall_s"), (b - a for a, b in pairs), strict=True))


class Child:
    """A peer, and the conversation that it is in."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._turns: Iterator[Turn] = iter(())

    async def fill(self, *, seed: int, items: int) -> dict[str, Any]:
        """Begin conversation *seed*, and bring it to *items* items or up to three more."""
        self._turns = conversation(seed)
        await self._peer.fill(f"session-{seed}", opening(self._turns, items))
        gc.collect()
        return {}

    async def pair(self) -> dict[str, Any]:
        """Run two turns, one of 2 items and one of 4; return what one costs, as their mean."""
        costs = [await self._turn(next(self._turns)) for _ in range(2)]
        return {name: sum(cost[name] for cost in costs) / len(costs) for name in costs[0]}

    async def _turn(self, items: Turn) -> dict[str, float]:
        before = Reading.of(self._peer)
        await self._peer.arrive(items)
        begun = Reading.of(self._peer)
        await self._peer.turn(items)
        ended = Reading.of(self._peer)
        return {
            **begun.until(ended),
            "arrive_wall_s": before.until(begun)["wall_s"],
            "arrive_cpu_s": before.until(begun)["cpu_s"],
            "written_bytes": before.until(ended)["written_bytes"],
        }

    async def cold(self) -> dict[str, Any]:
        """Read the conversation as a new process does; return what that costs."""
        await self._peer.forget()
        gc.collect()
        begun = Reading.of(self._peer)
        items = await self._peer.cold_load()
        return {**begun.until(Reading.of(self._peer)), "items": items}

    async def stored(self) -> dict[str, Any]:
        """Return the bytes at rest."""
        return {"bytes": self._peer.stored_bytes()}


def made(name: str, folder: pathlib.Path, server: Sequence[str]) -> Peer:
    """Return the peer that *name* (``module:Class``) names; *server* is its PostgreSQL's process ID and port."""
    module, _, kind = name.partition(":")
    peer: Callable[..., Peer] = getattr(importlib.import_module(module), kind)
    if not server:
        return peer(folder)
    from benchmarks.peers.postgres import Server  # noqa: PLC0415  # only where its driver is installed

    return peer(folder, Server(*map(int, server)))


async def serve(peer: Peer) -> None:
    """Answer each line of the input until it ends."""
    await peer.open()
    child = Child(peer)
    try:
        _say({})
        for line in sys.stdin:  # nothing else is to run meanwhile
            asked = json.loads(line)
            _say(await getattr(child, asked.pop("do"))(**asked))
    finally:
        await peer.close()


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(serve(made(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:])))
