"""All clauses of the store's contracts, over one fixture."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from satchel.store.base import Store
from satchel.testing.conformance.admission import AdmissionClauses
from satchel.testing.conformance.chains import ChainClauses
from satchel.testing.conformance.commits import CommitClauses
from satchel.testing.conformance.objects import ObjectClauses
from satchel.testing.conformance.turns import TurnClauses

Opens = Callable[[], Awaitable[Store]]


class StoreConformance(AdmissionClauses, TurnClauses, CommitClauses, ChainClauses, ObjectClauses):
    """Inherit it and give the fixture ``opens``."""

    @pytest.fixture
    def opens(self) -> Opens:
        """Return a function that opens the same store, empty at first, each time it is called."""
        raise NotImplementedError

    @pytest.fixture
    async def store(self, opens: Opens) -> AsyncIterator[Store]:
        """A fresh store."""
        store = await opens()
        yield store
        await store.close()
