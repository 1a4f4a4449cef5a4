"""A session and its chain, for tests: record turns, and open copies from the payloads alone."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from satchel.model import (
    EMPTY,
    Epoch,
    Link,
    MessageId,
    PayloadKind,
    SessionId,
    SessionKey,
    StateName,
    Tenant,
    Version,
    first_state_id,
    next_state_id,
)
from satchel.state.payload import seal
from satchel.state.schema import Schema
from satchel.state.session import OpenSession, Recorded

KEY = SessionKey(Tenant("default"), SessionId("alice"))
FIRST = StateName(EMPTY, first_state_id(KEY))

Work = Callable[[OpenSession], Any]


class Recording:
    """A session that records, and the chain it left. Close it, or use it in a ``with``."""

    def __init__(self, schema: str = "", migrations: tuple[str, ...] = ()) -> None:
        self.schema = Schema.declare(schema, migrations)
        self.session = OpenSession.empty(KEY.session_id, self.schema, name=FIRST)
        self.chain: list[Link] = []
        self.copies: list[OpenSession] = []
        self.epoch = 0
        self.digest: bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.session.close()
        for copy in self.copies:
            copy.close()

    def begin(self) -> OpenSession:
        self.epoch += 1
        self.session.begin(
            version=Version(self.session.name.version + 1),
            epoch=Epoch(self.epoch),
            message_id=MessageId(f"m{self.epoch}"),
            schema=self.schema,
        )
        return self.session

    def finish(self, *, wants_snapshot: bool = False) -> Recorded:
        recorded = self.session.finish(wants_digest=True, wants_snapshot=wants_snapshot)
        base, version = self.session.name, Version(self.session.name.version + 1)
        name = StateName(version, next_state_id(base.state_id, version, recorded.kind, recorded.raw))
        self.session.set_pending(name)
        return recorded

    def commit(self, recorded: Recorded) -> None:
        name = self.session.pending
        assert name is not None
        self.session.commit()
        self.chain.append(Link(name, seal(recorded.kind, recorded.raw)))
        self.digest = recorded.digest

    def turn(self, work: Work | str = "", *, wants_snapshot: bool = False) -> Recorded:
        """Run and commit one turn: SQL, or a function of the session."""
        session = self.begin()
        if callable(work):
            work(session)
        else:
            session.state.execute(work)
        recorded = self.finish(wants_snapshot=wants_snapshot)
        self.commit(recorded)
        return recorded

    def links(self) -> list[Link]:
        """Return the newest snapshot and the deltas behind it."""
        start = max(index for index, link in enumerate(self.chain) if link.payload.kind is PayloadKind.SNAPSHOT)
        return self.chain[start:]

    def copy(self) -> OpenSession:
        """Return a cold copy of the head."""
        copy = OpenSession.from_chain(
            KEY.session_id, self.links(), base=self.session.name, schema=self.session.schema, digest=self.digest
        )
        self.copies.append(copy)
        return copy
