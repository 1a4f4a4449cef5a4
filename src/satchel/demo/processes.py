"""The demo's hub and workers: real processes, whose logs are files, started and always ended."""

import asyncio
import contextlib
import enum
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from satchel.client.client import AsyncClient
from satchel.client.model import WorkerRow
from satchel.errors import HubUnreachable, InvalidRequest, SatchelError
from satchel.limits import STOP_S

START_S: Final = 60.0
"""How long a process may take until it serves: this machine is kept busy on purpose."""

ANSWER_S: Final = 5.0
"""How long the hub may take to list its workers: then it is asked again, or found to have ended."""

LOOK_S: Final = 0.1
BUILDS: Final = ("satchel.demo.apps.first", "satchel.demo.apps.second")
"""The agent's, each an app that a worker loads."""

LOG_LINES: Final = 12
"""Of a log, when its process did not start."""

HOST: Final = "127.0.0.1"
PORTS: Final = range(10_000, 32_000)
"""Below those that systems give to outgoing connections, which could take the hub's port while it is down."""


class ProcessState(enum.StrEnum):
    STARTING = "starting"
    UP = "up"
    KILLED = "killed"
    FROZEN = "frozen"
    LEAVING = "leaving"
    GONE = "gone"

    @property
    def is_alive(self) -> bool:
        return self in {ProcessState.STARTING, ProcessState.UP, ProcessState.FROZEN, ProcessState.LEAVING}


class DemoProcess:
    """One ``satchel`` command, in a session of its own: Ctrl-C is for the demo alone."""

    def __init__(self, name: str, log: Path, *args: str) -> None:
        self.name = name
        self.log = log
        self.state = ProcessState.STARTING
        self._args = args
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; its output is added to its log."""
        self.state = ProcessState.STARTING
        with self.log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "satchel",
                *self._args,
                # A key of this shell's is not for a hub that the demo owns.
                env={name: value for name, value in os.environ.items() if not name.startswith("SATCHEL_")},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """0: it was never started."""
        return 0 if self._child is None else self._child.pid

    @property
    def has_started(self) -> bool:
        return self._child is not None

    @property
    def has_ended(self) -> bool:
        return self._child is not None and self._child.returncode is not None

    def tell(self, number: signal.Signals) -> None:
        """Send a signal, if it has not ended."""
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)

    async def end(self, number: signal.Signals) -> None:
        """End it by *number*, by force if it does not end; return when it has ended. Idempotent."""
        if self._child is None:
            return
        self.tell(number)
        self.tell(signal.SIGCONT)  # a frozen process takes a signal when it goes on
        try:
            async with asyncio.timeout(STOP_S + 1):
                await self._child.wait()
        except TimeoutError:
            self._child.kill()
            await self._child.wait()

    def check(self) -> None:
        """Raise ``SatchelError`` with the end of the log if it has ended."""
        if self.has_ended:
            assert self._child is not None, "it was started"
            raise SatchelError(
                f"{self.name} ended with status {self._child.returncode}.",
                hint=f"Its log {self.log} ends with:\n{self.tail()}",
            )

    def tail(self) -> str:
        """Return the last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"  {line}" for line in lines[-LOG_LINES:]) or "  (nothing)"


class WorkerProcess(DemoProcess):
    """A worker, and the worker ID under which the hub lists it."""

    def __init__(self, number: int, folder: Path, *, build: int, hub_url: str) -> None:
        app = find_spec(BUILDS[build - 1])
        assert app is not None, "it is part of the package"
        assert app.origin is not None, "it is a file"
        name = f"worker-{number}"
        super().__init__(name, folder / f"{name}.log", "worker", app.origin, "--hub", hub_url)
        self.build = build
        self.worker_id = ""


class DemoFleet:
    """One hub and its workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "hub.db"
        self.url = f"http://{HOST}:{_free_port()}"
        self.hub = DemoProcess(
            "hub", folder / "hub.log", "hub", "--host", HOST, "--port", self.url.rpartition(":")[2],
            "--store", str(self.store), "--log-level", "warning",
        )  # fmt: skip
        self.workers: list[WorkerProcess] = []
        """All that were started, oldest first."""
        self.client = AsyncClient(self.url)
        self._numbers = iter(range(1, sys.maxsize))

    def up(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.state is ProcessState.UP]

    async def start_hub(self) -> None:
        """Start the hub, on the same port and store as before; return once it serves. Raises ``SatchelError``."""
        await self.hub.start()
        async with _patience("The hub does not serve.", self.hub):
            while await self.listed() is None:
                self.hub.check()
                await asyncio.sleep(LOOK_S)
        self.hub.check()  # else what answered is somebody else's hub
        self.hub.state = ProcessState.UP

    async def start_worker(self, *, build: int) -> WorkerProcess:
        """Start a worker; return once the hub lists it. One at a time. Raises ``SatchelError``."""
        before = {row.worker_id for row in await self.listed() or ()} | {each.worker_id for each in self.workers}
        worker = WorkerProcess(next(self._numbers), self.folder, build=build, hub_url=self.url)
        self.workers.append(worker)
        await worker.start()
        async with _patience(f"{worker.name} is not listed by the hub.", worker):
            while not (fresh := {row.worker_id for row in await self.listed() or ()} - before):
                worker.check()
                await asyncio.sleep(LOOK_S)
        (worker.worker_id,) = fresh
        worker.state = ProcessState.UP
        return worker

    async def listed(self) -> tuple[WorkerRow, ...] | None:
        """Return the workers that the hub lists; None if it does not answer."""
        with contextlib.suppress(HubUnreachable, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                return await self.client.workers()
        return None

    async def is_listed(self, *workers: WorkerProcess) -> bool:
        """Tell whether the hub answers and lists all of *workers*."""
        listed = {row.worker_id for row in await self.listed() or ()}
        return {worker.worker_id for worker in workers} <= listed

    async def rejoined(self) -> None:
        """Wait until the hub lists every worker that is up. Raises ``SatchelError``."""
        async with _patience("The workers do not come back.", self.hub):
            while not await self.is_listed(*self.up()):
                self.hub.check()
                await asyncio.sleep(LOOK_S)

    async def watch(self) -> None:
        """Wait for ever. Raises ``SatchelError`` once a process ends that nobody ended."""
        while True:
            for process in (self.hub, *self.workers):
                if process.state is ProcessState.UP:
                    process.check()
            await asyncio.sleep(LOOK_S)

    async def stop(self) -> None:
        """End every process, and return when none is left. Idempotent."""
        try:
            await asyncio.gather(*(worker.end(signal.SIGTERM) for worker in self.workers))
            await self.hub.end(signal.SIGTERM)
            await self.client.aclose()
        finally:
            for process in (*self.workers, self.hub):
                process.tell(signal.SIGKILL)  # what is left when somebody does not wait


@contextlib.asynccontextmanager
async def _patience(complaint: str, process: DemoProcess) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(START_S):
            yield
    except TimeoutError as error:
        hint = f"The log {process.log} ends with:\n{process.tail()}"
        raise SatchelError(f"{complaint} It was waited for {START_S:g} s.", hint=hint) from error


def _free_port() -> int:
    for port in random.sample(PORTS, 50):
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port
    raise InvalidRequest(f"No port of {PORTS.start} to {PORTS.stop} is free on {HOST}.")
