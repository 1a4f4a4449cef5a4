"""Satchel carries the state of AI-agent sessions between a durable hub and a fleet of stateless workers."""

from satchel import testing
from satchel.client.client import AsyncClient
from satchel.client.sync import Client
from satchel.embedded import Hub
from satchel.errors import SatchelError, TurnRefused
from satchel.worker.context import Turn, current_turn
from satchel.worker.worker import Worker

__all__ = ["AsyncClient", "Client", "Hub", "SatchelError", "Turn", "TurnRefused", "Worker", "current_turn", "testing"]
