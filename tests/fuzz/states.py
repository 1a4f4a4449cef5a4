"""Envelopes, changesets and images that claim to be a session's, against the one session they could be of."""

import contextlib
import tracemalloc
from collections.abc import Iterator, Sequence

import apsw
import hypothesis.strategies as st

from satchel.errors import CorruptPayload, SatchelError, StateError
from satchel.limits import STATE_BYTES_MAX
from satchel.model import (
    Encoding,
    Epoch,
    Link,
    MessageId,
    Payload,
    PayloadKind,
    StateName,
    Version,
    next_state_id,
)
from satchel.state.delta import check_turn_mark
from satchel.state.digest import digest
from satchel.state.payload import checksum, seal, unseal
from satchel.state.session import OpenSession
from tests.unit.state.sessions import KEY, Recording

# --- envelopes -----------------------------------------------------------------------------------

RAW_BYTES_MAX = 1024 * 1024
"""What this target's caller takes; small, so that one byte past it is cheap to make."""
OWN_BYTES = 256 * 1024
"""What opening an envelope may need beside the result."""
BOMB = 8 * RAW_BYTES_MAX


def check_payload(data: bytes) -> bool:
    """An envelope gives the bytes it names or is refused; it asks for no more memory than it names.

    The bytes are kind and encoding, the size it names (4), whether the checksum is right, and the body.
    """
    if len(data) < 6:
        return False
    size, body = int.from_bytes(data[1:5], "big"), data[6:]
    payload = Payload(
        kind=list(PayloadKind)[data[0] % 2],
        encoding=Encoding(data[0] // 2 % 2),
        raw_size=size,
        checksum=checksum(body) if data[5] else body[:16],
        data=body,
    )
    tracemalloc.start()
    try:
        raw = unseal(payload, raw_size_max=RAW_BYTES_MAX)
    except CorruptPayload:
        return False
    else:
        assert len(raw) == size <= RAW_BYTES_MAX, "another size than it names, or one past the bound"
        assert checksum(body) == payload.checksum, "a wrong checksum was taken"
        return True
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= min(size, RAW_BYTES_MAX) + OWN_BYTES, f"{peak} bytes for an envelope of {size}"


def envelope(kind: PayloadKind, raw: bytes, *, size: int | None = None, is_right: bool = True) -> bytes:
    """Return *raw* as the target takes it: under its own size and checksum, or under others."""
    sealed = seal(kind, raw)
    first = 2 * sealed.encoding.value + list(PayloadKind).index(kind)
    return bytes([first]) + (len(raw) if size is None else size).to_bytes(4, "big") + bytes([is_right]) + sealed.data


def payload_corpus() -> list[bytes]:
    """Small ones, two at the bound and past it, and bombs that say so, that lie, and that lie a little."""
    delta, snapshot = PayloadKind.DELTA, PayloadKind.SNAPSHOT
    return [
        envelope(delta, b""),
        envelope(snapshot, b"x" * 10_000),
        envelope(delta, bytes(range(256)) * 4),
        envelope(snapshot, b"\0" * RAW_BYTES_MAX),
        envelope(snapshot, b"\0" * (RAW_BYTES_MAX + 1)),
        envelope(snapshot, b"\0" * BOMB),
        envelope(snapshot, b"\0" * BOMB, size=100),
        envelope(snapshot, b"\0" * BOMB, size=BOMB - 1),
        envelope(delta, b"y" * 300, is_right=False),
    ]


def near_payloads() -> st.SearchStrategy[bytes]:
    """A few bytes or many alike, under a size that is theirs, nearly theirs, or another."""
    raw = st.binary(max_size=60) | st.sampled_from([b"", b"\0" * 5000, b"\0" * RAW_BYTES_MAX, b"\0" * BOMB])
    return st.tuples(
        st.sampled_from(PayloadKind), raw, st.sampled_from([0, 0, 0, -1, 1, 100, -5000]), st.booleans()
    ).map(
        lambda made: envelope(made[0], made[1], size=max(0, len(made[1]) + made[2]), is_right=made[3] or made[2] == 0)
    )


# --- states --------------------------------------------------------------------------------------

SCHEMA = """
CREATE TABLE note (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL) STRICT;
CREATE TABLE part (name TEXT PRIMARY KEY NOT NULL, size REAL, data BLOB, UNIQUE (size)) WITHOUT ROWID;
CREATE VIRTUAL TABLE search USING fts5 (text);
CREATE TRIGGER noted AFTER INSERT ON note BEGIN INSERT INTO search (text) VALUES (new.text); END;
"""
TURN = (
    "INSERT INTO note (text) VALUES ('third')",
    "UPDATE note SET text = 'other' WHERE id = 1",
    "DELETE FROM note WHERE id = 2",
    "INSERT INTO part VALUES ('a', 1.5, x'00ff'), ('b', NULL, NULL)",
)
READ_TURN = "SELECT session_id, version, epoch, base_state_id, schema_number FROM _satchel_turn"
READ_SCHEMA = """
SELECT name, lower(tbl_name), sql FROM sqlite_schema
WHERE tbl_name NOT LIKE 'search\\_%' ESCAPE '\\' AND tbl_name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
"""
"""What an agent declared, and Satchel: not what SQLite makes for itself, nor what no reader tells apart."""
EPOCH = Epoch(2)


class States:
    """A session of two versions, whose delta and image are what the bytes claim to be."""

    def __init__(self) -> None:
        with Recording(SCHEMA) as recording:
            recording.turn("INSERT INTO note (text) VALUES ('first'), ('second')")
            self.snapshot = recording.links()[0]
            self.image = recording.session._database.image()
            recording.turn(lambda session: [session.state.execute(each) for each in TURN])
            self.delta = unseal(recording.chain[-1].payload, raw_size_max=STATE_BYTES_MAX)
            self.schema, self.declared = recording.session.schema, recording.schema
        self.base = self.snapshot.name
        self.next = Version(self.base.version + 1)
        with _plain(self.image) as plain:
            self._schema_rows = set(plain.execute(READ_SCHEMA))

    # --- a changeset -------------------------------------------------------------------------

    def check_changeset(self, data: bytes) -> bool:
        """A changeset under its own right name is applied as SQLite itself applies it, or refused.

        What is applied leaves the mark of its own turn. A warm copy and a cold start agree.
        The hub's look at the end takes any bytes.
        """
        self._check_mark(data)
        kind = PayloadKind.DELTA
        link = Link(StateName(self.next, next_state_id(self.base.state_id, self.next, kind, data)), seal(kind, data))
        warm = self._digest_caught_up(link)
        with self._opened([self.snapshot, link]) as session:
            if session is None:
                assert warm is None, "a warm copy took what a cold start refused"
                return False
            assert session._database.run(READ_TURN)[0][1:4:2] == (self.next, self.base.state_id)
            assert digest(session._database) == warm == self._digest_after(data), "other rows than SQLite gives"
        return True

    def _check_mark(self, data: bytes) -> None:
        with contextlib.suppress(CorruptPayload):
            check_turn_mark(data, session_id=KEY.session_id, version=self.next, epoch=EPOCH, base=self.base)

    def _digest_caught_up(self, link: Link) -> bytes | None:
        """Return what a copy of the base is when it has caught up; None if it refused to."""
        with self._opened([self.snapshot]) as session:
            assert session is not None, "the base is sound"
            try:
                session.catch_up([link], base=link.name, schema=self.schema, digest=None)
            except StateError:
                assert session.is_broken, "a copy that could not catch up says so"
                return None
            return digest(session._database)

    def _digest_after(self, data: bytes) -> bytes:
        """Return what the base is when SQLite applies *data* to it, each change or none."""
        with self._opened([self.snapshot]) as session:
            assert session is not None, "the base is sound"
            session._database.set_quiet(quiet=True)
            with session._database.shadow_tables_writable():
                apsw.Changeset.apply(data, session._database.connection, conflict=_never)
            return digest(session._database)

    # --- an image ----------------------------------------------------------------------------

    def check_image(self, data: bytes) -> bool:
        """An image that is opened is sound, of this session, version and schema, and can be worked on."""
        with self._opened([Link(self.base, seal(PayloadKind.SNAPSHOT, data))]) as session:
            if session is None:
                return False
            database = session._database
            assert database.run("PRAGMA main.quick_check(1)") == [("ok",)], "a damaged image was opened"
            assert [(row[0], row[1], row[4]) for row in database.run(READ_TURN)] == [
                (KEY.session_id, self.base.version, self.schema.number)
            ]
            assert set(database.run(READ_SCHEMA)) == self._schema_rows, "another schema was taken for this one"
            # Rows may hold anything; working on them may fail, as a handler fails, and not crash.
            with contextlib.suppress(apsw.Error, SatchelError, UnicodeDecodeError):
                digest(database)
                self._work(session)
        return True

    def _work(self, session: OpenSession) -> None:
        session.begin(version=self.next, epoch=EPOCH, message_id=MessageId("m2"), schema=self.declared)
        try:
            for statement in (*TURN, "SELECT * FROM search WHERE search MATCH 'first'"):
                session.state.execute(statement)
            session.finish(wants_digest=False, wants_snapshot=False)
        finally:
            session.rollback()

    # --- both --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self, links: Sequence[Link]):
        """Yield the session that *links* give, or None if they are refused; nothing of it is left open."""
        open_before = len(apsw.connections())
        try:
            session = OpenSession.from_chain(
                KEY.session_id, links, base=links[-1].name, schema=self.schema, digest=None
            )
        except StateError:
            yield None
        else:
            with contextlib.closing(session):
                yield session
        assert len(apsw.connections()) == open_before, "a connection was left open"

    # --- near-valid ones ---------------------------------------------------------------------

    def changesets(self) -> list[bytes]:
        """The delta; each change to the base and to what is nearly the base; each wrong mark; each wrong header."""
        right, *wrong = self._marks()
        made = [
            self._recorded(before, [change], right)
            for change in CHANGES
            for before in ([], *([each] for each in BEFORE))
        ]
        made += [self._recorded(before, list(TURN), mark) for mark in wrong for before in ([], [LOOSE])]
        return list(dict.fromkeys([self.delta, *made, *_other_headers(self.delta)]))

    def near_changesets(self) -> st.SearchStrategy[bytes]:
        """What SQLite records of changes to a database that is nearly the base, marked nearly right."""
        right, *wrong = self._marks()
        return st.builds(
            self._recorded,
            st.lists(st.sampled_from(BEFORE), max_size=2),
            st.lists(st.sampled_from(CHANGES), max_size=4),
            st.sampled_from([right] * 6 + wrong),
        )

    def _marks(self) -> list[str]:
        """The right mark, and wrong ones."""
        right = (
            f"UPDATE _satchel_turn SET version = {self.next}, epoch = 2, base_state_id = x'{self.base.state_id.hex()}'"
        )
        wrong = (
            "SELECT 1",
            right.replace("version = 2", "version = 3"),
            right.replace("version = 2", "version = 'two'"),
            right.replace("epoch = 2", "epoch = 3"),
            right.replace("epoch = 2", "epoch = 2.5"),
            right.replace("base_state_id = x'", "base_state_id = x'00"),
            right + ", session_id = 'bob'",
            right + ", id = 7",
            right + "; INSERT INTO note (id, text) VALUES (70, 'after the mark')",
            right
            + "; INSERT INTO _satchel_turn SELECT 2, session_id, version, epoch, base_state_id, 1 FROM _satchel_turn",
            "DELETE FROM _satchel_turn",
        )
        return [right, *wrong]

    def _recorded(self, before: list[str], changes: list[str], mark: str) -> bytes:
        with _plain(self.image) as plain:
            with contextlib.suppress(apsw.Error):
                for statement in before:
                    plain.execute(statement)
            session = apsw.Session(plain, "main")
            session.attach()
            for statement in (*changes, mark):
                with contextlib.suppress(apsw.Error):  # it did not fit what came before
                    plain.execute(statement)
            try:
                return session.changeset()
            except apsw.Error:
                return b""  # the table changed under the recorder
            finally:
                session.close()

    def images(self) -> list[bytes]:
        """The image, and what each statement leaves of it."""
        return [self.image, *(self._worked([each]) for each in (*BEFORE, *CHANGES, *PLANTED))]

    def near_images(self) -> st.SearchStrategy[bytes]:
        """The image after somebody worked on it by SQL, and its bytes after that, in place."""
        worked = st.lists(st.sampled_from((*BEFORE, *CHANGES, *PLANTED)), max_size=3).map(self._worked)
        return st.builds(
            _overwritten, worked, st.lists(st.tuples(_places, st.binary(min_size=1, max_size=4)), max_size=3)
        )

    def _worked(self, statements: list[str]) -> bytes:
        with _plain(self.image) as plain:
            for statement in statements:
                with contextlib.suppress(apsw.Error):
                    plain.execute(statement)
            return plain.serialize("main")


LOOSE = (
    "CREATE TABLE t AS SELECT * FROM _satchel_turn; DROP TABLE _satchel_turn;"
    " CREATE TABLE _satchel_turn (id INTEGER PRIMARY KEY, session_id, version, epoch, base_state_id, schema_number);"
    " INSERT INTO _satchel_turn SELECT * FROM t; DROP TABLE t"
)
"""A mark of other types can only be recorded where its table is not strict."""
TABLES = (b"note", b"part", b"search_content", b"search_data", b"search_docsize", b"search_idx", b"_satchel_turn")
BEFORE = (
    "DROP TABLE part",
    "DELETE FROM note",
    "UPDATE note SET text = 'drifted'",
    "INSERT INTO note (text) VALUES ('in the way')",
    "INSERT INTO part VALUES ('a', 9.5, NULL)",
    "ALTER TABLE note ADD COLUMN more TEXT",
    "DROP TABLE part; CREATE TABLE part (size REAL, name TEXT PRIMARY KEY, data BLOB)",
    "CREATE TABLE other (id INTEGER PRIMARY KEY, x)",
    LOOSE,
)
CHANGES = (
    *TURN,
    "UPDATE note SET id = id + 100",
    "UPDATE part SET size = 2.5",
    "INSERT INTO note (id, text) VALUES (9223372036854775807, 'the last')",
    "INSERT INTO part VALUES ('c', 1.5, zeroblob(9000))",
    "INSERT INTO other VALUES (1, 'x')",
    "DELETE FROM search_content",
    "UPDATE search_data SET block = x'ff00ff'",
    "UPDATE sqlite_sequence SET seq = -1",
    "INSERT INTO _satchel_values VALUES ('cart', 'not JSON')",
    "UPDATE note SET text = CAST(x'ff95' AS TEXT)",
)
PLANTED = (
    "CREATE TRIGGER g AFTER INSERT ON note BEGIN DELETE FROM part; END",
    "CREATE TRIGGER g AFTER UPDATE ON _satchel_turn BEGIN DELETE FROM note; END",
    "CREATE TRIGGER g AFTER INSERT ON search_content BEGIN DELETE FROM part; END",
    "CREATE VIEW note_view AS SELECT load_extension('x')",
    "CREATE INDEX k ON note (length(text))",
    "CREATE TABLE _satchel_more (id INTEGER PRIMARY KEY)",
    "UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '') WHERE name = 'note'",
    "UPDATE sqlite_schema SET rootpage = 1 WHERE name = 'note'",
    "UPDATE sqlite_schema SET tbl_name = 'search_data' WHERE name = 'noted'",
    "UPDATE sqlite_schema SET sql = CAST(CAST(sql AS BLOB) || x'2f2a952a2f' AS TEXT) WHERE name = 'part'",
    "UPDATE sqlite_schema SET name = 'SEARCH' WHERE name = 'search'",
    "UPDATE sqlite_schema SET name = 'NOTE' WHERE name = 'note'",
    *(
        f"UPDATE sqlite_schema SET {column} = CAST({column} AS BLOB) WHERE name = '{name}'"
        for column in ("type", "name", "tbl_name", "sql")
        for name in ("note", "search", "search_data", "sqlite_sequence", "_satchel_turn")
    ),
    "UPDATE _satchel_turn SET session_id = 'bob'",
    "UPDATE _satchel_turn SET version = 7",
    "UPDATE _satchel_turn SET schema_number = 9",
    "UPDATE _satchel_turn SET session_id = CAST(x'95' AS TEXT)",
    "DELETE FROM _satchel_turn",
    "PRAGMA user_version = 77",
    "PRAGMA journal_mode = WAL",
)
_places = st.integers(0, 120) | st.integers(0, 53_247) | st.integers(0, 12).map(lambda page: 4096 * page + page % 9)


@contextlib.contextmanager
def _plain(image: bytes):
    """Yield the database of *image* on a connection without any of our fences."""
    connection = apsw.Connection(":memory:")
    connection.deserialize("main", image)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    connection.config(apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1)
    try:
        yield connection
    finally:
        connection.close(True)


def _other_headers(delta: bytes) -> Iterator[bytes]:
    """Yield *delta* with one byte of one table's header changed: how many columns it has, which are its key."""
    for name in TABLES:
        end = delta.find(b"\0" + name + b"\0") + 1 or delta.find(b"\1" + name + b"\0") + 1
        start = delta.rfind(b"T", 0, end)
        for place in range(start + 1, end):
            for value in (0, 1, 2, 3, 7, 255):
                yield _overwritten(delta, [(place, bytes([value]))])


def _overwritten(image: bytes, edits: list[tuple[int, bytes]]) -> bytes:
    for place, put in edits:
        image = image[:place] + put + image[place + len(put) :]
    return image


def _never(reason: int, change: object) -> int:  # noqa: ARG001  # what apsw calls
    return apsw.SQLITE_CHANGESET_ABORT
