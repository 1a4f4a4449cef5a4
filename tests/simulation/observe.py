"""Counts situations that leave no trace outside, by looking over the product's shoulder; it changes nothing."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from satchel.errors import Fenced, StoreUnavailable
from satchel.hub.runner import SessionRunner
from satchel.state.session import OpenSession
from satchel.store.sqlite import SqliteLog
from satchel.worker.runtime import Runtime


@contextlib.contextmanager
def observed(counts: Counter[str]) -> Iterator[None]:
    """Count, while the body runs, what the comments of each wrapper say."""
    rollback, receive = OpenSession.rollback, SessionRunner.receive
    commit, need_snapshot = SqliteLog.commit, Runtime._need_snapshot

    def watched_rollback(session: OpenSession) -> None:
        counts["undo of a pending version"] += session.pending is not None
        rollback(session)

    def watched_receive(runner: SessionRunner, member: Any, frame: Any) -> bool:
        is_taken = receive(runner, member, frame)
        if not is_taken:
            counts["late frame of an old attempt"] += 1
        return is_taken

    async def watched_commit(log: SqliteLog, made: Any) -> Any:
        try:
            return await commit(log, made)
        except Fenced:
            counts["fenced commit"] += 1
            raise
        except StoreUnavailable:
            counts["unknown commit"] += 1
            raise

    def watched_need_snapshot(runtime: Runtime, frame: Any) -> None:
        counts["need-snapshot"] += 1
        need_snapshot(runtime, frame)

    with (
        patch.object(OpenSession, "rollback", watched_rollback),
        patch.object(SessionRunner, "receive", watched_receive),
        patch.object(SqliteLog, "commit", watched_commit),
        patch.object(Runtime, "_need_snapshot", watched_need_snapshot),
    ):
        yield
