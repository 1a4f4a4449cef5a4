"""LangGraph's ``PostgresSaver``, default and delta channel."""

import contextlib

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres import PostgresSaver

from benchmarks.peers.langgraph import Delta, Graph
from benchmarks.peers.postgres import ServedPeer


class LangGraphPostgres(Graph, ServedPeer):
    """``PostgresSaver``, default channel."""

    async def open(self) -> None:
        await super().open()
        with PostgresSaver.from_conn_string(self.server.url("postgresql", self.name)) as saver:
            saver.setup()

    def saver(self) -> contextlib.AbstractContextManager[BaseCheckpointSaver[str]]:
        return PostgresSaver.from_conn_string(self.server.url("postgresql", self.name))


class LangGraphPostgresDelta(LangGraphPostgres):
    """``PostgresSaver``, delta channel."""

    channel = Delta
