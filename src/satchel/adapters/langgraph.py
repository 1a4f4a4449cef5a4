"""LangGraph's checkpoints in a session's state: what is in a list is one row, in however many checkpoints it is.

    graph = builder.compile(checkpointer=SatchelSaver())  # in the module: the turn is found at each call
    ...
    config = {"configurable": {"thread_id": turn.session_id}}
    state = await graph.ainvoke({"messages": [("user", turn.text)]}, config, durability="exit")

Stored are ``langgraph_checkpoint`` (without its values), ``langgraph_value`` (a channel at a version) and
``langgraph_write`` (what a task wrote). A list in these is kept as runs of the rows of ``langgraph_item``, in a
``langgraph_list`` for each channel, so that a put writes what is new. Blobs are as LangGraph's serializer gives them.
"""

import contextlib
import contextvars
import copy
import dataclasses
import functools
import itertools
import json
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from satchel.errors import StateMisused
from satchel.state.values import Row, Rows
from satchel.worker.context import Turn, current_turn

try:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        WRITES_IDX_MAP,
        BaseCheckpointSaver,
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        CheckpointTuple,
        DeltaChannelHistory,
        get_checkpoint_id,
        get_checkpoint_metadata,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from langgraph.checkpoint.serde.types import _DeltaSnapshot  # what a delta channel's value is stored as
    from langgraph.types import Overwrite, Send
except ImportError as error:
    raise ImportError("This adapter needs LangGraph 1.2 or later: pip install 'satchel[langgraph]'.") from error

