"""The OpenAI Agents SDK's ``SQLAlchemySession`` on PostgreSQL."""

from agents import Session
from agents.extensions.memory import SQLAlchemySession
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.peers.openai_agents import Sessions
from benchmarks.peers.postgres import ServedPeer


class OpenAIPostgres(Sessions, ServedPeer):
    """``SQLAlchemySession`` through asyncpg, on an engine that the application has."""

    async def open(self) -> None:
        await super().open()
        self._engine = create_async_engine(self.server.url("postgresql+asyncpg", self.name))

    async def close(self) -> None:
        await self._engine.dispose()
        await super().close()

    def opened(self, session_id: str) -> Session:
        return SQLAlchemySession(session_id, engine=self._engine, create_tables=True)
