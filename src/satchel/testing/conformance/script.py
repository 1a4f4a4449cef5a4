"""The vocabulary of the clauses: one session driven through a store, step by step."""

import asyncio
import hashlib
from collections.abc import Coroutine
from typing import Any

import msgspec

from satchel.model import (
    DEFAULT_TENANT,
    AgentSpec,
    Encoding,
    ErrorBody,
    MessageId,
    OnBusy,
    Payload,
    PayloadKind,
    SchemaName,
    SessionId,
    SessionKey,
    StateId,
    StateName,
    Tenant,
    Version,
    first_state_id,
    next_state_id,
)
from satchel.store.base import (
    Admission,
    ChainLink,
    Commit,
    NewTurn,
    ObjectName,
    PublishedSnapshot,
    Session,
    Started,
    Store,
    StoredEvents,
    StoredPayload,
    Turn,
)

SCHEMA = SchemaName(1, b"f" * 32)
ERROR = ErrorBody(code="TEXT_HANDLER_ERROR", message="ValueError", retryable=True, details={"attempts": 1})
QUEUE = 32
LONG_AGO_MS, FAR_AHEAD_MS = 0, 2**52
SNAPSHOT, DELTA = PayloadKind.SNAPSHOT, PayloadKind.DELTA


def session_key(session_id: str = "s", tenant: Tenant = DEFAULT_TENANT) -> SessionKey:
    return SessionKey(tenant, SessionId(session_id))


def agent_spec(name: str = "clerk", *, schema: SchemaName = SCHEMA, on_busy: OnBusy = OnBusy.QUEUE) -> AgentSpec:
    return AgentSpec(name=name, schema=schema, schema_min=1, turn_timeout_s=600.0, max_attempts=3, on_busy=on_busy)


def payload(kind: PayloadKind, raw: bytes) -> Payload:
    return Payload(
        kind=kind,
        encoding=Encoding.NONE,
        raw_size=len(raw),
        checksum=hashlib.sha256(raw).digest()[:16],
        data=raw,
    )


async def stored_as_object(store: Store, key: SessionKey, whole: Payload) -> StoredPayload:
    name = await store.objects.put(key, whole.data)
    return StoredPayload(payload=msgspec.structs.replace(whole, data=b""), object=name)


