"""The OpenAI Agents SDK's sessions, asked what its Runner asks of one in a run.

That is ``get_items`` before the model is asked, and ``add_items`` three times: the user's
message, each tool call with its output, the answer.
"""

from collections.abc import Sequence
from typing import Any

from agents import Session, SessionSettings, SQLiteSession

from benchmarks.peers.conversation import Item, as_json
from benchmarks.peers.peer import LocalPeer

WINDOW = 20
"""Items that a bounded session gives to the model."""


class Sessions:
    """What a run asks, whatever keeps the session."""

    async def fill(self, session_id: str, items: Sequence[Item]) -> None:
        """Fill by one ``add_items``."""
        self._session_id = session_id
        self._session = self.opened(session_id)
        await self._session.add_items(_stored(items))

    async def turn(self, items: Sequence[Item]) -> None:
        await self._session.get_items()
        for written in (items[:1], items[1:-1], items[-1:]):
            if written:
                await self._session.add_items(_stored(written))

    async def cold_load(self) -> int:
        return len(await self.opened(self._session_id).get_items())

    def opened(self, session_id: str) -> Session:
        raise NotImplementedError


class OpenAIAgents(Sessions, LocalPeer):
    """``SQLiteSession`` on a file."""

    def opened(self, session_id: str) -> Session:
        return SQLiteSession(session_id, self.folder / "agents.db")


class OpenAIAgentsBounded(OpenAIAgents):
    """The same, which gives the model the newest items alone."""

    def opened(self, session_id: str) -> Session:
        settings = SessionSettings(limit=WINDOW)
        return SQLiteSession(session_id, self.folder / "agents.db", session_settings=settings)

    async def cold_load(self) -> int:
        return len(await super().opened(self._session_id).get_items())


def _stored(items: Sequence[Item]) -> list[Any]:
    return [as_json(item, f"msg_{number:06}") for number, item in enumerate(items)]
