"""Processes that do not start are told with the end of their log, and none is left."""

import os
import pathlib
import socket

import pytest

from satchel.demo import processes
from satchel.demo.processes import DemoFleet, ProcessState
from satchel.errors import SatchelError


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_hub_that_cannot_start_is_told_with_its_logs_end(tmp_path: pathlib.Path):
    """Whoever runs the demo learns why, without looking for a file."""
    fleet = DemoFleet(tmp_path)
    host, port = fleet.url.removeprefix("http://").split(":")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        with pytest.raises(SatchelError) as raised:
            await fleet.start_hub()
        await fleet.stop()

    assert raised.value.message == "hub ended with status 1."
    assert f"Port {port} on {host} cannot be listened on" in raised.value.hint
    assert str(tmp_path / "hub.log") in raised.value.hint


async def test_a_worker_that_cannot_start_is_told_and_the_others_are_ended(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """Nothing stays behind when a demo does not begin."""
    monkeypatch.setattr(processes, "BUILDS", ("satchel.model",))
    fleet = DemoFleet(tmp_path)
    await fleet.start_hub()
    with pytest.raises(SatchelError) as raised:
        await fleet.start_worker(build=1)
    await fleet.stop()

    assert raised.value.message == "worker-1 ended with status 1."
    assert "has no Worker" in raised.value.hint
    assert not is_running(fleet.hub.pid)


async def test_a_process_that_ends_by_itself_ends_the_watch(tmp_path: pathlib.Path):
    """A fault that the demo did not cause is not part of its plan."""
    fleet = DemoFleet(tmp_path)
    try:
        await fleet.start_hub()
        os.kill(fleet.hub.pid, 9)

        with pytest.raises(SatchelError, match=r"hub ended with status -9\."):
            await fleet.watch()
    finally:
        await fleet.stop()


async def test_a_frozen_process_is_ended_too(tmp_path: pathlib.Path):
    """SIGTERM alone waits for one that nobody lets go on."""
    fleet = DemoFleet(tmp_path)
    await fleet.start_hub()
    os.kill(fleet.hub.pid, 19)

    await fleet.stop()

    assert not is_running(fleet.hub.pid)
    assert fleet.hub.state is ProcessState.UP, "whoever ends it says so"
