"""Hubs, workers and floors as processes, and their clocks and memory. Linux: it reads ``/proc``."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from typing import IO

PATIENCE_S = 60.0
"""How long anything is waited for before the run fails: never how long it takes."""

ROOT = pathlib.Path(__file__).parents[1]
APPS = ROOT / "benchmarks" / "apps"


class Process:
    """A Python module, run as a program of its own."""

    def __init__(self, *command: str) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile(dir="/dev/shm")  # noqa: SIM115  # what it logs shall not meet the store's disk
        self._child = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
        self.pid = self._child.pid

    def saw(self, pattern: str) -> str:
        """Wait until the output matches; return the first group. Raises ``RuntimeError`` if it ends before."""
        deadline = time.monotonic() + PATIENCE_S
        while not (match := re.search(pattern, self.output())):
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._child.args!r} did not start:\n{self.output()}")
            time.sleep(0.02)
        return match[1]

    def output(self) -> str:
        return pathlib.Path(f"/proc/self/fd/{self._log.fileno()}").read_text(errors="replace")

    def cpu_s(self) -> float:
        """Return the processor time of the process, all its threads, without its children."""
        return time.clock_gettime(~self.pid << 3 | 2)  # as clock_getcpuclockid makes it

    def memory_bytes(self, kind: str = "VmRSS") -> int:
        """Return the memory that is resident now, or with ``VmHWM`` the most that ever was."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(status.partition(f"{kind}:")[2].split()[0])

    def reset_peak(self) -> int:
        """Begin ``VmHWM`` anew; return the memory that is resident now."""
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.memory_bytes()

    def children_cpu_s(self) -> float:
        """Return the processor time, to 10 ms, of the processes that it started, ended or not."""
        tasks = pathlib.Path(f"/proc/{self.pid}/task")
        running = [pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
        ticks = _stat(str(self.pid))[13:15] + [field for pid in running for field in _stat(pid)[11:15]]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        self._child.kill()

    def stop(self) -> None:
        """End the process and wait for its end. Idempotent."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(PATIENCE_S)
            except BaseException:
                self._child.kill()
                raise
        self._log.close()


def _stat(pid: str) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` behind the command's name; none if the process has ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


class Rig:
    """One hub on a new store, and its workers."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.store = folder / "hub.db"
        self.workers: list[Process] = []
        self.hub = Process("satchel", "hub", "--port", "0", "--store", str(self.store))
        try:
            self.url = self.hub.saw(r"hub +(http://\S+)")
            self.hub.saw(r"(next) ")
        except BaseException:
            self.hub.stop()
            raise

    def add_worker(self, app: str, *, slots: int = 128, hub_url: str = "") -> Process:
        """Start a worker of one of the apps in ``apps/``, and wait until the hub lists it.

        With *hub_url* it dials another address than the hub's, such as a proxy's.
        """
        path = APPS / f"{app}.py"
        before = len(self.listed())
        worker = Process("satchel", "worker", str(path), "--hub", hub_url or self.url, "--slots", str(slots))
        self.workers.append(worker)
        deadline = time.monotonic() + PATIENCE_S
        while len(self.listed()) <= before:
            if time.monotonic() > deadline:
                raise RuntimeError(f"The worker did not come:\n{worker.output()}")
            time.sleep(0.02)
        return worker

    def commits(self) -> int:
        """Return how many transactions the store's log has had: each is one fsync.

        SQLite counts them, modulo 2**32, in the index of its write-ahead log (``iChange``).
        """
        index = self.store.with_name(f"{self.store.name}-shm").read_bytes()
        return int.from_bytes(index[8:12], sys.byteorder)

    def listed(self) -> list[dict[str, object]]:
        """Return the workers as the hub lists them."""
        with urllib.request.urlopen(f"{self.url}/v1/workers") as answer:  # noqa: S310  # our own hub
            return list(json.load(answer)["workers"])

    def remove_worker(self, worker: Process) -> None:
        """Stop a worker in order."""
        self.workers.remove(worker)
        worker.stop()

    def stop(self) -> None:
        with contextlib.ExitStack() as stack:  # every one, whatever becomes of the others
            for process in [self.hub, *self.workers]:
                stack.callback(process.stop)


@contextlib.contextmanager
def scratch() -> Iterator[pathlib.Path]:
    """Yield an empty folder on the disk that ``TMPDIR`` names."""
    with tempfile.TemporaryDirectory(prefix="satchel-bench-") as folder:
        yield pathlib.Path(folder)


@contextlib.contextmanager
def rig(*apps: str, slots: int = 128) -> Iterator[Rig]:
    """Run a hub on a new store, and a worker for each of *apps*, while the body runs."""
    with scratch() as folder:
        running = Rig(folder)
        try:
            for app in apps:
                running.add_worker(app, slots=slots)
            yield running
        finally:
            running.stop()
