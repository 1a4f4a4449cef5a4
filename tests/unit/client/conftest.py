import socket
from collections.abc import Iterator

import pytest

from tests.unit.client.fake_hub import FakeHub


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture
def url(hub: FakeHub) -> Iterator[str]:
    with hub.serving() as url:
        yield url


@pytest.fixture
def unused_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
