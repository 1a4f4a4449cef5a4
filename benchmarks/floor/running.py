"""The floor as two processes, driven from the measuring one."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.client import Answer, Connection
from benchmarks.processes import Process, scratch


class Floor:
    """A bare hub and a bare worker; ``set_up`` before use."""

    def __init__(self, hub: Process, worker: Process, url: str) -> None:
        self.hub = hub
        self.worker = worker
        self.url = url

    async def set_up(
        self, connection: Connection, chunks: Sequence[int], *, down: int, up: int, token: int = 0
    ) -> None:
        """Have it send *chunks* to callers, and frames of *down* and *up* bytes on the link; *token* bytes a token."""
        await connection.post("/setup", chunks=list(chunks), down=down, up=up, token=token)

    async def seconds(self, connection: Connection, path: str, count: int) -> list[float]:
        """Return how long each of *count* things took in the bare hub: ``/rounds``, ``/commits``."""
        answer: Any = await connection.request("POST", path, b'{"count": %d}' % count)
        return _numbers(answer)


def _numbers(answer: Answer) -> list[float]:
    return [float(number) for number in answer.body.decode().strip("[]").split(",")]


@contextlib.contextmanager
def floor() -> Iterator[Floor]:
    """Run the floor's processes on an empty folder while the body runs."""
    with scratch() as folder, contextlib.ExitStack() as stack:
        hub = Process("benchmarks.floor.hub", str(folder))
        stack.callback(hub.stop)
        url = hub.saw(r"floor (http://\S+)")
        worker = Process("benchmarks.floor.worker", url)
        stack.callback(worker.stop)
        worker.saw("(linked)")
        yield Floor(hub, worker, url)
