"""The recorder's life: begin, finish, commit or roll back; and what a copy refuses."""

import contextlib

import apsw
import pytest

from satchel import limits
from satchel.errors import ApplyConflict, CorruptPayload, CorruptState, SchemaRefused, StateMisused, StateTooLarge
from satchel.model import (
    Content,
    Epoch,
    Link,
    Message,
    MessageId,
    PayloadKind,
    SchemaName,
    SessionId,
    StateId,
    StateName,
    Version,
    next_state_id,
)
from satchel.state import delta as deltas
from satchel.state import tables
from satchel.state.delta import check_turn_mark
from satchel.state.payload import seal, unseal
from satchel.state.schema import Schema
from satchel.state.session import OpenSession
from tests.differential.dumps import dump
from tests.unit.state.sessions import FIRST, KEY, Recording

SCHEMA = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)"
INSERT = "INSERT INTO t (b) VALUES ('x')"


def test_the_first_version_is_a_snapshot_and_the_next_is_a_delta():
    """A snapshot says why it is one."""
    with Recording(SCHEMA) as recording:
        first, second = recording.turn(INSERT), recording.turn(INSERT)

        assert (first.kind, first.reasons) == (PayloadKind.SNAPSHOT, ("the first version",))
        assert (second.kind, second.reasons, second.changed_rows) == (PayloadKind.DELTA, (), {"t": (1, 0, 0)})


def test_changed_rows_count_what_a_user_knows():
    """Our tables and those behind a full-text index are not theirs; a document is one row of the index."""
    with Recording(f"{SCHEMA}; CREATE VIRTUAL TABLE doc USING fts5(a)") as recording:
        recording.turn(INSERT)

        recorded = recording.turn(f"{INSERT}; UPDATE t SET b = 'y' WHERE a = 1; INSERT INTO doc VALUES ('word')")

        assert recorded.changed_rows == {"t": (1, 1, 0), "doc": (1, 0, 0)}


def test_a_pending_turn_is_in_the_snapshot_and_not_in_the_copy():
    """Until the hub has committed it, version n-1 is what stands outside the transaction."""
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        recording.session, held = recording.copy(), recording.session
        held.close()
        base = recording.session.name
        recording.begin().state.execute(INSERT)
        recording.finish()
        pending = recording.session.pending
        assert pending is not None

        image = recording.session.pending_snapshot()

        link = Link(pending, seal(PayloadKind.SNAPSHOT, image))
        with_it = OpenSession.from_chain(
            KEY.session_id, [link], base=pending, schema=recording.session.schema, digest=None
        )
        recording.copies.append(with_it)
        assert dump(with_it) == dump(recording.session)
        assert recording.session.name == base
        recording.session.rollback()
        assert (recording.session.name, recording.session.pending) == (base, None)
        assert dump(with_it) != dump(recording.session)


def test_a_snapshot_of_a_large_open_turn_is_whole():
    """SQLite writes pages early when a turn is large; the image must be of one moment all the same."""
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        recording.session, held = recording.copy(), recording.session
        held.close()

        recording.turn(
            "WITH RECURSIVE n (number) AS (SELECT 10 UNION ALL SELECT number + 1 FROM n LIMIT 2000)"
            " INSERT INTO t SELECT number, zeroblob(3000) FROM n",
            wants_snapshot=True,
        )

        assert dump(recording.copy()) == dump(recording.session)


def test_a_finished_turn_can_be_undone_exactly():
    """Another attempt may have committed: nothing of this one may remain, sequences and definitions included."""
    with Recording("CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, b)") as recording:
        recording.turn("INSERT INTO t (b) VALUES (1)")
        before = dump(recording.session)
        recording.begin().state.execute("INSERT INTO t (b) VALUES (2); CREATE TABLE n (a); DROP TABLE t")
        recording.finish()

        recording.session.rollback()
        recording.session.rollback()

        assert dump(recording.session) == before
        assert recording.turn("INSERT INTO t (b) VALUES (2)").kind is PayloadKind.DELTA


