"""The worker process of ``satchel dev``: started anew when it is killed or a file is saved."""

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import typer

from satchel.client.sync import Client
from satchel.errors import InvalidRequest, SatchelError
from satchel.limits import STOP_S

LOOK_S = 0.3
"""How often files are looked at: a save shows before the next line is typed."""

FILES_MAX = 500
"""Python files that are watched: an app's own folder, not a tree of packages."""

START_S = 60.0
"""How long a worker may take to register: a lifespan may load a model."""


class DevWorker:
    """A worker of *app* at *hub_url*, kept running while the body runs."""

    def __init__(self, app: Path, hub_url: str, client: Client, *, log_level: str) -> None:
        self.agents: tuple[str, ...] = ()
        self._app = app
        self._command = [sys.executable, "-m", "satchel", "worker", str(app), "--hub", hub_url]
        self._command += ["--log-level", log_level]
        self._client = client
        self._child: subprocess.Popen[bytes] | None = None
        self._seen: dict[Path, int] = {}
        self._stopping = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, name="satchel-reload", daemon=True)

    def __enter__(self) -> Self:
        """Start the worker. Raises ``InvalidRequest`` if it does not start; it has said why."""
        self._seen = self._saved()  # before the first start: what is saved while it starts is noticed, too
        self._child = self._started(others=0)
        if self._child is None:
            raise InvalidRequest(f"The worker of {self._app} did not start.", hint="What it said stands above.")
        self.agents = tuple(sorted({name for worker in self._client.workers() for name in worker.agents}))
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        if self._child is not None:
            _end(self._child)

    def kill(self) -> None:
        """Kill the worker as a crash would, and start another."""
        with self._one_at_a_time:
            if self._child is not None:
                self._child.kill()
                self._child.wait()
            self._child = self._started(others=0)
        typer.echo("  The worker was killed; another has started." if self._child else "  It did not start again.")

    def _started(self, *, others: int) -> subprocess.Popen[bytes] | None:
        """Start a worker and wait until it is registered beside *others*; None if it ended instead."""
        # A session of its own: Ctrl-C in the terminal is for the chat, not for the worker.
        child = subprocess.Popen(  # noqa: S603  # our own command
            self._command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
        )
        deadline = time.monotonic() + START_S
        try:
            while child.poll() is None and time.monotonic() < deadline:
                if len(self._client.workers()) > others:
                    return child
                time.sleep(0.05)
        except BaseException:
            _end(child)
            raise
        _end(child)
        return None

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_S):
            now = self._saved()
            if now != self._seen:
                self._seen = now
                with contextlib.suppress(SatchelError):  # the hub is ending, and so is this thread
                    self._reload()

    def _reload(self) -> None:
        """Replace the worker by one of the saved files; one that does not start leaves the old one."""
        with self._one_at_a_time:
            old = self._child
            fresh = self._started(others=0 if old is None else 1)
            if fresh is None:
                self._note("The saved app did not start; the one before it goes on.")
                return
            self._child = fresh
            if old is not None:
                _end(old)
        self._note("Loaded anew.")

    def _note(self, text: str) -> None:
        """Say something while a prompt waits, and show the prompt again."""
        prompt = "> " if sys.stdin.isatty() else ""
        typer.echo(f"\n  {text}\n{prompt}", err=True, nl=False)

    def _saved(self) -> dict[Path, int]:
        """Return when each Python file beside the app was saved."""
        times = {}
        for path in sorted(self._app.resolve().parent.glob("*.py"))[:FILES_MAX]:
            with contextlib.suppress(OSError):  # it was deleted since
                times[path] = path.stat().st_mtime_ns
        return times


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a worker in order, and if it does not end, by force."""
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
