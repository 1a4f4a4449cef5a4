"""The audit against a real hub: it accepts what is sound, and finds what was done to store or ledger."""

import contextlib
import pathlib
import sqlite3
from collections.abc import Callable

import pytest

from satchel import Hub
from satchel.demo.agent import AGENT, pantry
from satchel.demo.audit import Verdict, audit
from satchel.demo.exported import read_exported
from satchel.demo.findings import FindingKind
from satchel.demo.ledger import Ledger, Told
from satchel.errors import CorruptState

SESSIONS = ["s1", "s2"]
TURNS = 3


async def talked(store: pathlib.Path) -> Ledger:
    """Have the users of two sessions talk, send every message twice, and end the hub."""
    ledger = Ledger(SESSIONS)
    async with Hub(store=str(store), workers=[pantry(build=1)]) as hub:
        for session_id in SESSIONS:
            for number in range(TURNS):
                sent = ledger.send(session_id, f"{number + 1} pears")
                for _ in range(2):
                    answer = await hub.session(session_id, AGENT).send(sent.text, message_id=sent.message_id)
                    ledger.acknowledge(sent, Told(answer.version, answer.text))
    return ledger


async def audited(store: pathlib.Path, ledger: Ledger) -> Verdict:
    async with Hub(store=str(store)) as hub:
        return await audit(ledger.sessions, session_of=hub.session, folder=store.parent / "heads")


@pytest.fixture
def store(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "hub.db"


async def test_what_was_told_is_found_again(store: pathlib.Path):
    """Transcript, rows, conversation and digest of an honest hub agree."""
    ledger = await talked(store)

    verdict = await audited(store, ledger)

    assert verdict.findings == ()
    assert (verdict.heads, verdict.versions, verdict.migrated) == ({"s1": TURNS, "s2": TURNS}, 2 * TURNS, 0)


async def test_a_migrated_session_is_sound_too(store: pathlib.Path):
    """The digest is of the rows as they are after the migration."""
    ledger = await talked(store)
    async with Hub(store=str(store), workers=[pantry(build=2)]) as hub:
        sent = ledger.send("s1", "7 figs")
        answer = await hub.session("s1", AGENT).send(sent.text, message_id=sent.message_id)
        ledger.acknowledge(sent, Told(answer.version, answer.text))

    verdict = await audited(store, ledger)

    assert (verdict.findings, verdict.migrated) == ((), 1)


def lose_acknowledged(ledger: Ledger) -> None:
    sent = ledger.send("s1", "9 figs")
    ledger.acknowledge(sent, Told(4, "so be it"))


def forget_sent(ledger: Ledger) -> None:
    del ledger.sessions["s1"]["m0002"]


def tell_other_version(ledger: Ledger) -> None:
    ledger.sessions["s1"]["m0002"].told[1] = Told(3, ledger.sessions["s1"]["m0002"].told[0].answer)


def tell_other_answer(ledger: Ledger) -> None:
    ledger.sessions["s1"]["m0002"].told[:] = [Told(2, "so be it")]


@pytest.mark.parametrize(
    ("tamper", "kind", "message_id"),
    [
        (lose_acknowledged, FindingKind.LOST, "m0004"),
        (forget_sent, FindingKind.DOUBLED, "m0002"),
        (tell_other_version, FindingKind.DOUBLED, "m0002"),
        (tell_other_answer, FindingKind.MISMATCH, "m0002"),
    ],
)
async def test_a_ledger_that_differs_is_found(
    store: pathlib.Path, tamper: Callable[[Ledger], None], kind: FindingKind, message_id: str
):
    """What users were told counts: a hub that told them otherwise has lost, doubled or altered a turn."""
    ledger = await talked(store)
    tamper(ledger)

    verdict = await audited(store, ledger)

    assert (kind, "s1", message_id) in {(each.kind, each.session_id, each.message_id) for each in verdict.findings}
    assert not any(each.session_id == "s2" for each in verdict.findings)


@pytest.mark.parametrize(
    ("sql", "kind", "message_id"),
    [
        pytest.param(
            "UPDATE turn SET status = 'failed', version = NULL, state_id = NULL WHERE session_id = 's1'"
            " AND message_id = 'm0002'",
            FindingKind.LOST,
            "m0002",
            id="a commit is forgotten",
        ),
        pytest.param(
            "UPDATE events SET answer_bytes = answer_bytes - 1 WHERE session_id = 's1' AND place = 2",
            FindingKind.MISMATCH,
            "m0002",
            id="an answer is altered",
        ),
        pytest.param(
            "UPDATE session SET head = 2 WHERE session_id = 's1'", FindingKind.GAP, "", id="the head is set back"
        ),
        pytest.param(
            "UPDATE version SET data = zeroblob(length(data)) WHERE session_id = 's1' AND version = 3",
            FindingKind.LOST,
            "",
            id="a delta is damaged",
        ),
    ],
)
async def test_a_store_that_was_tampered_with_is_found(
    store: pathlib.Path, sql: str, kind: FindingKind, message_id: str
):
    """The audit trusts neither rows nor bytes: what the store lost after it was acknowledged is lost."""
    ledger = await talked(store)
    with contextlib.closing(sqlite3.connect(store)) as file:
        assert file.execute(sql).rowcount == 1
        file.commit()

    verdict = await audited(store, ledger)

    assert (kind, "s1", message_id) in {(each.kind, each.session_id, each.message_id) for each in verdict.findings}
    assert not any(each.session_id == "s2" for each in verdict.findings)


async def test_rows_that_were_changed_in_a_file_change_its_digest(store: pathlib.Path):
    """One value of one row, in any of the tables that a turn writes."""
    await audited(store, await talked(store))
    path = store.parent / "heads" / "s1.sqlite"
    before = read_exported(path)

    for sql in (
        "UPDATE tally SET count = count + 1",
        "UPDATE note SET count = 9 WHERE id = 1",
        "UPDATE _satchel_values SET value = '9' WHERE key = 'turns'",
        "UPDATE _satchel_history SET content = replace(content, '1 pears', '5 pears') WHERE position = 1",
    ):
        copy = path.with_suffix(".copy")
        copy.write_bytes(path.read_bytes())
        with contextlib.closing(sqlite3.connect(copy)) as file:
            assert file.execute(sql).rowcount == 1
            file.commit()
        assert read_exported(copy).digest != before.digest, sql


def test_a_file_that_is_no_session_is_refused(tmp_path: pathlib.Path):
    """By an error that the audit takes for a finding."""
    path = tmp_path / "s1.sqlite"
    path.write_bytes(b"not a database" * 100)

    with pytest.raises(CorruptState, match="not what was exported"):
        read_exported(path)
