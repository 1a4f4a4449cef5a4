"""The audit: every session read back from outside, by HTTP and as an exported file, and compared.

It asks through the public client alone, and opens files with the standard library.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from satchel.client.client import AsyncSession
from satchel.client.model import MessageRow
from satchel.demo.exported import Exported, read_exported
from satchel.demo.findings import Evidence, Finding, FindingKind, findings
from satchel.demo.ledger import Sent
from satchel.errors import SatchelError, SessionNotFound
from satchel.limits import PAGE_ITEMS_MAX

AT_ONCE: Final = 4
"""Sessions that are read at the same time: the hub rebuilds one state after the other."""

SETTLE_S: Final = 30.0
"""How long a session may still be busy with what nobody waits for any more."""

LOOK_S: Final = 0.1


class Verdict(msgspec.Struct, frozen=True):
    """What the audit found, and what it saw on the way."""

    findings: tuple[Finding, ...]
    heads: Mapping[str, int]
    migrated: int
    """Sessions whose state has the second schema."""

    @property
    def versions(self) -> int:
        return sum(self.heads.values())

    def count(self, kind: FindingKind) -> int:
        """Return how many messages, or sessions, have a finding of *kind*."""
        return len({(each.session_id, each.message_id) for each in self.findings if each.kind is kind})


async def audit(
    sessions: Mapping[str, Mapping[str, Sent]],
    *,
    session_of: Callable[[str], AsyncSession],
    folder: Path,
    audited: Callable[[int], None] = lambda _: None,
) -> Verdict:
    """Compare what users were told with what is there; export each head into *folder*.

    *sessions* are the messages that users sent, by session. *audited* hears how many
    sessions are done. A session that cannot be read is a finding, not an error.
    """
    room = asyncio.Semaphore(AT_ONCE)
    done = 0

    async def one(session_id: str, sent: Mapping[str, Sent]) -> tuple[Evidence | None, list[Finding]]:
        nonlocal done
        async with room:
            result = await _audit_one(session_id, sent, session_of=session_of, folder=folder)
        done += 1
        audited(done)
        return result

    results = await asyncio.gather(*(one(session_id, sent) for session_id, sent in sessions.items()))
    evidence = [each for each, _ in results if each is not None]
    return Verdict(
        findings=tuple(finding for _, found in results for finding in found),
        heads={each.session_id: each.head for each in evidence},
        migrated=sum(each.exported is not None and each.exported.schema_number > 1 for each in evidence),
    )


async def _audit_one(
    session_id: str, sent: Mapping[str, Sent], *, session_of: Callable[[str], AsyncSession], folder: Path
) -> tuple[Evidence | None, list[Finding]]:
    try:
        evidence = await _gathered(session_of(session_id), sent, folder / f"{session_id}.sqlite")
    except (SatchelError, TimeoutError) as error:  # the hub refuses, the file is none, or the session never rests
        kind = FindingKind.LOST if any(each.told for each in sent.values()) else FindingKind.MISMATCH
        return None, [Finding(kind, session_id, "", f"it cannot be read: {type(error).__name__}: {error}")]
    return evidence, findings(evidence)


async def _gathered(session: AsyncSession, sent: Mapping[str, Sent], path: Path) -> Evidence:
    head = await _settled_head(session)
    exported: Exported | None = None
    if head:
        exported = await asyncio.to_thread(_kept, path, await session.snapshot(head))
    return Evidence(
        session_id=session.session_id,
        sent=sent,
        head=head,
        transcript=await _transcript(session) if head else (),
        exported=exported,
    )


def _kept(path: Path, image: bytes) -> Exported:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image)
    return read_exported(path)


async def _settled_head(session: AsyncSession) -> int:
    """Return the head once nothing of the session runs or waits; 0 if there is no such session."""
    async with asyncio.timeout(SETTLE_S):
        while True:
            try:
                row = await session.info()
            except SessionNotFound:
                return 0
            if row.status != "running" and not row.waiting:
                return row.head
            await asyncio.sleep(LOOK_S)


async def _transcript(session: AsyncSession) -> list[MessageRow]:
    page = await session.messages(limit=PAGE_ITEMS_MAX)
    rows = list(page.messages)
    while page.next_cursor is not None:
        page = await session.messages(limit=PAGE_ITEMS_MAX, before=page.next_cursor)
        rows[:0] = page.messages
    return rows
