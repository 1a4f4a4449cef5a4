"""Fixtures of the acceptance tests: a store, a hub and workers for each test, or for a module that breaks none."""

import pathlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.acceptance.processes import Fleet, fleet


@pytest.fixture
async def one(tmp_path: pathlib.Path) -> AsyncIterator[Fleet]:
    """A hub and one worker."""
    async with fleet(tmp_path) as running:
        yield running


@pytest.fixture
async def two(tmp_path: pathlib.Path) -> AsyncIterator[Fleet]:
    """A hub and two workers."""
    async with fleet(tmp_path, workers=2) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """A hub and one worker for a whole module, whose tests run in the module's event loop."""
    async with fleet(tmp_path_factory.mktemp("shared")) as running:
        yield running