__all__ = ["SatchelSaver"]

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS langgraph_checkpoint (
    position INTEGER PRIMARY KEY,
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL,
    parent_checkpoint_id TEXT,
    last_version INTEGER NOT NULL,
    checkpoint TEXT NOT NULL,
    metadata TEXT NOT NULL,
    UNIQUE (thread_id, checkpoint_ns, checkpoint_id)
) STRICT;
CREATE INDEX IF NOT EXISTS langgraph_checkpoint_latest ON langgraph_checkpoint (thread_id, checkpoint_ns);
CREATE INDEX IF NOT EXISTS langgraph_checkpoint_version ON langgraph_checkpoint (last_version);
CREATE TABLE IF NOT EXISTS langgraph_value (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL,
    channel TEXT NOT NULL,
    version TEXT NOT NULL,
    type TEXT NOT NULL,
    value BLOB NOT NULL,
    lists TEXT,
    PRIMARY KEY (thread_id, checkpoint_ns, channel, version)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS langgraph_write (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    idx INTEGER NOT NULL,
    task_path TEXT NOT NULL,
    channel TEXT NOT NULL,
    type TEXT NOT NULL,
    value BLOB NOT NULL,
    lists TEXT,
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS langgraph_list (
    list_id INTEGER PRIMARY KEY,
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL,
    channel TEXT NOT NULL,
    path TEXT NOT NULL,
    UNIQUE (thread_id, checkpoint_ns, channel, path)
) STRICT;
CREATE TABLE IF NOT EXISTS langgraph_item (
    list_id INTEGER NOT NULL,
    position INTEGER NOT NULL,
    type TEXT NOT NULL,
    value BLOB NOT NULL,
    lists TEXT,
    PRIMARY KEY (list_id, position)
) STRICT, WITHOUT ROWID;
"""
_HAS_TABLES: Final = "SELECT 1 FROM sqlite_schema WHERE name = 'langgraph_item'"

_READ_LAST_VERSION: Final = "SELECT max(last_version) FROM langgraph_checkpoint"
_READ_CHECKPOINT: Final = """
SELECT position, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
FROM langgraph_checkpoint
"""
_AT_POSITION: Final = f"{_READ_CHECKPOINT} WHERE position = ?"
_BY_ID: Final = f"{_READ_CHECKPOINT} WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
_LATEST: Final = f"""{_READ_CHECKPOINT} WHERE position =
(SELECT max(position) FROM langgraph_checkpoint WHERE thread_id = ? AND checkpoint_ns = ?)
"""  # by insertion: IDs are times, and the clocks of two workers differ
_FIND: Final = """
SELECT position, metadata FROM langgraph_checkpoint
WHERE (:thread_id IS NULL OR thread_id = :thread_id)
AND (:checkpoint_ns IS NULL OR checkpoint_ns = :checkpoint_ns)
AND (:checkpoint_id IS NULL OR checkpoint_id = :checkpoint_id)
AND (:before IS NULL OR position < ifnull(
    (SELECT max(position) FROM langgraph_checkpoint
     WHERE checkpoint_id = :before AND (:thread_id IS NULL OR thread_id = :thread_id)),
    ifnull((SELECT min(position) FROM langgraph_checkpoint WHERE checkpoint_id > :before), 1 << 62)))
ORDER BY position DESC LIMIT :limit
"""
_READ_VALUES: Final = """
SELECT v.channel, v.type, v.value, v.lists
FROM json_each(?) AS wanted CROSS JOIN langgraph_value AS v
ON v.thread_id = ? AND v.checkpoint_ns = ? AND v.channel = wanted.key AND v.version = CAST(wanted.value AS TEXT)
"""
_READ_WRITES: Final = """
SELECT task_id, channel, type, value, lists FROM langgraph_write
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ? ORDER BY task_path, task_id, idx
"""
_READ_ITEMS: Final = """
SELECT i.list_id, i.position, i.type, i.value, i.lists FROM json_each(?) AS run CROSS JOIN langgraph_item AS i
ON i.list_id = run.value ->> 0 AND i.position BETWEEN run.value ->> 1 AND run.value ->> 2
"""
_READ_LIST: Final = """
SELECT list_id, ifnull((SELECT max(i.position) FROM langgraph_item AS i WHERE i.list_id = l.list_id), 0)
FROM langgraph_list AS l WHERE thread_id = ? AND checkpoint_ns = ? AND channel = ? AND path = ?
"""
_LINE: Final = """
WITH RECURSIVE line (depth, position, checkpoint_id, parent_checkpoint_id, version) AS (
    SELECT 0, position, checkpoint_id, parent_checkpoint_id, NULL FROM langgraph_checkpoint
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id
    UNION ALL
    SELECT line.depth + 1, c.position, c.checkpoint_id, c.parent_checkpoint_id, (
        SELECT v.version FROM json_each(c.checkpoint, '$.channel_versions') AS seen JOIN langgraph_value AS v
        ON v.thread_id = :thread_id AND v.checkpoint_ns = :checkpoint_ns
        AND v.channel = :channel AND v.version = CAST(seen.value AS TEXT)
        WHERE seen.key = :channel
    )
    FROM line CROSS JOIN langgraph_checkpoint AS c
    ON c.thread_id = :thread_id AND c.checkpoint_ns = :checkpoint_ns AND c.checkpoint_id = line.parent_checkpoint_id
    WHERE line.version IS NULL AND c.position < line.position
)
"""  # a checkpoint's ancestors, up to the nearest that has a value of the channel; a parent was put before its child
_READ_LINE: Final = f"{_LINE} SELECT position, version FROM line WHERE depth > 0 ORDER BY depth"
_READ_LINE_WRITES: Final = f"""{_LINE}
SELECT w.task_id, w.channel, w.type, w.value, w.lists FROM line CROSS JOIN langgraph_write AS w
ON w.thread_id = :thread_id AND w.checkpoint_ns = :checkpoint_ns AND w.checkpoint_id = line.checkpoint_id
WHERE line.depth > 0 AND w.channel = :channel ORDER BY line.depth DESC, w.task_path, w.task_id, w.idx
"""

_WRITE_CHECKPOINT: Final = """
INSERT INTO langgraph_checkpoint
(thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, last_version, checkpoint, metadata)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE SET
parent_checkpoint_id = excluded.parent_checkpoint_id, last_version = excluded.last_version,
checkpoint = excluded.checkpoint, metadata = excluded.metadata
"""
_WRITE_VALUE: Final = """
INSERT INTO langgraph_value VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO UPDATE SET
type = excluded.type, value = excluded.value, lists = excluded.lists
"""
_ADD_WRITE: Final = "INSERT INTO langgraph_write VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_REPLACE_WRITE: Final = """
INSERT INTO langgraph_write VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE SET
task_path = excluded.task_path, channel = excluded.channel,
type = excluded.type, value = excluded.value, lists = excluded.lists
"""
_WRITE_LIST: Final = """
INSERT INTO langgraph_list (thread_id, checkpoint_ns, channel, path) VALUES (?, ?, ?, ?) RETURNING list_id
"""
_WRITE_ITEM: Final = "INSERT INTO langgraph_item VALUES (?, ?, ?, ?, ?)"
_COPY: Final = (
    """
INSERT OR REPLACE INTO langgraph_checkpoint
(thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, last_version, checkpoint, metadata)
SELECT :target, checkpoint_ns, checkpoint_id, parent_checkpoint_id, last_version, checkpoint, metadata
FROM langgraph_checkpoint WHERE thread_id = :source ORDER BY position
""",
    """
INSERT OR REPLACE INTO langgraph_value
SELECT :target, checkpoint_ns, channel, version, type, value, lists FROM langgraph_value WHERE thread_id = :source
""",
    """
INSERT OR REPLACE INTO langgraph_write
SELECT :target, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, type, value, lists
FROM langgraph_write WHERE thread_id = :source
""",
)

_OF_THREAD: Final = "SELECT position FROM langgraph_checkpoint WHERE thread_id = ?"
_LATEST_OF_THREAD: Final = f"""{_READ_CHECKPOINT} WHERE position IN
(SELECT max(position) FROM langgraph_checkpoint WHERE thread_id = ? GROUP BY checkpoint_ns)
"""
_OF_RUNS: Final = """
SELECT position FROM langgraph_checkpoint WHERE metadata ->> '$.run_id' IN (SELECT value FROM json_each(?))
"""
_NEEDS_PARENT: Final = """
SELECT c.checkpoint_id FROM langgraph_checkpoint AS c JOIN langgraph_checkpoint AS parent
ON parent.thread_id = c.thread_id AND parent.checkpoint_ns = c.checkpoint_ns
AND parent.checkpoint_id = c.parent_checkpoint_id
WHERE parent.position IN (SELECT value FROM json_each(:doomed))
AND c.position NOT IN (SELECT value FROM json_each(:doomed))
AND c.metadata ->> '$.counters_since_delta_snapshot' <> '{}'
"""
_DELETE: Final = (
    """
DELETE FROM langgraph_write WHERE (thread_id, checkpoint_ns, checkpoint_id) IN (
    SELECT thread_id, checkpoint_ns, checkpoint_id FROM langgraph_checkpoint
    WHERE position IN (SELECT value FROM json_each(:doomed))
)
""",
    "DELETE FROM langgraph_checkpoint WHERE position IN (SELECT value FROM json_each(:doomed))",
    """
DELETE FROM langgraph_value WHERE (thread_id, checkpoint_ns, channel, version) NOT IN (
    SELECT c.thread_id, c.checkpoint_ns, seen.key, CAST(seen.value AS TEXT)
    FROM langgraph_checkpoint AS c, json_each(c.checkpoint, '$.channel_versions') AS seen
)
""",
)
_DELETE_THREAD_WRITES: Final = "DELETE FROM langgraph_write WHERE thread_id = ?"
_READ_REFERENCES: Final = """
SELECT lists FROM langgraph_value WHERE lists IS NOT NULL
UNION SELECT lists FROM langgraph_write WHERE lists IS NOT NULL
"""
_READ_ITEM_KEYS: Final = "SELECT list_id, position, lists FROM langgraph_item"
_DELETE_ITEM: Final = "DELETE FROM langgraph_item WHERE list_id = ? AND position = ?"
_DELETE_EMPTY_LISTS: Final = "DELETE FROM langgraph_list WHERE list_id NOT IN (SELECT list_id FROM langgraph_item)"

_RUNS_MAX: Final = 64
"""Runs that a stored list has at most: about 1 KiB of text, however often the list was edited in its middle."""
_RUNS_MERGED: Final = 32
"""Neighbours that are stored anew as one run when there are more: each item is copied a few times in all."""
_COPIES_MAX: Final = 4
"""Places of one item that are tried, the oldest and the newest: a list of equal items has as many as items."""
_RUN_BYTES_MIN: Final = 64
"""A run elsewhere that holds less is copied: naming it would take about as much."""
_NESTED_ITEMS_MIN: Final = 8
"""A list inside a value that has fewer is stored with it."""

Typed = tuple[str, bytes]
"""A value as LangGraph's serializer gives it: by this an item is known again."""
Packed = tuple[str, bytes, str | None]
"""A value as its row has it: type, value without the lists that are elsewhere, those lists."""
Place = tuple[int, int]
"""An item's key: list ID and position."""
Home = tuple[str, str, str, str]
"""Where a list grows: thread ID, checkpoint namespace, channel, and its path in the channel's value."""
Layout = list[Any]
"""A stored list: ``[list_id, first, last]`` is a run of stored items, a number that many of those left in the value."""


Method = TypeVar("Method", bound=Callable[..., Any])


class _InContextOfAccess:
    """A method that runs in the context in which it was looked up.

    LangGraph looks ``put_writes`` up when a run starts, in the turn. When one of several
    plain nodes is over, it calls it from that node's thread, outside of any context.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method

    def __get__(self, saver: object, owner: type | None = None) -> Callable[..., Any]:
        if saver is None:
            return self._method
        method, context = self._method.__get__(saver, owner), contextvars.copy_context()

        @functools.wraps(method)
        def run(*args: Any, **kwargs: Any) -> Any:
            return context.copy().run(method, *args, **kwargs)  # a context is entered once at a time

        return run


def _in_context_of_access(method: Method) -> Method:
    return _InContextOfAccess(method)  # type: ignore[return-value]  # called, it is the method


class SatchelSaver(BaseCheckpointSaver[int]):
    """A LangGraph checkpointer that keeps its checkpoints in the state of the session whose turn runs.

    One saver serves every session, so it can be compiled into a graph of the module. The
    turn is found by ``satchel.current_turn()`` at each call: outside of a handler that raises
    ``TurnMisused``. A config without ``thread_id`` means the thread named as the session;
    other threads are kept apart in the same session, and no other session sees them.
    What is put is kept if the turn commits. Every method may be called from any thread.
    """

    def __init__(self) -> None:
        super().__init__()

    # --- reading -----------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that *config* names, or the thread's last put; None if there is none."""
        with self._rows() as rows:
            return rows.get(config)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # LangGraph's word
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yield checkpoints, the last put first; without *config* those of every thread of the session."""
        with self._rows() as rows:
            found = rows.find(config, metadata=filter or {}, before=before, limit=limit)
        for position in found:
            with self._rows() as rows:
                checkpoint = rows.get_at(position)
            if checkpoint is not None:  # it may have been deleted since
                yield checkpoint

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return what each of *channels* is rebuilt from: the nearest stored value and the writes since."""
        with self._rows() as rows:
            return {channel: rows.history(config, channel) for channel in channels}

    # --- writing -----------------------------------------------------------------------------

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint and the values of the channels in *new_versions*; the same ID again replaces it."""
        with self._rows() as rows:
            return rows.put(config, checkpoint, metadata, new_versions)

    @_in_context_of_access
    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote; idempotent."""
        with self._rows() as rows:
            rows.put_writes(config, writes, task_id, task_path)

    def get_next_version(self, current: int | None, channel: None) -> int:  # noqa: ARG002  # LangGraph's shape
        """Return a version above *current* that no channel of the session has had, on any branch."""
        with self._rows() as rows:
            return rows.next_version(current)

    # --- deleting ----------------------------------------------------------------------------

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread with all its namespaces; idempotent."""
        with self._rows() as rows:
            rows.delete_thread(thread_id)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs, and what they alone use; idempotent.

        Raises ``StateMisused`` if a later checkpoint has a delta channel that is rebuilt from them.
        """
        with self._rows() as rows:
            rows.delete_for_runs(run_ids)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread with its pending writes; items are shared, not copied. What has the same ID is replaced."""
        with self._rows() as rows:
            rows.copy_thread(source_thread_id, target_thread_id)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep each namespace's last checkpoint alone (``keep_latest``) or none (``delete``); idempotent.

        Ancestors that a delta channel of the last one is rebuilt from are kept, too.
        """
        if strategy not in {"keep_latest", "delete"}:
            raise StateMisused(f"There is no strategy {strategy!r}.", hint="Use keep_latest or delete.")
        with self._rows() as rows:
            for thread_id in thread_ids:
                if strategy == "delete":
                    rows.delete_thread(thread_id)
                else:
                    rows.prune(thread_id)

    # --- the same, awaited: memory is all it takes --------------------------------------------

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self.get_tuple(config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # LangGraph's word
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        for checkpoint in self.list(config, filter=filter, before=before, limit=limit):
            yield checkpoint

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return self.get_delta_channel_history(config=config, channels=channels)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return self.put(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        self.put_writes(config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        self.delete_thread(thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        self.delete_for_runs(run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self.copy_thread(source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        self.prune(thread_ids, strategy=strategy)

    @contextlib.contextmanager
    def _rows(self) -> Iterator["_Rows"]:
        """Give the running turn's rows to one thread at a time: LangGraph saves in the background."""
        turn = current_turn()
        with _MEMORIES_LOCK:
            memory = _MEMORIES.setdefault(turn, _Memory())
        with memory.lock:
            yield _Rows(turn, memory, self.serde)


class _Memory:
    """What is known of a turn's rows while it runs, so that they are not read again."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.last_version: int | None = None
        self.rollbacks = 0
        self.forget()

    def forget(self) -> None:
        """Know nothing: rows are gone. Versions are not given again."""
        self.has_tables = False
        self.known: dict[Place, Typed] = {}
        """The items that were read or written."""
        self.places: dict[Typed, list[Place]] = {}
        """The same, by what they hold."""
        self.sources: dict[Home, set[int]] = {}
        """The lists that a home's versions take their items from."""

    def learn(self, place: Place, item: Typed) -> None:
        self.known[place] = item
        self.places.setdefault(item, []).append(place)

    def matched(self, items: Sequence[Typed], lists: set[int] | None) -> list[Place | None]:
        """Return a stored item that equals each of *items*, in *lists* or anywhere, in long runs that begin apart."""
        matched: list[Place | None] = []
        used: set[Place] = set()
        while len(matched) < len(items):
            run = self._longest_run(items, len(matched), used, lists)
            used.update(run)
            matched += run or [None]
        return matched

    def _longest_run(
        self, items: Sequence[Typed], start: int, used: set[Place], lists: set[int] | None
    ) -> Sequence[Place]:
        places = self.places.get(items[start], ())
        able = [place for place in places if place not in used and (lists is None or place[0] in lists)]
        some = [*able[:_COPIES_MAX], *able[_COPIES_MAX:][-_COPIES_MAX:]]
        return max((self._run(items, start, place) for place in some), key=len, default=())

    def _run(self, items: Sequence[Typed], start: int, place: Place) -> Sequence[Place]:
        run: list[Place] = []
        for item in itertools.islice(items, start, None):
            here = (place[0], place[1] + len(run))
            if self.known.get(here) != item:
                break
            run.append(here)
        return run


_MEMORIES: Final[weakref.WeakKeyDictionary[Turn[Any], _Memory]] = weakref.WeakKeyDictionary()
_MEMORIES_LOCK: Final = threading.Lock()


class _Rows:
    """The five tables, made when the session has none."""

    def __init__(self, turn: Turn[Any], memory: _Memory, serde: SerializerProtocol) -> None:
        self._session_id = turn.session_id
        self._state = turn.state
        self._memory = memory
        self._serde = serde
        if memory.rollbacks != turn.state.rollbacks:
            memory.forget()
            memory.rollbacks = turn.state.rollbacks
        if not memory.has_tables:
            if not self._state.execute(_HAS_TABLES):
                self._state.execute(_TABLES)
            memory.has_tables = True

    # --- checkpoints -------------------------------------------------------------------------

    def get(self, config: RunnableConfig) -> CheckpointTuple | None:
        row = self._named(config)
        return None if row is None else self._checkpoint(row)

    def get_at(self, position: int) -> CheckpointTuple | None:
        row = self._state.execute(_AT_POSITION, (position,)).first()
        return None if row is None else self._checkpoint(row)

    def find(
        self,
        config: RunnableConfig | None,
        *,
        metadata: Mapping[str, Any],
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Sequence[int]:
        """Return the positions of checkpoints, the last put first."""
        wanted = -1 if limit is None else max(limit, 0)
        rows = self._state.execute(
            _FIND,
            {
                "thread_id": None if config is None else self._line(config)[0],
                "checkpoint_ns": None if config is None else config["configurable"].get("checkpoint_ns"),
                "checkpoint_id": None if config is None else get_checkpoint_id(config),
                "before": None if before is None else get_checkpoint_id(before),
                "limit": -1 if metadata else wanted,
            },
        )
        found = [position for position, text in rows if _has(text, metadata)]
        return found if wanted < 0 else found[:wanted]

    def history(self, config: RunnableConfig, channel: str) -> DeltaChannelHistory:
        row = self._named(config)
        if row is None:
            return DeltaChannelHistory(writes=[])
        thread_id, checkpoint_ns = row["thread_id"], row["checkpoint_ns"]
        at = self._at(row, channel)
        line = self._state.execute(_READ_LINE, at)
        version = line[-1]["version"] if line else None
        seeds = self._read_values(thread_id, checkpoint_ns, {} if version is None else {channel: version})
        writes = self._state.execute(_READ_LINE_WRITES, at)
        objects = self._objects([*(_packed(seed) for seed in seeds), *(_packed(write) for write in writes)])
        history = DeltaChannelHistory(
            writes=[(write["task_id"], channel, self._unpacked(_packed(write), objects)) for write in writes]
        )
        for seed in seeds:
            history["seed"] = self._unpacked(_packed(seed), objects)
        return history

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        thread_id, checkpoint_ns = self._line(config)
        values = checkpoint["channel_values"]
        for channel, version in new_versions.items():
            if channel in values:
                packed = self._packed(values[channel], (thread_id, checkpoint_ns, channel))
                self._state.execute(_WRITE_VALUE, (thread_id, checkpoint_ns, channel, str(version), *packed))
        kept = {key: value for key, value in checkpoint.items() if key != "channel_values"}
        self._state.execute(
            _WRITE_CHECKPOINT,
            (
                thread_id,
                checkpoint_ns,
                checkpoint["id"],
                get_checkpoint_id(config),
                self._last_version(),
                _json(kept),
                _json(get_checkpoint_metadata(config, metadata)),
            ),
        )
        return self._config(thread_id, checkpoint_ns, checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> None:
        line = self._line(config)
        checkpoint_id = config["configurable"]["checkpoint_id"]
        for order, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, order)
            sql = _REPLACE_WRITE if idx < 0 else _ADD_WRITE
            packed = self._packed(value)
            self._state.execute(sql, (*line, checkpoint_id, task_id, idx, task_path, channel, *packed))

    def next_version(self, current: int | None) -> int:
        self._memory.last_version = max(self._last_version(), current or 0) + 1
        return self._memory.last_version

    def _last_version(self) -> int:
        if self._memory.last_version is None:
            self._memory.last_version = self._state.execute(_READ_LAST_VERSION).scalar() or 0
        return self._memory.last_version

    def _line(self, config: RunnableConfig) -> tuple[str, str]:
        """Return the thread and the namespace that *config* names."""
        named = config["configurable"]
        return self._thread(named.get("thread_id", self._session_id)), named.get("checkpoint_ns", "")

    def _thread(self, thread_id: object) -> str:
        """Return a thread as it is stored. The session's own has no name: a copy of the session has another ID."""
        return "" if str(thread_id) == self._session_id else str(thread_id)

    def _config(self, thread: str, checkpoint_ns: str, checkpoint_id: str) -> RunnableConfig:
        named = {"checkpoint_ns": checkpoint_ns, "checkpoint_id": checkpoint_id}
        return {"configurable": {"thread_id": thread or self._session_id, **named}}

    def _named(self, config: RunnableConfig) -> Row | None:
        line, checkpoint_id = self._line(config), get_checkpoint_id(config)
        if checkpoint_id is None:
            return self._state.execute(_LATEST, line).first()
        return self._state.execute(_BY_ID, (*line, checkpoint_id)).first()

    def _at(self, row: Row, channel: str) -> dict[str, str]:
        return {"channel": channel, **{key: row[key] for key in ("thread_id", "checkpoint_ns", "checkpoint_id")}}

    def _read_values(self, thread_id: str, checkpoint_ns: str, versions: Mapping[str, Any]) -> Rows:
        rows = self._state.execute(_READ_VALUES, (_json(versions), thread_id, checkpoint_ns))
        for channel, _, _, lists in rows:
            for path, layout in _layouts(lists):
                home = (thread_id, checkpoint_ns, channel, path)
                self._memory.sources.setdefault(home, set()).update(list_id for list_id, _, _ in _runs(layout))
        return rows

    def _checkpoint(self, row: Row) -> CheckpointTuple:
        thread_id, checkpoint_ns, checkpoint_id = row[1:4]
        checkpoint = json.loads(row["checkpoint"])
        values = self._read_values(thread_id, checkpoint_ns, checkpoint["channel_versions"])
        writes = self._state.execute(_READ_WRITES, (thread_id, checkpoint_ns, checkpoint_id))
        objects = self._objects([*(_packed(value) for value in values), *(_packed(write) for write in writes)])
        checkpoint["channel_values"] = {value["channel"]: self._unpacked(_packed(value), objects) for value in values}
        parent_id = row["parent_checkpoint_id"]
        return CheckpointTuple(
            config=self._config(thread_id, checkpoint_ns, checkpoint_id),
            checkpoint=checkpoint,
            metadata=json.loads(row["metadata"]),
            parent_config=None if parent_id is None else self._config(thread_id, checkpoint_ns, parent_id),
            pending_writes=[
                (write["task_id"], write["channel"], self._unpacked(_packed(write), objects)) for write in writes
            ],
        )

    # --- lists, item by item -----------------------------------------------------------------

    def _typed(self, value: Any) -> Typed:
        type_, blob = self._serde.dumps_typed(value)
        return type_, bytes(blob)

    def _packed(self, value: Any, home: tuple[str, str, str] | None = None) -> Packed:
        """Return *value* as a row has it, its lists by reference. What they have new is stored if they have a home."""
        layouts: dict[str, Layout] = {}

        def detached(path: str, items: list[Any]) -> list[Any]:
            if home is not None and _is_long(path, items):
                layouts[path] = self._grown((*home, path), items)
                return []
            layout, left = self._referenced(items)
            if layout:
                layouts[path] = layout
            return left

        left = self._typed(_map_lists(value, "", detached))
        return *left, _json(layouts) if layouts else None

    def _referenced(self, items: list[Any]) -> tuple[Layout, list[Any]]:
        """Return *items* as runs of stored ones, and those that are left."""
        if not self._memory.known:
            return [], items
        typed = [self._typed(item) for item in items]
        places = _without_short_runs(self._memory.matched(typed, None), typed)
        if not any(places):
            return [], items
        return _layout(places), [item for item, place in zip(items, places, strict=True) if place is None]

    def _grown(self, home: Home, items: list[Any]) -> Layout:
        """Return *items* as runs of stored ones; what no version of this list had is stored now."""
        typed = [self._typed(item) for item in items]
        sources = self._memory.sources.get(home)
        places = self._memory.matched(typed, sources)
        if sources is None:  # the first version: a branch, a subgraph, or not read in this turn
            places = _without_short_runs(places, typed)
        places = _in_few_runs(places)
        missing = [index for index, place in enumerate(places) if place is None]
        added = self._added(home, [self._packed(items[index]) for index in missing])
        for index, place in zip(missing, added, strict=True):
            places[index] = place
            self._memory.learn(place, typed[index])
        self._memory.sources.setdefault(home, set()).update(place[0] for place in places if place is not None)
        return _layout(places)

    def _added(self, home: Home, items: Sequence[Packed]) -> Sequence[Place]:
        """Store *items* at the end of the list of *home*."""
        if not items:
            return []
        found = self._state.execute(_READ_LIST, home).first()
        list_id, last = (self._state.execute(_WRITE_LIST, home).scalar(), 0) if found is None else found
        places = [(list_id, position) for position in range(last + 1, last + 1 + len(items))]
        self._state.executemany(_WRITE_ITEM, [(*place, *packed) for place, packed in zip(places, items, strict=True)])
        return places

    def _objects(self, values: Iterable[Packed]) -> dict[Place, Any]:
        """Read the items that *values* refer to, and those that these do."""
        objects: dict[Place, Any] = {}
        for level in reversed(self._levels(values)):
            for place, packed in level.items():
                if place not in objects:
                    item = objects[place] = self._unpacked(packed, objects)
                    if place not in self._memory.known:
                        # By what it is now, which is not always what it was: a set has no order.
                        self._memory.learn(place, self._typed(item))
        return objects

    def _levels(self, values: Iterable[Packed]) -> Sequence[Mapping[Place, Packed]]:
        """Return the items that *values* refer to, then those that the items do, and so on."""
        levels: list[Mapping[Place, Packed]] = []
        wanted = list(values)
        while runs := {run for _, _, lists in wanted for _, layout in _layouts(lists) for run in _runs(layout)}:
            rows = self._state.execute(_READ_ITEMS, (_json(sorted(runs)),))
            levels.append({(list_id, at): (type_, value, lists) for list_id, at, type_, value, lists in rows})
            wanted = [packed for packed in levels[-1].values() if packed[2] is not None]
        return levels

    def _unpacked(self, packed: Packed, objects: Mapping[Place, Any]) -> Any:
        type_, blob, lists = packed
        value = self._serde.loads_typed((type_, blob))
        if lists is None:
            return value
        layouts: dict[str, Layout] = json.loads(lists)

        def attached(path: str, left: list[Any]) -> list[Any]:
            return _filled(layouts[path], left, objects) if path in layouts else left

        return _map_lists(value, "", attached)

    # --- deleting ----------------------------------------------------------------------------

    def delete_thread(self, thread_id: str) -> None:
        thread = self._thread(thread_id)
        self._state.execute(_DELETE_THREAD_WRITES, (thread,))
        self._delete([position for (position,) in self._state.execute(_OF_THREAD, (thread,))])

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        doomed = [position for (position,) in self._state.execute(_OF_RUNS, (_json(list(run_ids)),))]
        needed = self._state.execute(_NEEDS_PARENT, {"doomed": _json(doomed)}).first()
        if needed is not None:
            raise StateMisused(
                f"Checkpoint {needed['checkpoint_id']} has a delta channel that is rebuilt from these runs.",
                hint="Delete the later runs with them, or the thread.",
            )
        self._delete(doomed)

    def prune(self, thread_id: str) -> None:
        kept: set[int] = set()
        for row in self._state.execute(_LATEST_OF_THREAD, (self._thread(thread_id),)):
            kept |= {row["position"], *self._rebuilt_from(row)}
        found = self._state.execute(_OF_THREAD, (self._thread(thread_id),))
        self._delete([position for (position,) in found if position not in kept])

    def _rebuilt_from(self, row: Row) -> set[int]:
        """Return the positions of the ancestors that the delta channels of *row* are rebuilt from."""
        versions = json.loads(row["checkpoint"])["channel_versions"]
        counters = json.loads(row["metadata"]).get("counters_since_delta_snapshot", {})
        lines = [self._state.execute(_READ_LINE, self._at(row, name)) for name in counters if name in versions]
        return {position for line in lines for position, _ in line}

    def copy_thread(self, source: str, target: str) -> None:
        if source != target:
            for sql in _COPY:
                self._state.execute(sql, {"source": self._thread(source), "target": self._thread(target)})

    def _delete(self, doomed: Collection[int]) -> None:
        """Delete checkpoints, and then all that no checkpoint uses."""
        if not doomed:
            return
        for sql in _DELETE:
            self._state.execute(sql, {"doomed": _json(doomed)} if ":doomed" in sql else ())
        items = {(list_id, position): lists for list_id, position, lists in self._state.execute(_READ_ITEM_KEYS)}
        used = _reached(items, [lists for (lists,) in self._state.execute(_READ_REFERENCES)])
        self._state.executemany(_DELETE_ITEM, [place for place in items if place not in used])
        self._state.execute(_DELETE_EMPTY_LISTS)
        self._memory.forget()


def _map_lists(value: Any, path: str, change: Callable[[str, list[Any]], list[Any]]) -> Any:
    """Return *value* with each list that is reached by names replaced by ``change(path, list)``; it stays as it is."""
    if type(value) is list:
        return change(path, value)
    if type(value) is dict:
        return _map_dict(value, path, change)
    if isinstance(value, Send):
        arg = _map_lists(value.arg, f"{path}/arg", change)
        if arg is not value.arg:
            value = copy.copy(value)
            value.arg = arg
        return value
    if isinstance(value, _DeltaSnapshot | Overwrite):
        inner = _map_lists(value.value, f"{path}/value", change)
        if inner is value.value:
            return value
        return _DeltaSnapshot(inner) if isinstance(value, _DeltaSnapshot) else dataclasses.replace(value, value=inner)
    return value


def _map_dict(value: dict[Any, Any], path: str, change: Callable[[str, list[Any]], list[Any]]) -> dict[Any, Any]:
    changed: dict[Any, Any] = {}
    for key, inner in value.items():
        if isinstance(key, str):
            name = key.replace("~", "~0").replace("/", "~1")
            mapped = _map_lists(inner, f"{path}/{name}", change)
            if mapped is not inner:
                changed[key] = mapped
    return {**value, **changed} if changed else value


def _is_long(path: str, items: Sequence[Any]) -> bool:
    """Whether a channel's list is stored item by item: it is the value itself, or has a number of items worth it."""
    if path in {"", "/value"}:
        return bool(items)
    return len(items) >= _NESTED_ITEMS_MIN and not isinstance(items[0], int | float)


def _packed(row: Row) -> Packed:
    """Return the last three columns."""
    type_, value, lists = row[-3:]
    return type_, value, lists


def _layouts(lists: str | None) -> Iterable[tuple[str, Layout]]:
    return () if lists is None else json.loads(lists).items()


def _runs(layout: Layout) -> Iterator[tuple[int, int, int]]:
    return ((entry[0], entry[1], entry[2]) for entry in layout if not isinstance(entry, int))


def _layout(places: Sequence[Place | None]) -> Layout:
    layout: Layout = []
    for start, end in _spans(places):
        first = places[start]
        layout.append(end - start if first is None else [*first, first[1] + end - start - 1])
    return layout


def _spans(places: Sequence[Place | None]) -> list[tuple[int, int]]:
    """Return where runs begin and end in *places*: items stored one after the other, or not stored."""
    spans: list[tuple[int, int]] = []
    for index, place in enumerate(places):
        before = places[index - 1] if index else None
        follows = place is None if before is None else place == (before[0], before[1] + 1)
        if index and follows:
            spans[-1] = (spans[-1][0], index + 1)
        else:
            spans.append((index, index + 1))
    return spans


def _without_short_runs(places: list[Place | None], items: Sequence[Typed]) -> list[Place | None]:
    for start, end in _spans(places):
        if sum(len(blob) for _, blob in items[start:end]) < _RUN_BYTES_MIN:
            places[start:end] = [None] * (end - start)
    return places


def _in_few_runs(places: list[Place | None]) -> list[Place | None]:
    """Take the smallest neighbouring runs as not stored until there are few: they will be one."""
    while len(spans := _spans(places)) > _RUNS_MAX:
        windows = [(low[0], high[1]) for low, high in zip(spans, spans[_RUNS_MERGED - 1 :], strict=False)]
        start, end = min(windows, key=lambda window: window[1] - window[0])
        places[start:end] = [None] * (end - start)
    return places


def _filled(layout: Layout, left: list[Any], objects: Mapping[Place, Any]) -> list[Any]:
    """Return the list that *layout* describes. Raises ``StateMisused`` if an item's row is gone."""
    items: list[Any] = []
    rest = iter(left)
    for entry in layout:
        if isinstance(entry, int):
            items += [next(rest) for _ in range(entry)]
            continue
        list_id, first, last = entry
        for position in range(first, last + 1):
            if (list_id, position) not in objects:
                raise StateMisused(f"Item {position} of list {list_id} is not in langgraph_item.")
            items.append(objects[list_id, position])
    return items


def _reached(items: Mapping[Place, str | None], references: Iterable[str]) -> set[Place]:
    """Return the places that *references* lead to, those in items included."""
    reached: set[Place] = set()
    pending = list(references)
    while pending:
        for _, layout in _layouts(pending.pop()):
            for list_id, first, last in _runs(layout):
                fresh = {(list_id, position) for position in range(first, last + 1)} - reached
                reached |= fresh
                pending += [lists for place in fresh if (lists := items.get(place)) is not None]
    return reached


def _has(metadata: str, wanted: Mapping[str, Any]) -> bool:
    if not wanted:
        return True
    found = json.loads(metadata)
    return all(found.get(key) == value for key, value in wanted.items())


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
