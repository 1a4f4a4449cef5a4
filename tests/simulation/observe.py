"""Counts situations that leave no trace outside, by looking over the product's shoulder; it changes nothing.

But for the sizes of what shares a link: they are small here, so that common states travel in chunks.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from satchel import limits
from satchel.errors import Fenced, StoreUnavailable
from satchel.hub.runner import SessionRunner
from satchel.protocol.chunks import Inbox, Outbox
from satchel.state.session import OpenSession
from satchel.store.sqlite import SqliteLog
from satchel.worker.link import WorkerLink
from satchel.worker.runtime import Runtime

SMALL = {"FRAME_DATA_BYTES_MAX": 1500, "CHUNK_BYTES_MAX": 2000, "CREDIT_BYTES_MAX": 6000, "TRANSFERS_MAX": 2}


@contextlib.contextmanager
def observed(counts: Counter[str]) -> Iterator[None]:
    """Count, while the body runs, what the comments of each wrapper say."""
    rollback, receive = OpenSession.rollback, SessionRunner.receive
    commit, need_snapshot = SqliteLog.commit, Runtime._need_snapshot
    take, transfer_ended, lost = Inbox.take, Outbox._ended, WorkerLink.lost

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

    def watched_take(inbox: Inbox, chunk: Any) -> Any:
        whole = take(inbox, chunk)
        counts["transfer"] += whole is not None
        return whole

    def watched_transfer_ended(outbox: Outbox, transfer: Any) -> None:
        counts["frame behind a transfer"] += bool(outbox._behind[transfer.session_id])
        transfer_ended(outbox, transfer)

    def watched_lost(link: WorkerLink) -> None:
        connection = link._connection
        counts["transfer cut short"] += connection is not None and bool(connection._link._inbox._arriving)
        lost(link)

    with (
        patch.multiple(limits, **SMALL),
        patch.object(Inbox, "take", watched_take),
        patch.object(Outbox, "_ended", watched_transfer_ended),
        patch.object(WorkerLink, "lost", watched_lost),
        patch.object(OpenSession, "rollback", watched_rollback),
        patch.object(SessionRunner, "receive", watched_receive),
        patch.object(SqliteLog, "commit", watched_commit),
        patch.object(Runtime, "_need_snapshot", watched_need_snapshot),
    ):
        yield