class Script:
    """One session's messages. Every step is one call of the contract."""

    def __init__(self, store: Store, key: SessionKey | None = None) -> None:
        self.store = store
        self.log = store.log
        self.key = key or session_key()
        self.names: dict[Version, StateName] = {Version(0): StateName(Version(0), first_state_id(self.key))}
        """Every version that was committed."""
        self.raws: dict[Version, bytes] = {}

    @classmethod
    async def begin(cls, store: Store, key: SessionKey | None = None, *, on_busy: OnBusy = OnBusy.QUEUE) -> "Script":
        """Register the agent ``clerk``, and begin with no message."""
        script = cls(store, key)
        await store.log.register_agent(script.key.tenant, agent_spec(on_busy=on_busy))
        return script

    async def admit(  # noqa: PLR0913  # each has the default of a plain message
        self,
        message_id: str,
        *,
        text: str = "hello",
        agent: str | None = "clerk",
        metadata: dict[str, Any] | None = None,
        on_busy: OnBusy | None = None,
        at_ms: int = 1_000,
        queue_length_max: int = QUEUE,
        start: bool = False,
        skip: int = 0,
    ) -> Admission:
        new = NewTurn(
            key=self.key,
            message_id=MessageId(message_id),
            agent=agent,
            text=text,
            metadata=metadata,
            on_busy=on_busy,
            accepted_at_ms=at_ms,
        )
        return await self.log.admit(new, queue_length_max=queue_length_max, start=start, skip=skip)

    async def start(self, message_id: str, *, skip: int = 0) -> Started:
        return await self.log.start(self.key, MessageId(message_id), skip=skip)

    async def run(self, message_id: str) -> Started:
        """Admit a message and start it."""
        await self.admit(message_id)
        return await self.start(message_id)

    async def turn(self, message_id: str) -> Turn:
        return await self.log.turn(self.key, MessageId(message_id))

    async def session(self) -> Session:
        return await self.log.session(self.key)

    async def fail(self, message_id: str, started: Started | None = None) -> Turn:
        epoch = started.session.epoch if started is not None else None
        return await self.log.fail(self.key, MessageId(message_id), ERROR, epoch=epoch, now_ms=3_000)

    async def cancel(self, message_id: str) -> Turn:
        return await self.log.cancel(self.key, MessageId(message_id), now_ms=3_000)

    def commit_of(
        self,
        started: Started,
        *,
        kind: PayloadKind | None = None,
        raw: bytes | None = None,
        stored: StoredPayload | None = None,
        events: StoredEvents | None = None,
        digest: bytes | None = None,
        at_ms: int = 2_000,
    ) -> Commit:
        """Return the commit of an attempt: a snapshot if it is the first version, else a delta."""
        base = started.session.head
        version = Version(base.version + 1)
        kind = kind or (SNAPSHOT if base.version == 0 else DELTA)
        raw = raw if raw is not None else f"{kind} {version} by {started.turn.message_id}".encode()
        return Commit(
            key=self.key,
            message_id=started.turn.message_id,
            epoch=started.session.epoch,
            base=base,
            name=StateName(version, next_state_id(base.state_id, version, kind, raw)),
            payload=stored or StoredPayload(payload(kind, raw)),
            schema=SCHEMA,
            state_bytes=8_192,
            digest=digest,
            answer=f"answer to {started.turn.message_id}",
            events=events or StoredEvents(lines=b'{"seq": 1}\n'),
            finished_at_ms=at_ms,
        )

    async def commit(self, commit: Commit) -> Turn:
        turn = await self.log.commit(commit)
        self.names[commit.name.version] = commit.name
        self.raws[commit.name.version] = commit.payload.payload.data
        return turn

    async def commit_turn(
        self, message_id: str, *, kind: PayloadKind | None = None, digest: bytes | None = None
    ) -> Turn:
        """Take a message from arrival to commit."""
        started = await self.run(message_id)
        return await self.commit(self.commit_of(started, kind=kind, digest=digest))

    async def commit_turns(self, count: int, *, snapshots: tuple[int, ...] = ()) -> None:
        """Commit *count* more versions; those in *snapshots* as a snapshot."""
        head = max(self.names)
        for version in range(head + 1, head + count + 1):
            await self.commit_turn(f"m{version}", kind=SNAPSHOT if version in snapshots else None)

    async def publish(self, version: int, *, raw: bytes = b"compacted", digest: bytes = b"d" * 32) -> bool:
        """Publish a snapshot of a committed version."""
        return await self.log.publish(
            PublishedSnapshot(
                key=self.key,
                name=self.names[Version(version)],
                payload=StoredPayload(payload(SNAPSHOT, raw)),
                digest=digest,
            )
        )

    async def trim(self, *, retain_versions: int, retain_answers: int = 1_000) -> None:
        await self.log.trim(self.key, retain_versions=retain_versions, retain_answers=retain_answers)

    async def chain(self, version: int) -> list[ChainLink]:
        return list(await self.log.chain(self.key, Version(version)))

    async def retained(self) -> list[int]:
        return [row.name.version for row in await self.log.versions(self.key, limit=10_000, before=None)]

    async def assert_rebuildable(self, version: int) -> None:
        """Assert that a version has a base and every delta after it, each as it was committed."""
        self.assert_whole(version, await self.chain(version))

    def assert_whole(self, version: int, links: list[ChainLink]) -> None:
        """Assert that *links* are a base and every delta after it up to *version*, each as it was committed."""
        kinds = [link.stored.payload.kind for link in links]
        first = version - len(links) + 1

        assert kinds == [SNAPSHOT] + [DELTA] * (len(links) - 1)
        assert [link.name for link in links] == [self.names[Version(v)] for v in range(first, version + 1)]
        assert [link.stored.payload.data for link in links[1:]] == [
            self.raws[Version(v)] for v in range(first + 1, version + 1)
        ]


async def in_order_of_calls(*calls: Coroutine[Any, Any, object]) -> list[object]:
    """Make the calls at once, in this order; return results and errors."""
    return list(await asyncio.gather(*calls, return_exceptions=True))


def other(name: StateName) -> StateName:
    """Return another state of the same version: what another attempt would have made."""
    return StateName(name.version, StateId(bytes(16)))


def absent(key: SessionKey) -> ObjectName:
    """Return the name of an object that was never put."""
    return ObjectName(key, hashlib.sha256(b"absent").digest(), 6)
