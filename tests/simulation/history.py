"""What was seen from outside, and the invariants it must keep, by name."""

from collections import Counter, defaultdict
from typing import Any

import apsw
import msgspec

from satchel.model import SEQ_PER_START

FINAL = {"committed", "failed", "cancelled"}


class Violated(AssertionError):
    """An invariant does not hold."""

    def __init__(self, name: str, *facts: object) -> None:
        super().__init__(f"{name}: {', '.join(map(repr, facts))}")


class Reading:
    """One reader's way through a message's events, over as many connections as it takes."""

    def __init__(self, message: "Message") -> None:
        self.message = message
        self.cursor = -1
        self.texts: list[str] = []
        self.complete: dict[str, Any] | None = None

    def take(self, event: dict[str, Any]) -> None:
        """Follow one event. ONE-STREAM: rising without a gap, a restart before a new start, an end at the end."""
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
        if kind == "message":
            self.texts.append(event["message"]["content"][0]["text"])
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
        row = self.row()
        if row is None or (row["status"], row["version"]) != ("committed", version):
            raise Violated("DURABLE-FIRST", self.message_id, version, row)
        self.answers.add((version, answer))
        if len(self.answers) > 1:
            raise Violated("ONCE", self.message_id, self.answers)
        if answer != row["answer"]:
            raise Violated("FINAL-AGREES", self.message_id, answer, row["answer"])
        self.last_told = ("committed", version)
        self.history.counts["committed"] += 1

    def told_error(self, error: dict[str, Any]) -> None:
        """A definite end is durable, and no fault of ours."""
        code = error["code"]
        self.history.counts[code] += 1
        row = self.row()
        status = "cancelled" if code == "CANCELLED" else "failed"
        if code == "INTERNAL_ERROR":
            raise Violated("no fault of ours", self.message_id, error, row)
        if row is None or row["status"] not in {status, "queued", "running"} | (FINAL if self.sends > 1 else set()):
            raise Violated("DURABLE-FIRST", self.message_id, error, row)
        if self.sends == 1 and row["status"] != status:
            raise Violated("DURABLE-FIRST", self.message_id, error, row)
        self.last_told = (status, code)


class Run(msgspec.Struct):
    """A handler that started: what it found."""

    session: str
    message_id: str
    text: str
    version: int
    seen: list[str]


class History:
    """Everything that was seen."""

    def __init__(self, log_path: str) -> None:
        self._log_path = log_path
        self._disk: apsw.Connection | None = None
        self.messages: list[Message] = []
        self.runs: list[Run] = []
        self.counts: Counter[str] = Counter()

    def message(self, session: str, message_id: str, text: str) -> Message:
        message = Message(self, session, message_id, text)
        self.messages.append(message)
        return message

    def query(self, sql: str, *bindings: Any) -> list[dict[str, Any]]:
        """Read what is durable, past the hub."""
        if self._disk is None:
            self._disk = apsw.Connection(self._log_path, flags=apsw.SQLITE_OPEN_READONLY)
        cursor = self._disk.cursor()
        cursor.row_trace = lambda cursor, row: dict(zip((name for name, *_ in cursor.description), row, strict=True))
        return list(cursor.execute(sql, bindings))

    def close(self) -> None:
        if self._disk is not None:
            self._disk.close()
            self._disk = None

    def row(self, message: Message) -> dict[str, Any] | None:
        rows = self.query(
            "SELECT * FROM turn WHERE session_id = ? AND message_id = ?", message.session, message.message_id
        )
        return rows[0] if rows else None

    def check(self) -> dict[str, list[str]]:
        """Check what is durable when all is over; return each session's texts in order of version."""
        texts: dict[str, list[str]] = defaultdict(list)
        sent = {(message.session, message.message_id): message for message in self.messages}
        for row in self.query("SELECT * FROM turn ORDER BY session_id, place"):
            message = sent[row["session_id"], row["message_id"]]
            if row["text"] != message.text:
                raise Violated("SAME-KEY-SAME-REQUEST", row, message.text)
            if row["status"] not in FINAL:
                raise Violated("every accepted message reaches an end", row)
            if row["status"] == "committed":
                texts[row["session_id"]].append(row["text"])
                if row["version"] != len(texts[row["session_id"]]):
                    raise Violated("ORDER", row, texts[row["session_id"]])
            told = None if message.is_sent_unseen else message.last_told
            if told is not None and told[0] != row["status"]:
                raise Violated("DEFINITE-FAIL", message.last_told, row)
        for message in self.messages:
            if message.is_accepted and message.row() is None:
                raise Violated("an accepted message is never forgotten", message.message_id)
        self._check_versions()
        for run in self.runs:
            if run.seen != texts[run.session][: run.version - 1]:
                raise Violated("EXACT-BASE and NO-TRACE", run, texts[run.session])
            if run.text != sent[run.session, run.message_id].text:
                raise Violated("SAME-KEY-SAME-REQUEST", run)
        return texts

    def _check_versions(self) -> None:
        """GAPLESS and ONCE of the version rows: one for each committed turn, one turn for each."""
        for session in self.query("SELECT session_id, head, state_id FROM session"):
            rows = self.query(
                "SELECT v.version, v.state_id, t.version AS told, t.status FROM version AS v "
                "JOIN turn AS t USING (tenant, session_id, message_id) WHERE v.session_id = ? ORDER BY v.version",
                session["session_id"],
            )
            if [row["version"] for row in rows] != list(range(1, session["head"] + 1)):
                raise Violated("GAPLESS", session, rows)
            for row in rows:
                if (row["told"], row["status"]) != (row["version"], "committed"):
                    raise Violated("ONCE", row)
            if rows and rows[-1]["state_id"] != session["state_id"]:
                raise Violated("CHAIN", session, rows[-1])
