"""A whole warm turn of Satchel: HTTP in, a hub process, a worker process, the durable commit, HTTP out.

All that a turn has is in it: admission, the link, the handler, the hub's checks, the
store, the events to the caller. The caller's own processor time is left out.
"""

import pathlib
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from benchmarks.client import Answer, Connection
from benchmarks.peers.conversation import Item
from benchmarks.peers.peer import LocalPeer, tcp_bytes, written_bytes_of
from benchmarks.processes import Rig

AGENT: Final = "told"
APP: Final = pathlib.Path(__file__).parent / "apps" / AGENT


class SatchelTurn(LocalPeer):
    """A session that is warm in its worker."""

    async def open(self) -> None:
        self._rig = Rig(self.folder)
        try:
            self._worker = self._rig.add_worker(str(APP))
        except BaseException:
            self._rig.stop()
            raise
        self._connection = Connection(self._rig.url)

    async def close(self) -> None:
        await self._connection.close()
        self._rig.stop()

    async def _connect(self) -> None:
        """Connect anew, so that no turn finds its connection closed: the hub does so while the other peers work."""
        await self._connection.close()
        await self._connection.request("GET", "/healthz")

    async def fill(self, session_id: str, items: Sequence[Item]) -> None:
        """One turn whose handler writes them all, without events."""
        await self._connect()
        self._session_id = session_id
        seed = int(session_id.rpartition("-")[2])
        await self._send(items[0].text, metadata={"seed": seed, "items": len(items)})

    async def arrive(self, items: Sequence[Item]) -> None:  # noqa: ARG002  # the message goes with the turn
        await self._connect()

    async def turn(self, items: Sequence[Item]) -> None:
        await self._send(items[0].text)

    async def forget(self) -> None:
        """Put a worker that holds nothing in the place of the one that holds the session."""
        self._rig.remove_worker(self._worker)
        self._worker = self._rig.add_worker(str(APP))
        await self._connect()

    async def cold_load(self) -> int:
        """Have a handler read all of the history, in a cold turn."""
        answer = await self._send("look", metadata={"look": True})
        said = [event["message"]["content"][0]["text"] for event in answer.events() if event["type"] == "message"]
        return int(said[0])

    async def _send(self, text: str, **more: object) -> Answer:
        answer = await self._connection.turn(self._session_id, text, AGENT, **more)
        answer.complete()
        return answer

    def cpu_s(self) -> float:
        return self._rig.hub.cpu_s() + self._worker.cpu_s()

    def written_bytes(self) -> int:
        return written_bytes_of(self._rig.hub.pid)

    def wire_bytes(self) -> int:
        port = urlsplit(self._rig.url).port
        assert port is not None, "a hub's URL names its port"
        return tcp_bytes(self._worker.pid, port)
