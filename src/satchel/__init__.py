"""Satchel carries the state of AI-agent sessions between a durable hub and a fleet of stateless workers.

The public names are loaded when they are first used: a worker does not pay for the
hub's server at its start, nor a client for either.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from satchel import testing
    from satchel.client.client import AsyncClient, AsyncSession
    from satchel.client.model import Answer
    from satchel.client.reply import Reply
    from satchel.client.sync import Client
    from satchel.embedded import Hub
    from satchel.errors import SatchelError, TurnRefused
    from satchel.worker.context import Turn, current_turn
    from satchel.worker.worker import Worker

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncSession",
    "Client",
    "Hub",
    "Reply",
    "SatchelError",
    "Turn",
    "TurnRefused",
    "Worker",
    "current_turn",
    "testing",
]

_HOMES = {
    "Answer": "satchel.client.model",
    "AsyncClient": "satchel.client.client",
    "AsyncSession": "satchel.client.client",
    "Client": "satchel.client.sync",
    "Hub": "satchel.embedded",
    "Reply": "satchel.client.reply",
    "SatchelError": "satchel.errors",
    "Turn": "satchel.worker.context",
    "TurnRefused": "satchel.errors",
    "Worker": "satchel.worker.worker",
    "current_turn": "satchel.worker.context",
}


def __getattr__(name: str) -> object:
    if name == "testing":
        return importlib.import_module("satchel.testing")
    if name not in _HOMES:
        raise AttributeError(f"module 'satchel' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