def test_the_hub_can_ask_for_a_snapshot():
    """A chain found bad is begun anew from a worker that holds the head."""
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)

        recorded = recording.turn(INSERT, wants_snapshot=True)

        assert (recorded.kind, recorded.reasons) == (PayloadKind.SNAPSHOT, ("the hub asked",))


def test_a_delta_that_is_not_smaller_gives_way_to_the_snapshot():
    """Every row rewritten with its old and its new values is more than the rows."""
    with Recording(SCHEMA) as recording:
        recording.turn("INSERT INTO t VALUES (1, printf('%.*c', 300000, 'x'))")

        recorded = recording.turn("UPDATE t SET b = printf('%.*c', 300000, 'y')")

        assert recorded.reasons == ("the delta is not smaller than the snapshot",)


def test_a_transaction_that_ended_behind_our_back_fails_the_turn_and_the_copy():
    """OR ROLLBACK ends the runtime's transaction; what ran after it would be committed by itself."""
    with Recording(f"{SCHEMA}; CREATE UNIQUE INDEX u ON t (b)") as recording:
        recording.turn(INSERT)
        session = recording.begin()
        with pytest.raises(apsw.ConstraintError):
            session.state.execute("INSERT OR ROLLBACK INTO t (b) VALUES ('x')")

        for use in (lambda: session.state.execute("SAVEPOINT s"), lambda: session.state.update(a=1), recording.finish):
            with pytest.raises(StateMisused, match="rolled back"):
                use()
        session.rollback()

        assert session.is_broken


def test_a_state_at_its_bound_refuses_to_grow(monkeypatch):
    """The rows that do not fit are refused where they are written."""
    monkeypatch.setattr(limits, "STATE_BYTES_MAX", 8 * limits.MIB)
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        before = dump(recording.session)
        state = recording.begin().state
        megabytes = limits.STATE_BYTES_MAX // 1_000_000 + 1

        with pytest.raises(StateTooLarge) as caught:
            state.executemany("INSERT INTO t (b) VALUES (?)", [(bytes(1_000_000),)] * megabytes)
        recording.session.rollback()

        assert caught.value.details == {"state_bytes_max": limits.STATE_BYTES_MAX}
        if not recording.session.is_broken:
            assert dump(recording.session) == before


def test_what_is_past_a_bound_is_refused_by_the_mapping_too(monkeypatch):
    """The mapping is rows; their bounds are its own."""
    monkeypatch.setattr(limits, "STATE_BYTES_MAX", 8 * limits.MIB)
    with Recording() as recording:
        state = recording.begin().state

        with pytest.raises(StateMisused, match="A value has at most"):
            state["k"] = "x" * limits.VALUE_BYTES_MAX
        with pytest.raises(StateTooLarge):
            state["k"] = "x" * (limits.STATE_BYTES_MAX + 1)
        recording.session.rollback()


def test_a_migration_runs_once_and_is_a_snapshot():
    """A copy on the old schema could not apply it as a delta."""
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        recording.schema = Schema.declare(SCHEMA, ["ALTER TABLE t ADD COLUMN c DEFAULT 7"])

        migrated, after = recording.turn("UPDATE t SET b = c"), recording.turn(INSERT)

        assert (migrated.kind, migrated.schema) == (PayloadKind.SNAPSHOT, recording.schema.name)
        assert after.kind is PayloadKind.DELTA
        copy = recording.copy()
        assert (copy.schema, dump(copy)) == (recording.schema.name, dump(recording.session))


def test_a_migration_that_is_undone_runs_again():
    """It is part of the turn, so it goes with it."""
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        old = recording.session.schema
        recording.schema = Schema.declare(SCHEMA, ["ALTER TABLE t ADD COLUMN c DEFAULT 7"])
        recording.begin()
        recording.finish()
        recording.session.rollback()

        assert recording.session.schema == old
        assert recording.turn().schema == recording.schema.name


