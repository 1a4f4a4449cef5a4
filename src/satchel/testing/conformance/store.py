"""All clauses of the store's contracts, over two fixtures."""

from collections.abc import AsyncIterator

import pytest

from satchel.store.base import Store
from satchel.testing.conformance.admission import AdmissionClauses
from satchel.testing.conformance.bounds import BoundClauses
from satchel.testing.conformance.chains import ChainClauses
from satchel.testing.conformance.commits import CommitClauses
from satchel.testing.conformance.crashes import Crash, CrashClauses, Opens
from satchel.testing.conformance.objects import ObjectClauses
from satchel.testing.conformance.reads import ReadClauses
from satchel.testing.conformance.turns import TurnClauses


class StoreConformance(
    AdmissionClauses,
    TurnClauses,
    CommitClauses,
    ChainClauses,
    ObjectClauses,
    BoundClauses,
    ReadClauses,
    CrashClauses,
):
    """Inherit it and give the fixtures ``opens`` and ``crash``."""

    @pytest.fixture
    def opens(self) -> Opens:
        """Return a function that opens the same store, empty at first, each time it is called."""
        raise NotImplementedError

    @pytest.fixture
    def crash(self) -> Crash:
        """Return what kills a store in the middle of a call.

        ``await crash(store, call, moment)`` awaits ``call()``, which works on *store*, and
        ends that store at the *moment*-th moment of the call (0, 1, 2, …), as ``kill -9``
        or a loss of power would: nothing that its process still holds is written any
        more, what was durable stays. Moments are the backend's own: before and after
        each write, say. It returns True if the call had returned before; then the store
        ends right after it. Afterwards ``opens`` opens what is left.
        """
        raise NotImplementedError

    @pytest.fixture
    async def store(self, opens: Opens) -> AsyncIterator[Store]:
        """A fresh store."""
        store = await opens()
        yield store
        await store.close()
