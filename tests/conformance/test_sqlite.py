"""The embedded store keeps every clause of the store's contracts."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from satchel.store.base import Store
from satchel.store.open import open_store
from satchel.testing.conformance import StoreConformance
from satchel.testing.conformance.crashes import Crash
from tests.conformance.crash import Crasher


class TestSqliteStore(StoreConformance):
    @pytest.fixture
    def opens(self, tmp_path: Path) -> Callable[[], Awaitable[Store]]:
        return lambda: open_store(str(tmp_path / "store.db"))

    @pytest.fixture(params=["killed", "power lost"])
    def crash(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crash]:
        crasher = Crasher(tmp_path, everything=request.param == "killed")
        yield crasher.crash
        crasher.close()