def test_a_migration_that_fails_on_these_rows_leaves_the_copy_as_it_was():
    """The scratch database at declaration has no rows; a session has."""
    with Recording(SCHEMA) as recording:
        recording.turn(f"{INSERT}; {INSERT}")
        before = dump(recording.session)
        recording.schema = Schema.declare(SCHEMA, ["CREATE UNIQUE INDEX u ON t (b)"])

        with pytest.raises(SchemaRefused, match="Migration 1"):
            recording.begin()

        assert dump(recording.session) == before


def test_an_older_build_refuses_a_newer_session():
    """There is no way back: the newer build's rows may mean what the older one does not know."""
    with Recording(SCHEMA, ("CREATE TABLE u (a INTEGER PRIMARY KEY)",)) as recording:
        recording.turn(INSERT)
        recording.schema = Schema.declare(SCHEMA)

        with pytest.raises(SchemaRefused, match="schema number 2; this agent knows 1"):
            recording.begin()


def test_nothing_of_a_turn_depends_on_the_size_of_the_session():
    """Counted in SQLite's own steps, not timed: a turn on 20,000 rows does what it does on 20."""
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        small = steps_of_a_turn(recording)
        recording.turn(lambda s: s.state.executemany("INSERT INTO t (b) VALUES (?)", [("x",)] * 20_000))

        assert steps_of_a_turn(recording) <= small * 1.2


def steps_of_a_turn(recording: Recording) -> int:
    count = 0

    def tick() -> bool:
        nonlocal count
        count += 1
        return False

    connection = recording.session._database.connection
    connection.set_progress_handler(tick, 1)
    session = recording.begin()
    session.state.execute(INSERT)
    session.state["k"] = recording.epoch
    recorded = session.finish(wants_digest=False, wants_snapshot=False)
    session.rollback()
    connection.set_progress_handler(None)
    assert recorded.kind is PayloadKind.DELTA
    return count


# --- chains that are not what they claim -------------------------------------------------------


def opened(recording: Recording, links: list[Link], **changes: object) -> OpenSession:
    arguments = {
        "base": recording.session.name,
        "schema": recording.session.schema,
        "digest": recording.digest,
        **changes,
    }
    session_id = arguments.pop("session_id", KEY.session_id)
    return OpenSession.from_chain(session_id, links, **arguments)  # type: ignore[arg-type]  # by name, as each test says


def test_a_chain_is_refused_for_each_thing_that_is_wrong_with_it():
    """Which check catches what: each fault is named, and nothing is opened."""
    with Recording(SCHEMA) as recording:
        for _ in range(4):
            recording.turn(INSERT)
        first, second, third, fourth = recording.chain
        other = StateName(Version(4), StateId(bytes(16)))
        schema = recording.session.schema

        for error, match, links, changes in (
            (CorruptPayload, "begin with a snapshot", [second, third, fourth], {}),
            (CorruptPayload, "begin with a snapshot", [], {}),
            (CorruptPayload, "state ID", [first, third, fourth], {}),
            (CorruptPayload, "state ID", [first, third, second, fourth], {}),
            (CorruptPayload, "does not end", [first, second, third], {}),
            (CorruptPayload, "does not end", recording.chain, {"base": other}),
            (CorruptPayload, "middle", [first, first, second, third, fourth], {}),
            (CorruptState, "fingerprint", recording.chain, {"schema": SchemaName(1, bytes(32))}),
            (CorruptState, "says it is", recording.chain, {"schema": SchemaName(2, schema.fingerprint)}),
            (CorruptState, "says it is", recording.chain, {"session_id": SessionId("bob")}),
            (CorruptState, "digest", recording.chain, {"digest": bytes(32)}),
            (CorruptState, "says it is", [Link(second.name, first.payload), third, fourth], {}),
        ):
            with pytest.raises(error, match=match):
                opened(recording, list(links), **changes)
        opened(recording, recording.chain).close()


