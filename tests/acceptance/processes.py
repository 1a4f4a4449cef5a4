"""Real hubs and workers on free ports, as processes or served from the test, started and always stopped."""

import asyncio
import contextlib
import os
import pathlib
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import msgspec

from satchel.hub.server import HubServer, base_url, listen, running, web_server
from satchel.hub.settings import HubSettings, Keys

APPS = pathlib.Path(__file__).parent / "apps"
PATIENCE_S = 30.0
"""How long anything is waited for before the test fails: never how long it takes."""


class Process:
    """A ``satchel`` command, or one of another *module*, with its output collected."""

    def __init__(
        self, *args: str, env: dict[str, str] | None = None, cwd: pathlib.Path | None = None, module: str = "satchel"
    ) -> None:
        self._module = module
        self._args = args
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._cwd = cwd
        self.output = ""
        self.child: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._grew = asyncio.Event()

    async def start(self) -> None:
        self.output = ""
        self.child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            *self._args,
            env=self._env,
            cwd=self._cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.child is not None
        assert self.child.stdout is not None
        while piece := await self.child.stdout.read(65536):
            self.output += piece.decode()
            self._grew.set()
        self._grew.set()

    async def saw(self, pattern: str) -> re.Match[str]:
        """Wait until the output matches."""
        async with asyncio.timeout(PATIENCE_S):
            while not (match := re.search(pattern, self.output)):
                assert self._reader is not None
                assert not self._reader.done(), f"{self._args} ended:\n{self.output}"
                self._grew.clear()
                await self._grew.wait()
        return match

    async def ended(self) -> int:
        """Wait until the process ends by itself; return its status, with all of its output collected."""
        assert self.child is not None
        assert self._reader is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.wait({self._reader})
                return await self.child.wait()
        except TimeoutError:
            await self.kill()
            raise

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal the process and wait for its end."""
        if self.child is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self.child.send_signal(how)
        try:
            async with asyncio.timeout(PATIENCE_S):
                code = await self.child.wait()
        except TimeoutError:
            self.child.kill()
            raise
        assert self._reader is not None
        await self._reader
        return code

    async def kill(self) -> None:
        await self.stop(signal.SIGKILL)


async def run(*args: str, typed: str = "", env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run a ``satchel`` command to its end with *typed* piped in; return its status and what it wrote."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "satchel",
        *args,
        env={**os.environ, "COLUMNS": "200", **(env or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            output, errors = await child.communicate(typed.encode())
            return await child.wait(), output.decode(), errors.decode()
    except TimeoutError:
        child.kill()
        await child.wait()
        raise


class Fleet:
    """One hub on one store, its workers, and a client of its HTTP API."""

    def __init__(self, folder: pathlib.Path, *, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.gates = folder / "gates"
        self.gates.mkdir(exist_ok=True)
        self.env = {"PROBE_GATES": str(self.gates), **(env or {})}
        self.url = ""
        self.hub: Process | None = None
        self.workers: list[Process] = []
        self.http = httpx.AsyncClient(timeout=PATIENCE_S)

    async def start_hub(self) -> Process:
        """Start the hub, on the same port and store as before if there was one."""
        port = self.url.rpartition(":")[2] or "0"
        self.hub = Process("hub", "--port", port, "--store", str(self.folder / "hub.db"), env=self.env)
        await self.hub.start()
        self.url = (await self.hub.saw(r"hub +(http://\S+)"))[1]
        return self.hub

    async def start_worker(self, app: str = "probe.py", *args: str) -> Process:
        """Start a worker and wait until the hub lists it."""
        (process,) = await self.start_workers(1, app, *args)
        return process

    async def start_workers(self, count: int, app: str = "probe.py", *args: str) -> list[Process]:
        """Start *count* workers side by side and wait until the hub lists them all."""
        path = pathlib.Path(app) if pathlib.Path(app).is_absolute() else APPS / app
        fresh = [Process("worker", str(path), "--hub", self.url, *args, env=self.env) for _ in range(count)]
        before = len(await self.list_workers())
        for process in fresh:
            await process.start()
        self.workers += fresh

        async def joined() -> bool:
            for process in fresh:
                assert process.child is not None
                assert process.child.returncode is None, process.output
            return len(await self.list_workers()) >= before + count

        await until(joined)
        return fresh

    async def kill_worker(self, pid: int) -> None:
        """Kill the worker process *pid* with SIGKILL."""
        (victim,) = [worker for worker in self.workers if worker.child is not None and worker.child.pid == pid]
        self.workers.remove(victim)
        await victim.kill()

    async def stop(self) -> None:
        running = [
            process for process in self.workers if process.child is not None and process.child.returncode is None
        ]
        await asyncio.gather(*(process.stop() for process in running))
        if self.hub is not None and self.hub.child is not None and self.hub.child.returncode is None:
            await self.hub.stop()
        await self.http.aclose()

    # --- what a client does ------------------------------------------------------------------

    async def post(
        self, session: str, text: str, *, headers: dict[str, str] | None = None, **body: Any
    ) -> httpx.Response:
        """Send a message and wait for its one JSON answer."""
        return await self.http.post(
            f"{self.url}/v1/sessions/{session}/messages",
            json={"text": text, "agent": "probe", **body},
            headers={"Accept": "application/json", **(headers or {})},
        )

    async def send(self, session: str, text: str, **body: Any) -> list[dict[str, Any]]:
        """Send a message and return all its events."""
        response = await self.http.post(
            f"{self.url}/v1/sessions/{session}/messages", json={"text": text, "agent": "probe", **body}
        )
        assert response.status_code == 200, response.text
        return [msgspec.json.decode(line) for line in response.text.splitlines() if line]

    async def get(self, path: str, **params: Any) -> Any:
        response = await self.http.get(f"{self.url}/v1{path}", params=params, headers={"Accept": "application/json"})
        assert response.status_code == 200, response.text
        return response.json()

    async def events(self, session: str, message_id: str, after: int = -1) -> list[dict[str, Any]]:
        params = {} if after < 0 else {"after": after}
        response = await self.http.get(f"{self.url}/v1/sessions/{session}/messages/{message_id}", params=params)
        assert response.status_code == 200, response.text
        return [msgspec.json.decode(line) for line in response.text.splitlines() if line]

    async def list_workers(self) -> list[dict[str, Any]]:
        return list((await self.get("/workers"))["workers"])

    async def transcript(self, session: str) -> list[dict[str, Any]]:
        return list((await self.get(f"/sessions/{session}/messages"))["messages"])

    # --- gates -------------------------------------------------------------------------------

    async def started(self, message_id: str, attempt: int = 1) -> None:
        """Wait until the handler of an attempt is inside its gate."""
        path = self.gates / f"{message_id}.started.{attempt}"

        async def there() -> bool:
            return path.exists()

        await until(there)

    @contextlib.asynccontextmanager
    async def held(self, session: str, message_id: str) -> AsyncIterator[None]:
        """Keep a turn of *session* running while the body runs."""
        turn = asyncio.create_task(self.send(session, "wait x", message_id=message_id))
        await self.started(message_id)
        try:
            yield
        finally:
            self.open_gate(message_id)
            await turn

    def open_gate(self, message_id: str) -> None:
        (self.gates / f"{message_id}.go").touch()


async def until(claim: Callable[[], Awaitable[bool]]) -> None:
    """Wait until *claim* holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not await claim():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def fleet(
    folder: pathlib.Path, *, workers: int = 1, env: dict[str, str] | None = None, args: tuple[str, ...] = ()
) -> AsyncIterator[Fleet]:
    """Run a hub and *workers* workers of the probe agent while the body runs."""
    running = Fleet(folder, env=env)
    try:
        await running.start_hub()
        await running.start_workers(workers, "probe.py", *args)
        yield running
    finally:
        await running.stop()


@contextlib.asynccontextmanager
async def served_hub(
    store: pathlib.Path, *, settings: HubSettings | None = None, keys: Keys | None = None
) -> AsyncIterator[str]:
    """Serve a hub with *settings*, which no command line has, on a socket from this process; yield its URL."""
    listening = listen("127.0.0.1", 0)
    url = base_url(listening)
    started = asyncio.Event()
    async with running(HubServer(str(store), settings=settings, keys=keys, url=url)) as hub:
        server = web_server(hub, started=started.set)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await started.wait()
            yield url
        finally:
            server.should_exit = True
            await serving


def turn_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the last event says that the turn cost."""
    return dict(events[-1]["complete"]["turn"])


def version_of(events: list[dict[str, Any]]) -> int:
    return int(events[-1]["complete"]["session_state"]["version"])


def texts_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["message"]["content"][0]["text"] for event in events if event["type"] == "message"]
