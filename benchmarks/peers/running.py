"""Peers' processes, each in the environment that its dependency group makes."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final

ROOT: Final = pathlib.Path(__file__).parents[2]
STOP_S: Final = 60.0


class Running:
    """A peer in a process of its own (``child``): its methods are what it is asked."""

    def __init__(self, peer: str, python: str, folder: pathlib.Path, server: Sequence[str]) -> None:
        """*peer* is ``module:Class`` in this package; *server* names its PostgreSQL, if it has one."""
        folder.mkdir()
        self._peer = peer
        self._log: IO[str] = (folder / "log").open("w+")
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.peers.child", f"benchmarks.peers.{peer}", str(folder), *server],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ready(self) -> None:
        """Wait until the peer is open."""
        self._answer()

    def fill(self, seed: int, items: int) -> None:
        self._ask("fill", seed=seed, items=items)

    def pair(self) -> dict[str, float]:
        return self._ask("pair")

    def cold(self) -> dict[str, float]:
        return self._ask("cold")

    def stored_bytes(self) -> int:
        return int(self._ask("stored")["bytes"])

    def stop(self) -> None:
        """End the process in order."""
        assert self._process.stdin is not None, "it is a pipe"
        with self._log, self._process:  # they close the pipes, and wait
            self._process.stdin.close()
            try:
                self._process.wait(STOP_S)
            except BaseException:
                self._process.kill()
                raise

    def _ask(self, what: str, **values: object) -> dict[str, Any]:
        assert self._process.stdin is not None, "it is a pipe"
        self._process.stdin.write(json.dumps({"do": what, **values}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "it is a pipe"
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"The process of {self._peer} ended:\n{self._log.read()}")
        return dict(json.loads(line))


def environment(group: str, folder: pathlib.Path) -> str:
    """Install the dependency group *group*, as locked, in *folder*; return the environment's Python.

    Raises ``subprocess.CalledProcessError`` where uv cannot.
    """
    uv = os.environ.get("UV") or shutil.which("uv") or "uv"
    subprocess.run(  # our own command
        [uv, "sync", "--quiet", "--locked", "--no-default-groups", "--group", group, "--python", sys.executable],
        cwd=ROOT,
        env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(folder)},
        check=True,
    )
    return str(folder / "bin" / "python")


@contextlib.contextmanager
def postgres(python: str, folder: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Run a PostgreSQL server in *folder* while the body runs; yield its process ID and port."""
    folder.mkdir()
    with subprocess.Popen(  # our own command
        [python, "-m", "benchmarks.peers.postgres", str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        pid, port = process.stdout.readline().split()
        try:
            yield pid, port
        finally:
            process.stdin.close()  # it ends its server, then itself
