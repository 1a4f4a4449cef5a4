"""Another writer of the same store, as a hub is that was thought dead: nothing it writes may be taken."""

import random
from collections.abc import Callable

import msgspec

from satchel.errors import Fenced, StoreUnavailable
from satchel.model import Epoch, StateId, StateName, Version
from satchel.store.base import Commit, Log, Turn
from tests.simulation.checks import History, Violated

RIVALRY = 0.1
"""The share of commits that a rival is beside."""


class Rival:
    """Sends, beside a hub's own commits, those of an earlier attempt, of another base and of an older one. FENCED."""

    def __init__(self, log: Log, history: History, chance: random.Random, broken: Callable[[Violated], None]) -> None:
        self._log = log
        self._history = history
        self._chance = chance
        self._broken = broken
        self._commit = log.commit
        log.commit = self.commit  # type: ignore[method-assign]  # the hub's log, watched

    async def commit(self, commit: Commit) -> Turn:
        if self._chance.random() >= RIVALRY:
            return await self._commit(commit)
        is_first = self._chance.random() < 0.5
        if is_first:
            await self._try(commit)
        made = await self._commit(commit)
        if not is_first:
            await self._try(commit)
        return made

    async def _try(self, commit: Commit) -> None:
        match self._chance.choice(["earlier epoch", "other state", "older base", "requeue"]):
            case "requeue":
                await self._requeue(commit)
            case kind:
                await self._send(kind, self._forged(kind, commit))

    def _forged(self, kind: str, commit: Commit) -> Commit:
        other = StateId(self._chance.randbytes(16))
        mine = msgspec.structs.replace(commit, name=StateName(commit.name.version, other), answer="a rival's")
        match kind:
            case "earlier epoch":
                return msgspec.structs.replace(mine, epoch=Epoch(commit.epoch - 1))
            case "older base" if commit.base.version > 1:
                base = self._history.versions[commit.key.session_id][commit.base.version - 2]
                return msgspec.structs.replace(mine, base=StateName(Version(base.version), StateId(base.state_id)))
            case _:
                return msgspec.structs.replace(mine, base=StateName(commit.base.version, other))

    async def _send(self, kind: str, forged: Commit) -> None:
        self._history.counts["rival"] += 1
        try:
            await self._commit(forged)
        except (Fenced, StoreUnavailable):
            return
        except Exception as error:  # noqa: BLE001  # not even compared: only the tables' own rules were in its way
            self._broken(Violated("FENCED", "a rival's commit was not refused as one", kind, error))
        else:
            self._broken(Violated("FENCED", "a rival's commit was taken", kind, forged.message_id, forged.base))

    async def _requeue(self, commit: Commit) -> None:
        try:
            await self._log.requeue(commit.key, commit.message_id, Epoch(commit.epoch - 1))
        except (Fenced, StoreUnavailable):
            return
        self._broken(Violated("FENCED", "a rival gave up an attempt that is not its own", commit.message_id))