def test_a_delta_does_not_apply_to_another_attempts_version():
    """Two attempts both make a version 2. The number alone could not tell, the mark in the delta can."""
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        recording.begin().state.execute(INSERT)
        recording.finish()
        recording.session.rollback()
        recording.turn(INSERT)
        recording.turn(INSERT)
        first, second, third = recording.chain
        stray = opened(recording, [first, second], base=second.name, digest=None)
        stray._name = StateName(Version(2), second.name.state_id)
        stray._database.run("UPDATE _satchel_turn SET epoch = 2")

        with pytest.raises(ApplyConflict, match="other values in table _satchel_turn"):
            stray.catch_up([third], base=third.name, schema=stray.schema, digest=None)

        assert stray.is_broken
        stray.close()


OTHER_TABLES = {
    "a table that is not there": ("CREATE TABLE u (a INTEGER PRIMARY KEY)", "INSERT INTO u VALUES (1)"),
    "one column more": ("CREATE TABLE t (a INTEGER PRIMARY KEY, b, c)", "INSERT INTO t VALUES (9, 1, 2)"),
    "one column less": ("CREATE TABLE t (a INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (9)"),
    "another key": ("CREATE TABLE t (a, b INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1, 9)"),
    "a second mark": (
        "CREATE TABLE t (a INTEGER PRIMARY KEY)",
        "INSERT INTO _satchel_turn VALUES (2, '', 1, 1, x'', 1)",
    ),
}


@pytest.mark.parametrize("fault", OTHER_TABLES)
def test_a_delta_for_other_tables_is_refused(fault: str):
    """SQLite skips such changes and reports success, so every table is compared before."""
    definition, change = OTHER_TABLES[fault]
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        base = recording.session.name
        raw = forged(definition, change, base)
        name = StateName(Version(2), next_state_id(base.state_id, Version(2), PayloadKind.DELTA, raw))
        link = Link(name, seal(PayloadKind.DELTA, raw))

        with pytest.raises(CorruptPayload, match="in that shape" if "mark" not in fault else "mark"):
            opened(recording, [*recording.chain, link], base=name, digest=None)


def test_no_table_of_a_delta_is_skipped():
    """SQLite passes over a table whose key is numbered in another way, and apsw does not show the numbers."""
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        base = recording.session.name
        recording.turn(INSERT)
        raw = unseal(recording.chain[-1].payload, raw_size_max=limits.STATE_BYTES_MAX)
        header = b"T\x02\x01\x00t\x00"
        assert raw.count(header) == 1
        raw = raw.replace(header, b"T\x02\x02\x00t\x00")
        name = StateName(Version(2), next_state_id(base.state_id, Version(2), PayloadKind.DELTA, raw))
        link = Link(name, seal(PayloadKind.DELTA, raw))

        with pytest.raises(CorruptPayload, match="changes that SQLite skips"):
            opened(recording, [recording.chain[0], link], base=name, digest=None)


def test_changes_that_must_wait_for_each_other_are_each_counted_once():
    """Unique values that change places conflict on the way; SQLite tries such changes again."""
    with Recording("CREATE TABLE u (a INTEGER PRIMARY KEY, b TEXT UNIQUE) STRICT;") as recording:
        recording.turn("INSERT INTO u VALUES (1, 'v1'), (2, 'v2'), (3, 'v3')")
        recording.turn("UPDATE u SET b = 'x' || a; UPDATE u SET b = 'v' || (4 - a)")
        assert recording.chain[-1].payload.kind is PayloadKind.DELTA

        assert recording.copy()._database.run("SELECT b FROM u ORDER BY a") == [("v3",), ("v2",), ("v1",)]


