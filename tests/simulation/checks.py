"""What was seen from outside, and the invariants it must keep, by name."""

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec

from satchel.errors import CorruptPayload
from satchel.hub.settings import HubSettings
from satchel.limits import ATTEMPTS_MAX, COMPACT_WEIGHT
from satchel.model import SEQ_PER_START
from satchel.protocol.messages import AttemptName
from satchel.store.answers import answer_and_lines
from tests.simulation.agent import Rows
from tests.simulation.trace import Trace

_FRAME = (
    "e.answer_bytes, e.data, v.encoding, v.raw_size, v.checksum, v.data AS delta FROM turn AS t "
    "LEFT JOIN events AS e USING (tenant, session_id, place) "
    "LEFT JOIN version AS v ON v.session_id = e.session_id AND v.version = e.delta_version"
)
"""A turn's answer and events with what they lean on, and where they are."""

FINAL = {"committed", "failed", "cancelled"}

MAY_END_IN = {"TEXT_HANDLER_ERROR": {"raise", "flaky"}, "TURN_REFUSED": {"refuse"}, "STATE_TOO_LARGE": set[str]()}
"""The kinds of messages whose handlers end so."""


class Violated(AssertionError):
    """An invariant does not hold."""

    def __init__(self, name: str, *facts: object) -> None:
        self.name = name
        super().__init__(f"{name}: {', '.join(map(repr, facts))}")


class Reading:
    """One reader's way through a message's events, over as many connections as it takes."""

    def __init__(self, message: "Message") -> None:
        self.message = message
        self.cursor = -1
        self.texts: list[str] = []
        self.pieces: list[str] = []
        self.complete: dict[str, Any] | None = None

    def take(self, event: dict[str, Any]) -> None:
        """Follow one event. ONE-STREAM: rising without a gap, in whole pieces, a restart before a new start, an end."""
        seq, kind = event["seq"], event["type"]
        before, self.cursor = self.cursor, seq
        if self.complete is not None:
            raise Violated("ONE-STREAM", "an event after the end", event, self.complete)
        if seq <= before:
            raise Violated("ONE-STREAM", "the cursor does not rise", before, event)
        if (before < 0) != (kind == "accepted") or (kind == "accepted" and seq != SEQ_PER_START):
            raise Violated("ONE-STREAM", "a stream begins with accepted", before, event)
        (start, index), (start_before, index_before) = divmod(seq, SEQ_PER_START), divmod(before, SEQ_PER_START)
        is_failure = kind == "complete" and event["complete"].get("error") is not None
        follows = (start, index) == (start_before, index_before + 1) or (kind == "restarted" and index == 0)
        if not (follows or kind == "accepted" or is_failure):
            raise Violated("ONE-STREAM", "a gap", before, event)
        if kind == "restarted":
            self.message.history.counts[f"restarted: {event['restarted']['reason']}"] += 1
            self.texts.clear()
            self.pieces.clear()
        if kind == "text_delta":
            self.pieces.append(event["text_delta"]["text"])
        if kind == "message":
            text = event["message"]["content"][0]["text"]
            if self.pieces and "".join(self.pieces) != text:
                raise Violated("ONE-STREAM", "a message is not what its pieces say", self.pieces, event)
            self.pieces.clear()
            self.texts.append(text)
        if kind == "complete":
            self.complete = event["complete"]
            self.message.told_complete(self)


