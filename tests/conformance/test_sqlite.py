"""The embedded store keeps every clause of the store's contracts."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from satchel.store.base import Store
from satchel.store.open import open_store
from satchel.testing.conformance import StoreConformance


class TestSqliteStore(StoreConformance):
    @pytest.fixture
    def opens(self, tmp_path: Path) -> Callable[[], Awaitable[Store]]:
        return lambda: open_store(str(tmp_path / "store.db"))