@pytest.mark.parametrize("combined_bytes_max", [0, 700, limits.MIB])
def test_deltas_give_the_same_rows_one_by_one_and_combined(monkeypatch: pytest.MonkeyPatch, combined_bytes_max: int):
    """Rows that come, change and go between two versions are one change, or none, where deltas are combined."""
    monkeypatch.setattr(deltas, "COMBINED_BYTES_MAX", combined_bytes_max)
    applied: list[bytes] = []
    apply = deltas._apply
    monkeypatch.setattr(
        deltas, "_apply", lambda database, raw, version: (applied.append(raw), apply(database, raw, version))
    )
    with Recording("CREATE TABLE u (a INTEGER PRIMARY KEY, b TEXT UNIQUE) STRICT;") as recording:
        recording.turn("INSERT INTO u VALUES (1, 'v1'), (2, 'v2')")
        for work in (
            "INSERT INTO u VALUES (3, 'v3'), (4, 'v4')",
            "DELETE FROM u WHERE a = 3; UPDATE u SET b = 'x' WHERE a = 1",
            "UPDATE u SET b = 'v1' WHERE a = 2",
            "UPDATE u SET b = 'v2' WHERE a = 1; INSERT INTO u VALUES (3, 'v5')",
            "DELETE FROM u WHERE a = 4; INSERT INTO u VALUES (5, 'v4')",
        ):
            assert recording.turn(work).kind is PayloadKind.DELTA

        copy = recording.copy()

        assert dump(copy) == dump(recording.session)
        assert (len(applied) == 5, len(applied) == 1) == (combined_bytes_max == 0, combined_bytes_max == limits.MIB)


def test_a_number_that_was_given_is_not_given_again_on_a_copy():
    """AUTOINCREMENT counts a row that was there for one turn; of combined deltas nothing would be left of it."""
    with Recording("CREATE TABLE n (a INTEGER PRIMARY KEY AUTOINCREMENT, b)") as recording:
        recording.turn("INSERT INTO n (b) VALUES ('x')")
        recording.turn("INSERT INTO n (b) VALUES ('y')")
        recording.turn("DELETE FROM n WHERE b = 'y'")

        assert recording.copy()._database.run("SELECT name, seq FROM sqlite_sequence") == [("n", 2)]


def test_of_combined_deltas_the_one_that_does_not_fit_is_named():
    """An operator who looks for what went wrong needs the version, not the chain."""
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        stale = opened(recording, recording.chain[:1], base=recording.chain[0].name, digest=None)
        recording.turn(INSERT)
        recording.turn("UPDATE t SET b = 'y' WHERE a = 1")
        stale._database.run("UPDATE t SET b = 'other' WHERE a = 1")

        with pytest.raises(
            ApplyConflict, match="The delta of version 3 does not fit: a row has other values in table t"
        ):
            stale.catch_up(recording.chain[1:], base=recording.session.name, schema=stale.schema, digest=None)

        stale.close()


def forged(definition: str, change: str, base: StateName) -> bytes:
    """Return a changeset on tables of another definition, with a right mark at its end."""
    connection = apsw.Connection(":memory:")
    connection.execute(f"{definition}; {tables.STATEMENTS[tables.TURN]}")
    connection.execute("INSERT INTO _satchel_turn VALUES (1, 'alice', 1, 1, ?, 1)", (FIRST.state_id,))
    recorder = apsw.Session(connection, "main")
    recorder.attach()
    connection.execute(change)
    connection.execute(
        "UPDATE _satchel_turn SET version = 2, epoch = 2, base_state_id = ? WHERE id = 1", (base.state_id,)
    )
    raw = recorder.changeset()
    recorder.close()
    connection.close()
    return raw


def test_a_catch_up_that_fails_marks_the_copy_broken():
    """Half a chain is no state that has a name."""
    with Recording(SCHEMA) as recording:
        for _ in range(3):
            recording.turn(INSERT)
        stale = opened(recording, recording.chain[:1], base=recording.chain[0].name, digest=None)

        with pytest.raises(CorruptPayload):
            stale.catch_up(recording.chain[2:], base=recording.session.name, schema=stale.schema, digest=None)

        assert stale.is_broken
        stale.close()


