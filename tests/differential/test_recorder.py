"""The recorder against a copy: random turns arrive elsewhere exactly as they happened.

Every program records turns on one copy of a session and brings others to the same
version by the payloads alone. Digests and exact dumps, made by different code, are
compared. A failure names its seed; ``SATCHEL_DIFFERENTIAL_SEED`` runs that one alone,
``SATCHEL_DIFFERENTIAL_PROGRAMS`` sets how many run.
"""

import contextlib
import functools
import os
import random
from typing import Any

import apsw
import pytest

from satchel.errors import StateMisused
from satchel.model import (
    EMPTY,
    Content,
    Epoch,
    Link,
    Message,
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
from tests.differential.dumps import dump
from tests.differential.programs import Program, Turn, program

PROGRAMS = int(os.environ.get("SATCHEL_DIFFERENTIAL_PROGRAMS", "2000"))
BATCHES = 4
KEY = SessionKey(Tenant("default"), SessionId("s"))
FIRST = StateName(EMPTY, first_state_id(KEY))

declared = functools.lru_cache(maxsize=None)(Schema.declare)


def seeds(batch: int) -> range | list[int]:
    if "SATCHEL_DIFFERENTIAL_SEED" in os.environ:
        return [int(os.environ["SATCHEL_DIFFERENTIAL_SEED"])] if batch == 0 else []
    return range(batch, PROGRAMS, BATCHES)


@pytest.mark.parametrize("batch", range(BATCHES))
@pytest.mark.timeout(0 if PROGRAMS > 10_000 else 120)
def test_every_turn_arrives_exactly_or_is_undone_exactly(batch: int):
    """One row that differs between two copies is a lost or invented memory of a conversation."""
    tally = {"delta": 0, "snapshot": 0, "undone": 0, "lost": 0}

    for seed in seeds(batch):
        try:
            Run(program(seed), tally).play()
        except BaseException as error:
            error.add_note(f"SATCHEL_DIFFERENTIAL_SEED={seed}")
            raise

    if len(seeds(batch)) > 100:
        assert all(tally.values()), f"not everything happened: {tally}"
        assert tally["delta"] > tally["snapshot"], tally


class Run:
    """One program: a copy that records, a copy that follows, and the chain between them."""

    def __init__(self, what: Program, tally: dict[str, int]) -> None:
        self.program = what
        self.tally = tally
        self.dice = random.Random(what.seed)  # noqa: S311  # a seed, not a secret
        self.schema = declared(what.schema)
        self.live = OpenSession.empty(KEY.session_id, self.schema, name=FIRST)
        self.schema_name = self.live.schema
        self.follower: OpenSession | None = None
        self.chain: list[Link] = []
        self.epoch = 0

    def play(self) -> None:
        try:
            for turn in self.program.turns:
                self.play_turn(turn)
        finally:
            self.live.close()
            if self.follower is not None:
                self.follower.close()

    def play_turn(self, turn: Turn) -> None:
        live = self.live
        self.epoch += 1
        before = dump(live)
        live.begin(
            version=Version(live.name.version + 1),
            epoch=Epoch(self.epoch),
            message_id=MessageId(f"m{self.epoch}"),
            schema=self.schema,
        )
        for step in turn.steps:
            perform(live, step)
        try:
            recorded = None if turn.end == "undo" else live.finish(wants_digest=True, wants_snapshot=False)
        except StateMisused:
            recorded = None
        if live.is_broken:
            self.reopen()
        elif recorded is None or turn.end != "commit":
            live.rollback()
            self.tally["undone"] += 1
        else:
            self.commit(recorded)
            return
        assert dump(self.live) == before

    def reopen(self) -> None:
        """The turn's transaction was lost: do as a worker does."""
        self.tally["lost"] += 1
        self.live.close()
        self.live = self.rebuilt() if self.chain else OpenSession.empty(KEY.session_id, self.schema, name=FIRST)

    def rebuilt(self, digest: bytes | None = None) -> OpenSession:
        start = max(index for index, link in enumerate(self.chain) if link.payload.kind is PayloadKind.SNAPSHOT)
        base = self.chain[-1].name
        return OpenSession.from_chain(
            KEY.session_id, self.chain[start:], base=base, schema=self.schema_name, digest=digest
        )

    def commit(self, recorded: Recorded) -> None:
        live = self.live
        version = Version(live.name.version + 1)
        name = StateName(version, next_state_id(live.name.state_id, version, recorded.kind, recorded.raw))
        self.chain.append(Link(name, seal(recorded.kind, recorded.raw)))
        live.set_pending(name)
        pending = dump(live)
        live.commit()
        assert live.schema == recorded.schema
        self.schema_name = recorded.schema
        self.tally[recorded.kind.value] += 1
        assert dump(live) == pending
        self.follow(recorded.digest)
        if self.dice.random() < 0.3 and self.follower is not None and self.follower.name == name:
            self.live, self.follower = self.follower, self.live

    def follow(self, digest: bytes | None) -> None:
        """Bring the follower to the head: by the deltas it lacks, or from the snapshot; or let it fall behind."""
        head = self.chain[-1].name
        held = self.follower.name.version if self.follower is not None else Version(0)
        missing = [link for link in self.chain if link.name.version > held]
        can_catch_up = held > 0 and all(link.payload.kind is PayloadKind.DELTA for link in missing)
        if can_catch_up and self.dice.random() < 0.3:
            return
        if can_catch_up and self.follower is not None and self.dice.random() < 0.7:
            self.follower.catch_up(missing, base=head, schema=self.schema_name, digest=digest)
        else:
            if self.follower is not None:
                self.follower.close()
            self.follower = self.rebuilt(digest)
        assert dump(self.follower) == dump(self.live)
        assert self.follower._database.run("PRAGMA integrity_check") == [("ok",)]


def perform(session: OpenSession, step: tuple[str, Any]) -> None:
    """Run one step of a handler that carries on whatever SQLite says."""
    with contextlib.suppress(apsw.Error, StateMisused):
        match step:
            case "sql", (sql, params):
                session.state.execute(sql, params)
            case "set", (key, value):
                session.state[key] = value
            case "append", (key, value):
                held = session.state.setdefault(key, [])
                if isinstance(held, list):
                    held.append(value)
            case "nested", (key, value):
                held = session.state.setdefault(key, {})
                if isinstance(held, dict):
                    held.setdefault("in", []).append(value)
            case "delete", (key, _):
                session.state.pop(key, None)
            case "say", text:
                session.history.append(Message(id="i", content=(Content(text),), created_at="t"))
            case _:
                raise AssertionError(step)
