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
        """Make the call, and end the store at that moment of it. Return whether the call had returned before."""
        self.kill_at(moment)
        try:
            await call()
        except StoreUnavailable:
            has_returned = False
        else:
            has_returned = True
        await self.bury(store)
        return has_returned

    def kill_at(self, moment: int) -> None:
        """Let the store end *moment* moments from now."""
        self._moments_left, self._was_sync = moment, True
        self._disk.watch = self._watch

    async def bury(self, store: Store) -> None:
        """End the store, if it has not come to its end, and leave its files as they are found afterwards."""
        self._disk.watch = lambda _change: None
        self._lose()
        self._disk.restore_power()
        await store.close()

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