def test_a_damaged_delta_never_passes_for_the_right_one():
    """Even one that comes with a fitting state ID: what SQLite applies without a word, the digest refuses."""
    with Recording(f"{SCHEMA}; CREATE VIRTUAL TABLE f USING fts5(a)") as recording:
        recording.turn(INSERT)
        recording.turn("INSERT INTO t VALUES (7, 'seven'), (8, 8.5); INSERT INTO f VALUES ('words of it')")
        first, second = recording.chain
        raw = unseal(second.payload, raw_size_max=limits.STATE_BYTES_MAX)
        rows = dump(recording.session)
        del rows["_satchel_turn"]
        refused = 0

        for position in range(len(raw)):
            damaged = raw[:position] + bytes([raw[position] ^ 0x41]) + raw[position + 1 :]
            state_id = next_state_id(first.name.state_id, Version(2), PayloadKind.DELTA, damaged)
            link = Link(StateName(Version(2), state_id), seal(PayloadKind.DELTA, damaged))
            try:
                copy = opened(recording, [first, link], base=link.name)
            except (CorruptPayload, CorruptState, ApplyConflict):
                refused += 1
            else:
                found = dump(copy)
                copy.close()
                del found["_satchel_turn"]
                assert found == rows

        # What passes is the epoch, which only the hub knows, and flags that say nothing of a row.
        assert refused > len(raw) * 0.9


# --- the mark at a delta's end -----------------------------------------------------------------


def test_the_hub_reads_a_deltas_mark_without_a_database():
    """What must agree before a commit: version, epoch and base; each alone refuses the delta."""
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        base = recording.session.name
        raw = recording.turn(INSERT).raw
        right = {"session_id": KEY.session_id, "version": Version(2), "epoch": Epoch(2), "base": base}

        check_turn_mark(raw, **right)

        for wrong in (
            {"version": Version(3)},
            {"epoch": Epoch(1)},
            {"base": StateName(base.version, StateId(bytes(16)))},
            {"base": FIRST},
        ):
            with pytest.raises(CorruptPayload, match="marked as"):
                check_turn_mark(raw, **{**right, **wrong})
        for damaged in (b"", raw[:-1], raw + b"\0", b"T\x06" + raw[2:-40], raw.replace(b"_turn", b"_torn")):
            with pytest.raises(CorruptPayload):
                check_turn_mark(damaged, **right)


def test_a_message_that_looks_like_a_mark_is_none():
    """The mark is searched from the end; a user may paste anything before it."""
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        mark = recording.turn(INSERT).raw[-120:]
        base = recording.session.name

        raw = recording.turn(lambda session: session.state.execute("INSERT INTO t (b) VALUES (?)", (mark,))).raw

        check_turn_mark(raw, session_id=KEY.session_id, version=Version(3), epoch=Epoch(3), base=base)


def test_a_recorder_that_died_is_noticed_by_the_missing_mark():
    """Without it, a delta that lacks the turn's last rows would look like any other."""
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        session = recording.begin()
        session.state.execute(INSERT)
        assert session._turn is not None
        assert session._turn.recorder is not None
        session._turn.recorder.enabled = False

        recorded = recording.finish()

        assert recorded.kind is PayloadKind.SNAPSHOT
        assert "did not see the end" in recorded.reasons[0]
        recording.session.rollback()


def test_a_turn_without_a_statement_needs_no_recorder_and_arrives_all_the_same():
    """What Satchel itself writes, it knows: an item that was said, a value set, changed and gone, the mark."""
    with Recording(SCHEMA) as recording:
        recording.turn(lambda session: session.state.update(stays=1, changes=["a"], goes=3))
        session = recording.begin()
        session.state["comes"] = {"b": None}
        session.state["changes"].append("b")
        del session.state["goes"]
        session.history.append(Message(id="i", content=(Content("c"),), created_at="t"))
        recorded = recording.finish()
        recording.commit(recorded)

        assert (recorded.kind, recorded.changed_rows) == (PayloadKind.DELTA, {})
        assert [(change.name, change.op) for change in apsw.Changeset.iter(recorded.raw)] == [
            (tables.HISTORY, "INSERT"),
            (tables.VALUES, "INSERT"),
            (tables.VALUES, "DELETE"),
            (tables.VALUES, "UPDATE"),
            (tables.TURN, "UPDATE"),
        ]
        assert dump(recording.copy()) == dump(session)