class Message:
    """One message of one session, as its client knows it."""

    def __init__(self, history: "History", session: str, message_id: str, text: str) -> None:
        self.history = history
        self.session = session
        self.message_id = message_id
        self.text = text
        self.is_accepted = False
        self.sends = 0
        self.posts = 0
        """Requests that carried it; each may send it again if it had failed."""
        self.is_sent_unseen = False
        """It was sent by somebody who did not wait for the end: what its client was told last need not be the last."""
        self.answers: set[tuple[int, str | None]] = set()
        self.last_told: tuple[str, Any] | None = None

    @property
    def path(self) -> str:
        return f"/v1/sessions/{self.session}/messages/{self.message_id}"

    def row(self) -> dict[str, Any] | None:
        """Return what is durable of it now."""
        return self.history.row(self)

    def told_complete(self, reading: Reading) -> None:
        complete = reading.complete or {}
        self.history.counts[f"start: {complete['turn'].get('start')}"] += 1
        if "session_state" in complete:
            self.told_committed(complete["session_state"]["version"], "\n".join(reading.texts))
        else:
            self.told_error(complete["error"])

    def told_committed(self, version: int, answer: str | None) -> None:
        """DURABLE-FIRST, ONCE and FINAL-AGREES, at the moment the caller is told."""
        self.history.trace.add(self.message_id, f"is told v{version}")
        row = self.row()
        if row is None or (row["status"], row["version"]) != ("committed", version):
            raise Violated("DURABLE-FIRST", self.message_id, version, row)
        self.answers.add((version, answer))
        if len(self.answers) > 1:
            raise Violated("ONCE", self.message_id, self.answers)
        if answer != row["answer"] and not (row["answer"] is None and self.session in self.history.rotten):
            raise Violated("FINAL-AGREES", self.message_id, answer, row["answer"])
        self.last_told = ("committed", version)
        self.history.counts["committed"] += 1

    def told_error(self, error: dict[str, Any]) -> None:
        """A definite end is durable, and no fault of ours."""
        code = error["code"]
        self.history.trace.add(self.message_id, f"is told {code}")
        self.history.counts[code] += 1
        row = self.row()
        status = "cancelled" if code == "CANCELLED" else "failed"
        if code == "INTERNAL_ERROR" and self.session not in self.history.rotten:
            raise Violated("no fault of ours", self.message_id, error, row)
        allowed = MAY_END_IN.get(code)
        if allowed is not None and self.text.split()[0] not in allowed:
            raise Violated("no fault of ours", "its handler does no such thing", self.message_id, error)
        if row is None or row["status"] not in {status, "queued", "running"} | (FINAL if self.sends > 1 else set()):
            raise Violated("DURABLE-FIRST", self.message_id, error, row)
        if code == "TURN_TIMEOUT":
            self.history.check_timeout(self, row)
        if self.sends == 1 and row["status"] != status:
            raise Violated("DURABLE-FIRST", self.message_id, error, row)
        self.last_told = (status, code)


class Run(msgspec.Struct):
    """A handler that started: what it found."""

    session: str
    message_id: str
    text: str
    version: int
    attempt: int
    schema_number: int
    keys: tuple[str, str]
    found: Rows
    worker: str
    at_ms: int


class Committed(msgspec.Struct, frozen=True):
    """A version as the store has it, and as it was first seen."""

    version: int
    state_id: bytes
    message_id: str
    schema_number: int
    attempt: int
    """Which attempt since it was last sent: what it did shows in the rows."""


class Unfinished(msgspec.Struct, frozen=True):
    """A queued or running turn as the store has it."""

    message_id: str
    place: int
    status: str
    epoch: int | None
    attempts: int


