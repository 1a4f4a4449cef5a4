"""What is wrong with one session, by what its users were told and what the hub shows and exports (pure)."""

import enum
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from satchel.client.model import MessageRow
from satchel.demo.agent import claim_of
from satchel.demo.exported import Exported
from satchel.demo.ledger import Sent
from satchel.model import TurnStatus


class FindingKind(enum.StrEnum):
    LOST = "lost"
    """A turn that was acknowledged is not there."""
    DOUBLED = "doubled"
    """A message is there more than once, or was acknowledged as two versions."""
    GAP = "gap"
    """The versions are not 1, 2, … up to the head, one for each turn."""
    MISMATCH = "mismatch"
    """A text, an answer, a version or a digest is another than the one that was told."""
    UNANSWERED = "unanswered"
    """A message was sent and never answered."""


class Finding(msgspec.Struct, frozen=True):
    kind: FindingKind
    session_id: str
    message_id: str
    what: str

    def __str__(self) -> str:
        message = f" message {self.message_id}" if self.message_id else ""
        return f"{self.kind.value}: session {self.session_id}{message}: {self.what}"


class Evidence(msgspec.Struct, frozen=True):
    """One session as it was told, as the hub shows it, and as it was exported."""

    session_id: str
    sent: Mapping[str, Sent]
    head: int
    transcript: Sequence[MessageRow]
    exported: Exported | None
    """None: there is no version."""


def findings(evidence: Evidence) -> list[Finding]:
    """Return all that is wrong with a session; empty: nothing."""
    return [
        Finding(kind, evidence.session_id, message_id, what)
        for check in (_told, _transcript, _order, _rows, _conversation, _digest)
        for kind, message_id, what in check(evidence)
    ]


_Found = Iterator[tuple[FindingKind, str, str]]


def _committed(evidence: Evidence) -> list[MessageRow]:
    return [row for row in evidence.transcript if row.status is TurnStatus.COMMITTED]


def _told(evidence: Evidence) -> _Found:
    """One message has one outcome, however often it was sent."""
    for message_id, sent in evidence.sent.items():
        versions = sorted({told.version for told in sent.told})
        if len(versions) > 1:
            yield FindingKind.DOUBLED, message_id, f"acknowledged as versions {_listed(versions)}"
        elif len({told.answer for told in sent.told}) > 1:
            yield FindingKind.MISMATCH, message_id, "acknowledged with two answers"


def _transcript(evidence: Evidence) -> _Found:
    """What was acknowledged is in the transcript, once and as it was told; nothing is there that nobody sent."""
    committed = _committed(evidence)
    counts = Counter(row.message_id for row in committed)
    rows = {row.message_id: row for row in committed}
    for message_id, sent in evidence.sent.items():
        if counts[message_id] > 1:
            yield FindingKind.DOUBLED, message_id, f"it is committed {counts[message_id]} times in the transcript"
        if not sent.told:
            continue
        row = rows.get(message_id)
        if row is None:
            yield (
                FindingKind.LOST,
                message_id,
                f"version {sent.told[0].version} was acknowledged, the transcript has none",
            )
            continue
        answer = None if row.answer is None else row.answer.text
        told = sent.told[0]
        if (row.version, answer) != (told.version, told.answer):
            what = (
                f"acknowledged as version {told.version} {told.answer!r}, the transcript has {row.version} {answer!r}"
            )
            yield FindingKind.MISMATCH, message_id, what
    for row in committed:
        if row.message_id not in evidence.sent:
            yield FindingKind.DOUBLED, row.message_id, "the transcript has it, nobody sent it"
        elif row.text != evidence.sent[row.message_id].text:
            yield FindingKind.MISMATCH, row.message_id, "its text is not the one that was sent"


def _order(evidence: Evidence) -> _Found:
    """The transcript's versions are 1, 2, … head."""
    versions = sorted(row.version for row in _committed(evidence) if row.version is not None)
    if versions != list(range(1, evidence.head + 1)):
        missing = sorted(set(range(1, evidence.head + 1)) - set(versions))
        yield FindingKind.GAP, "", f"the head is {evidence.head}; of its turns are missing {_listed(missing)}"


def _rows(evidence: Evidence) -> _Found:
    """The exported head has one row of each committed turn, under the turn's number."""
    if evidence.exported is None:
        return
    named = (evidence.exported.session_id, evidence.exported.version)
    if named != (evidence.session_id, evidence.head):
        yield FindingKind.MISMATCH, "", f"the export of version {evidence.head} says that it is {named[0]} v{named[1]}"
    counts = Counter(message_id for _, message_id in evidence.exported.notes)
    for message_id, sent in evidence.sent.items():
        if counts[message_id] > 1:
            yield FindingKind.DOUBLED, message_id, f"the exported state has {counts[message_id]} rows of it"
        elif sent.told and not counts[message_id]:
            yield FindingKind.LOST, message_id, "the exported state has no row of it"
    wanted = [(row.version, row.message_id) for row in _by_version(evidence)]
    if list(evidence.exported.notes) != wanted:
        others = [note for note in evidence.exported.notes if note not in wanted]
        numbers = _listed([number for number, _ in others])
        what = f"the exported rows are not those of the committed turns, from row {numbers}"
        yield FindingKind.GAP, "", what


def _by_version(evidence: Evidence) -> list[MessageRow]:
    return sorted(_committed(evidence), key=lambda row: row.version or 0)


def _conversation(evidence: Evidence) -> _Found:
    """The exported conversation is what was sent and answered, in the versions' order."""
    if evidence.exported is None:
        return
    wanted = [
        line
        for row in _by_version(evidence)
        for line in (
            ("USER", row.message_id, row.text),
            ("ASSISTANT", row.message_id, "" if row.answer is None else row.answer.text),
        )
    ]
    for said, line in zip(evidence.exported.said, wanted, strict=False):
        if said != line:
            yield FindingKind.MISMATCH, line[1], f"the exported conversation has {said[2]!r} where {line[2]!r} was"
            return
    if len(evidence.exported.said) != len(wanted):
        what = f"the exported conversation has {len(evidence.exported.said)} lines, not {len(wanted)}"
        yield FindingKind.MISMATCH, "", what


def _digest(evidence: Evidence) -> _Found:
    """Each answer names its version; the head's names the digest of the exported rows."""
    for row in _committed(evidence):
        claim = claim_of("" if row.answer is None else row.answer.text)
        if claim is None or claim.version != row.version:
            yield FindingKind.MISMATCH, row.message_id, f"the answer of version {row.version} does not name it"
        elif (
            evidence.exported is not None
            and row.version == evidence.exported.version
            and claim.digest != evidence.exported.digest
        ):
            what = f"the worker saw rows {claim.digest}, the export has {evidence.exported.digest}"
            yield FindingKind.MISMATCH, row.message_id, what


def _listed(numbers: Sequence[int], *, most: int = 8) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return (shown or "none") + (", …" if len(numbers) > most else "")