def test_what_is_as_it_was_is_not_in_the_delta():
    """A value set to what it is, or set and taken back, changes nothing: as SQLite's recorder has it."""
    with Recording(SCHEMA) as recording:
        recording.turn(lambda session: session.state.update(a=1, b=[2], c=3))
        session = recording.begin()
        session.state.update(a=1, new=5)
        session.state["b"].append(0)
        session.state["b"].pop()
        del session.state["new"], session.state["c"]
        session.state["c"] = 3

        recorded = recording.finish()

        assert [change.name for change in apsw.Changeset.iter(recorded.raw)] == [tables.TURN]
        recording.session.rollback()


@pytest.mark.parametrize("prefix", ["", ";", " /* no */ ", "-- no\n", "\ufeff", ";\ufeff\n"])
@pytest.mark.parametrize("has_read", [True, False])
def test_what_a_savepoint_took_back_is_not_in_the_delta(prefix: str, has_read: bool):  # noqa: FBT001  # a parameter
    """However the handler writes it: the values of before it travel, the items that were said do, too."""
    with Recording(SCHEMA) as recording:
        recording.turn(lambda session: session.state.update(a=1, b=[1], c=1))
        session = recording.begin()
        session.state["a"] = 2
        session.state["b"].append(2)
        session.history.append(Message(id="i", content=(Content("said"),), created_at="t"))
        session.state.execute("SAVEPOINT s")
        session.state["a"] = 3
        session.state["b"].append(3)
        session.state["new"] = 4
        del session.state["c"]
        session.history.append(Message(id="j", content=(Content("said, too"),), created_at="t"))
        session.state.execute(f"{prefix}ROLLBACK TO s")
        if has_read:
            assert dict(session.state) == {"a": 2, "b": [1, 2], "c": 1}
        session.history.append(Message(id="k", content=(Content("at last"),), created_at="t"))
        recorded = recording.finish()
        recording.commit(recorded)
        copy = recording.copy()

        assert recorded.kind is PayloadKind.DELTA, recorded.reasons
        assert dump(copy) == dump(session)
        with contextlib.closing(copy):
            copy.begin(version=Version(3), epoch=Epoch(9), message_id=MessageId("m"), schema=recording.schema)
            assert dict(copy.state) == {"a": 2, "b": [1, 2], "c": 1}
            assert [item.id for item in copy.history] == ["i", "j", "k"]


def test_a_history_that_is_not_what_was_appended_travels_whole():
    """Its rows are written without a recorder: should they ever be taken back unseen, the snapshot is right."""
    with Recording(SCHEMA) as recording:
        recording.turn(INSERT)
        session = recording.begin()
        session.state.execute("SAVEPOINT s")
        session.history.append(Message(id="i", content=(Content("said"),), created_at="t"))
        session._database.after_rollback = lambda: None
        session.state.execute("ROLLBACK TO s")

        recorded = recording.finish()

        assert recorded.kind is PayloadKind.SNAPSHOT
        assert recorded.reasons == ("the history is not what was appended",)
        recording.session.rollback()


def test_the_mark_names_what_the_turn_before_it_left():
    """Also where that was another worker's, or was undone: the old values are what a copy compares."""
    with Recording(SCHEMA) as recording:
        recording.turn(lambda session: session.state.update(a=1))
        first = recording.copy()
        recording.turn(lambda session: session.state.update(a=2))
        recording.begin()
        recording.finish()
        recording.session.rollback()
        first.catch_up(recording.links()[1:], base=recording.session.name, schema=recording.session.schema, digest=None)
        recording.session, held = first, recording.session
        held.close()
        second = recording.copy()

        recorded = recording.turn(lambda session: session.state.update(a=3))

        assert recorded.kind is PayloadKind.DELTA
        second.catch_up(  # alone: what is combined with others is not compared one by one
            recording.links()[2:], base=recording.session.name, schema=recording.session.schema, digest=None
        )
        assert dump(second) == dump(recording.session)


def test_begin_needs_the_next_version():
    """A worker that asks for another has lost track: that is our bug."""
    with Recording(SCHEMA) as recording, pytest.raises(AssertionError):
        recording.session.begin(version=Version(2), epoch=Epoch(1), message_id=MessageId("m"), schema=recording.schema)
