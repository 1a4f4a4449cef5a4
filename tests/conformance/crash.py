"""Kills an embedded store at a moment of a call, by its processes' death or by a loss of power."""

import random
from pathlib import Path

from satchel.errors import StoreUnavailable
from satchel.store.base import Store
from satchel.testing.conformance.crashes import Call
from tests.simulation.power import Change, PowerLossVfs


class Crasher:
    """Counts moments: each sync before it is done, and the first other change of the disk after one."""

    def __init__(self, folder: Path, *, everything: bool) -> None:
        self._disk = PowerLossVfs("crash", folder, random.Random(7))  # noqa: S311  # the same every time
        self._everything = everything
        self._moments_left = 0
        self._was_sync = True

    async def crash(self, store: Store, call: Call, moment: int) -> bool:
        self._moments_left, self._was_sync = moment, True
        self._disk.watch = self._watch
        try:
            await call()
            has_returned = True
        except StoreUnavailable:
            assert self._disk.is_lost
            has_returned = False
        self._disk.watch = lambda _change: None
        self._lose()
        self._disk.restore_power()
        await store.close()
        return has_returned

    def _watch(self, change: Change) -> None:
        is_sync = change == "sync"
        if is_sync or self._was_sync:
            if self._moments_left == 0:
                self._lose()
            self._moments_left -= 1
        self._was_sync = is_sync

    def _lose(self) -> None:
        self._disk.lose_power(everything=self._everything)

    def close(self) -> None:
        self._disk.close()