class History:
    """Everything that was seen."""

    def __init__(self, log_path: Path, trace: Trace, settings: HubSettings, *, now_ms: Callable[[], int]) -> None:
        self.trace = trace
        self._log_path = log_path
        self._settings = settings
        self._now_ms = now_ms
        self._disk: apsw.Connection | None = None
        self._epochs: dict[str, int] = {}
        self._unfinished: dict[str, list[Unfinished]] = {}
        """What each session had to do after the last write, in order."""
        self.versions: dict[str, list[Committed]] = defaultdict(list)
        """Every version of every session, as its commit was seen."""
        self.rotten: set[str] = set()
        """Sessions whose stored bytes were damaged: their turns may fail, and must not see anything wrong."""
        self.sound_since_ms: int | None = None
        """From when on nothing but what messages ask for is wrong any more; None: not yet."""
        self.died_at_ms: dict[str, int] = {}
        self.blocked_at_ms = 0
        """When a handler last blocked its loop."""
        self._due: dict[tuple[str, int], list[int]] = defaultdict(list)
        """When turns were committed on a session's snapshot since its deltas outgrew it."""
        self.messages: list[Message] = []
        self.runs: list[Run] = []
        self.counts: Counter[str] = Counter()

    def message(self, session: str, message_id: str, text: str) -> Message:
        message = Message(self, session, message_id, text)
        self.messages.append(message)
        return message

    # --- what is durable -----------------------------------------------------------------------

    def query(self, sql: str, *bindings: Any) -> list[dict[str, Any]]:
        """Read what is durable, past the hub."""
        if self._disk is None:
            self._disk = apsw.Connection(str(self._log_path), flags=apsw.SQLITE_OPEN_READONLY)
        cursor = self._disk.cursor()
        cursor.row_trace = lambda cursor, row: dict(zip((name for name, *_ in cursor.description), row, strict=True))
        return list(cursor.execute(sql, bindings))

    def forget_connection(self) -> None:
        """The disk closed it, with all the others."""
        self._disk = None

    def close(self) -> None:
        if self._disk is not None:
            with contextlib.suppress(apsw.Error):  # what is left of the file may be nothing to close
                self._disk.close(force=True)
            self._disk = None

    def row(self, message: Message) -> dict[str, Any] | None:
        rows = self.query(
            f"SELECT t.*, {_FRAME} WHERE t.session_id = ? AND t.message_id = ?",
            message.session,
            message.message_id,
        )
        return self._with_answer(rows[0]) if rows else None

    def _with_answer(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a turn's row with its answer and lines, as the store reads them; None if there are none."""
        frame = [row.pop(name) for name in ("answer_bytes", "data", "encoding", "raw_size", "checksum", "delta")]
        answer, lines = None, None
        try:
            if frame[1] is not None:
                answer, lines = answer_and_lines(*frame)
        except CorruptPayload as error:
            if row["session_id"] not in self.rotten:
                raise Violated("L9", "what was said cannot be read", row) from error
        return {**row, "answer": answer, "lines": lines}

    def sessions_with_work(self) -> set[str]:
        """Return the sessions that have an unfinished turn."""
        rows = self.query("SELECT DISTINCT session_id FROM turn WHERE status IN ('queued', 'running')")
        return {row["session_id"] for row in rows}

    def is_committed(self, name: AttemptName) -> bool:
        rows = self.query(
            "SELECT status FROM turn WHERE session_id = ? AND message_id = ?", name.session_id, name.message_id
        )
        return [row["status"] for row in rows] == ["committed"]

    def is_started_after(self, name: AttemptName) -> bool:
        """Tell whether a later attempt of the same message runs."""
        first = next(iter(self._unfinished.get(name.session_id, [])), None)
        return first is not None and first.message_id == name.message_id and (first.epoch or 0) > name.epoch

    def check_adopted(self, name: AttemptName) -> None:
        """FENCED: the attempt that a hub goes on with is the one of the highest epoch."""
        [row] = self.query(
            "SELECT status, epoch FROM turn WHERE session_id = ? AND message_id = ?", name.session_id, name.message_id
        )
        if row["status"] == "running" and row["epoch"] != name.epoch:
            raise Violated("FENCED", "an attempt was adopted that is not current", name, row)

    def check_timeout(self, message: Message, row: dict[str, Any]) -> None:
        """L2: when all is sound, a turn does not run out of time because its worker is dead."""
        if self.sound_since_ms is None or row["accepted_at_ms"] < self.sound_since_ms or row["status"] != "failed":
            return
        began_ms = row["finished_at_ms"] - 60_000  # an attempt that is adopted has its time once more
        ran = [run for run in self.runs if run.message_id == message.message_id and run.at_ms > began_ms]
        if not ran and self.blocked_at_ms < began_ms:
            raise Violated("L2", "a request was sent to where no handler runs", message.message_id, row)
        if ran and self.died_at_ms.get(ran[-1].worker, row["finished_at_ms"]) < row["finished_at_ms"] - 2_000:
            raise Violated("L2", "the worker is dead, and the turn waited for it", message.message_id, ran[-1])

    # --- after every write ---------------------------------------------------------------------

    def wrote(self, *, calls: int) -> bool:
        """Look at what one transaction of some calls made of each session; tell whether it committed a turn.

        GAPLESS, FENCED, ONCE, ORDER, N-1, BOUNDED, POISON, L8.
        """
        count = sum(map(len, self.versions.values()))
        unfinished = self._now_unfinished()
        for session in self.query(
            "SELECT session_id, head, state_id, epoch, chain_deltas, chain_bytes, snapshot_bytes, snapshot_version, "
            "(SELECT min(version) FROM snapshot AS n WHERE n.tenant = s.tenant AND n.session_id = s.session_id) "
            "AS oldest_base FROM session AS s"
        ):
            name = session["session_id"]
            epoch_before = self._epochs.get(name, 0)
            self._epochs[name] = session["epoch"]
            if session["epoch"] < epoch_before:
                raise Violated("FENCED", "the epoch fell", epoch_before, session)
            self._look_at_order(name, unfinished.get(name, []), epoch_before)
            if calls == 1:
                self._look_at_ends(session, unfinished.get(name, []))
            if session["head"] > 1 and (session["oldest_base"] or session["head"]) >= session["head"]:
                raise Violated("N-1", "nothing that the version before the head stands on is kept", session)
            seen = self.versions[name]
            if session["head"] == len(seen):
                if seen and seen[-1].state_id != session["state_id"]:
                    raise Violated("GAPLESS", "a version was made twice", session, seen[-1])
                continue
            if session["head"] != len(seen) + 1:
                raise Violated("GAPLESS", "the head did not rise by one", len(seen), session)
            self._committed(session, epoch_before, unfinished.get(name, []))
            self._look_at_chain(session)
        self._unfinished = unfinished
        return sum(map(len, self.versions.values())) > count

    def _now_unfinished(self) -> dict[str, list[Unfinished]]:
        """Return what each session has to do, in order."""
        now: dict[str, list[Unfinished]] = defaultdict(list)
        for row in self.query(
            "SELECT session_id, message_id, place, status, epoch, starts - starts_before AS attempts FROM turn "
            "WHERE status IN ('queued', 'running') ORDER BY session_id, place"
        ):
            now[row.pop("session_id")].append(Unfinished(**row))
        return now

    def _look_at_order(self, name: str, now: list[Unfinished], epoch_before: int) -> None:
        """Compare what a session has to do with what it had. ORDER, FENCED, POISON, BOUNDED."""
        before = {each.message_id: each for each in self._unfinished.get(name, [])}
        for number, each in enumerate(now):
            known = before.get(each.message_id)
            is_sent_again = (
                each.attempts == 0 and known is not None and each.place > known.place
            )  # it failed in between
            if known is not None and each.place != known.place and not is_sent_again:
                raise Violated("ORDER", "a message lost its place", name, known, each)
            if each.status == "running" and number > 0:
                raise Violated("ORDER", "a message runs before its turn", name, now)
            if each.status == "running" and each.epoch != self._epochs[name]:
                raise Violated("FENCED", "an attempt does not run under the session's epoch", name, self._epochs, each)
            is_started = each.status == "running" and (known is None or known.attempts != each.attempts)
            if is_started and each.epoch == epoch_before:
                raise Violated("FENCED", "an attempt was started under the epoch before it", name, each)
            if each.attempts > ATTEMPTS_MAX:
                raise Violated("POISON", "a message was started more often than it may", name, each)
        waiting = sum(each.status == "queued" for each in now)
        if waiting > self._settings.queue_length_max + 1:  # and one that was running and waits again
            raise Violated("BOUNDED", name, now)

    def _look_at_ends(self, session: dict[str, Any], now: list[Unfinished]) -> None:
        """FENCED: a running turn that ends without a version takes its epoch with it. One that waits again does not."""
        still = {each.message_id for each in now}
        for each in self._unfinished.get(session["session_id"], []):
            is_same = each.status == "running" and each.epoch == session["epoch"]
            if (
                is_same
                and each.message_id not in still
                and session["head"] == len(self.versions[session["session_id"]])
            ):
                raise Violated("FENCED", "a turn was ended, and its attempt is not fenced out", session, each)

    def _look_at_chain(self, session: dict[str, Any]) -> None:
        """L8: when all is sound, a chain that outgrew its snapshot is compacted within a few turns."""
        delta_bytes = session["chain_bytes"] - session["snapshot_bytes"]
        is_due = delta_bytes >= COMPACT_WEIGHT * session["snapshot_bytes"]
        if session["chain_deltas"] < self._settings.compact_deltas_min or not is_due or self.sound_since_ms is None:
            return
        due = self._due[session["session_id"], session["snapshot_version"]]
        due.append(self._now_ms())
        if len(due) > 2 and due[-1] - due[1] > 30_000:
            raise Violated("L8", "deltas pile up behind a snapshot", session, due)

    def _committed(self, session: dict[str, Any], epoch_before: int, now: list[Unfinished]) -> None:
        name, head = session["session_id"], session["head"]
        [row] = self.query(
            "SELECT v.version, v.state_id, v.message_id, v.schema_number, t.status, t.version AS told, "
            "t.starts - t.starts_before AS attempt "
            "FROM version AS v JOIN turn AS t USING (tenant, session_id, message_id) "
            "WHERE v.session_id = ? AND v.version = ?",
            name,
            head,
        )
        if row["state_id"] != session["state_id"]:
            raise Violated("CHAIN", session, row)
        if (row["status"], row["told"]) != ("committed", head):
            raise Violated("ONCE", row)
        ran = next((each for each in self._unfinished.get(name, []) if each.message_id == row["message_id"]), None)
        # The turn that waited behind it may have been started in the same transaction.
        is_followed = bool(now) and now[0].status == "running" and now[0].epoch == session["epoch"]
        epoch_then = epoch_before if is_followed else session["epoch"]
        if ran is None or ran.epoch is None or not ran.epoch == epoch_before == epoch_then:
            raise Violated("FENCED", "what was committed did not run under the session's epoch", session, ran)
        if any(each.message_id == row["message_id"] for each in self.versions[name]):
            raise Violated("ONCE", "a message was committed twice", row)
        made = Committed(head, row["state_id"], row["message_id"], row["schema_number"], row["attempt"])
        self.versions[name].append(made)
        self.trace.add("store", f"{name} v{head}:{made.state_id.hex()[:6]} is {made.message_id}")

    def survived(self) -> None:
        """Look at what a hub's death left: what was durable, is; its last write may be. DURABLE-FIRST."""
        for name, seen in self.versions.items():
            rows = self.query("SELECT head, epoch FROM session WHERE session_id = ?", name)
            if not rows or rows[0]["epoch"] < self._epochs[name]:
                raise Violated("DURABLE-FIRST", "an epoch was lost with the hub", name, self._epochs[name], rows)
            if seen and (not rows or rows[0]["head"] < len(seen)):
                raise Violated("DURABLE-FIRST", "a version was lost with the hub", name, len(seen), rows)
        self.wrote(calls=2)

    # --- when all is over ----------------------------------------------------------------------

    def texts(self) -> dict[str, list[tuple[str, int, int]]]:
        """Return each session's committed texts, attempts and schema numbers, in order of version."""
        sent = {(message.session, message.message_id): message.text for message in self.messages}
        return {
            name: [(sent[name, each.message_id], each.attempt, each.schema_number) for each in seen]
            for name, seen in self.versions.items()
        }

    def check(self) -> dict[str, list[Rows]]:
        """Check what is durable; return the rows that each version of each session must have."""
        sent = {(message.session, message.message_id): message for message in self.messages}
        order: Counter[str] = Counter()
        for row in self.query("SELECT * FROM turn ORDER BY session_id, place"):
            message = sent[row["session_id"], row["message_id"]]
            if row["text"] != message.text:
                raise Violated("SAME-KEY-SAME-REQUEST", row, message.text)
            if row["status"] not in FINAL:
                raise Violated("L1", "an accepted message does not end", row)
            if row["status"] == "committed":
                order[row["session_id"]] += 1
                if row["version"] != order[row["session_id"]]:
                    raise Violated("ORDER", row, order)
            told = None if message.is_sent_unseen else message.last_told
            if told is not None and told[0] != row["status"]:
                raise Violated("DEFINITE-FAIL", message.last_told, row)
        self._check_events()
        for message in self.messages:
            row_now = message.row()
            if message.is_accepted and row_now is None:
                raise Violated("L9", "an accepted message is forgotten", message.message_id)
            for version, _answer in message.answers:
                if row_now is None or row_now["version"] != version:
                    raise Violated("DURABLE-FIRST", message.message_id, version, row_now)
        rows = self._rows()
        self._check_runs(rows)
        return rows

    def _check_events(self) -> None:
        """ONE-STREAM, FINAL-AGREES: what is stored is the one stream of the attempt that was committed."""
        for found in self.query(
            f"SELECT t.session_id, t.message_id, t.version, t.starts, {_FRAME} WHERE t.status = 'committed'"
        ):
            row = self._with_answer(found)
            if row["lines"] is None and row["session_id"] in self.rotten:
                continue  # it leant on what was damaged
            if row["lines"] is None:
                raise Violated("L9", "the events of a committed message are not kept", row)
            first, *events = map(json.loads, row["lines"].splitlines())
            numbers = [event["seq"] for event in events]
            begins_at = row["starts"] * SEQ_PER_START + (row["starts"] == 1)
            if first["type"] != "accepted" or numbers != list(range(begins_at, begins_at + len(numbers))):
                raise Violated("ONE-STREAM", "what is stored is not one attempt's", row, numbers)
            texts = [event["message"]["content"][0]["text"] for event in events if event["type"] == "message"]
            if (
                events[-1]["complete"]["session_state"]["version"] != row["version"]
                or "\n".join(texts) != row["answer"]
            ):
                raise Violated("FINAL-AGREES", row)

    def _rows(self) -> dict[str, list[Rows]]:
        """Return what each version of each session must hold, version 0 first."""
        rows: dict[str, list[Rows]] = defaultdict(lambda: [Rows()])
        for name, texts in self.texts().items():
            for text, attempt, number in texts:
                rows[name].append(rows[name][-1].after(text, attempt, number))
        return rows

    def _check_runs(self, rows: dict[str, list[Rows]]) -> None:
        sent = {(message.session, message.message_id): message for message in self.messages}
        runs: Counter[tuple[str, str]] = Counter()
        keys: dict[str, set[tuple[str, str]]] = defaultdict(set)
        owners: dict[str, str] = {}
        for run in self.runs:
            known = rows[run.session]
            if run.version > len(known) or run.found != known[run.version - 1].migrated(run.schema_number):
                raise Violated("EXACT-BASE, NO-TRACE, EVICT-SAFE", run, known[run.version - 1 : run.version])
            message = sent[run.session, run.message_id]
            if run.text != message.text:
                raise Violated("SAME-KEY-SAME-REQUEST", run)
            runs[run.session, run.message_id] += 1
            if runs[run.session, run.message_id] > ATTEMPTS_MAX * message.posts:
                raise Violated("POISON", "a message ran more often than it may", run, message.posts)
            keys[f"{run.session} {run.message_id}"].add(run.keys)
        for owner, made in keys.items():
            if len(made) != 1:
                raise Violated("EFFECT-KEY", "another attempt has another key", owner, made)
            for key in next(iter(made)):
                if owners.setdefault(key, owner) != owner:
                    raise Violated("EFFECT-KEY", "two messages share a key", owner, owners[key])
                if next(iter(made)).count(key) > 1:
                    raise Violated("EFFECT-KEY", "two labels share a key", owner)
