"""Fixtures of the acceptance tests: each test has a store, a hub and workers of its own."""

import pathlib
from collections.abc import AsyncIterator

import pytest

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
