"""A session that is as it should be, to be spoilt."""

from typing import Any

import msgspec

from satchel.client.model import AnswerText, MessageRow
from satchel.demo.exported import Exported
from satchel.demo.findings import Evidence
from satchel.demo.ledger import Sent, Told
from satchel.model import TurnStatus

TURNS = 3


def digest(version: int) -> str:
    return f"{version:016x}"


def answer(version: int) -> str:
    return f"so be it [v{version} {digest(version)}]"


def row(number: int, **changes: Any) -> MessageRow:
    """Return the transcript's row of message *number*, which made the version of its number."""
    committed = MessageRow(
        message_id=f"m{number}",
        status=TurnStatus.COMMITTED,
        text=f"{number} pears",
        metadata=None,
        answer=AnswerText(answer(number)),
        version=number,
        attempts=1,
        error=None,
        accepted_at="",
        finished_at="",
    )
    return msgspec.structs.replace(committed, **changes)


def exported(**changes: Any) -> Exported:
    numbers = range(1, TURNS + 1)
    whole = Exported(
        session_id="s1",
        version=TURNS,
        schema_number=1,
        notes=tuple((number, f"m{number}") for number in numbers),
        said=tuple(
            line
            for number in numbers
            for line in (("USER", f"m{number}", f"{number} pears"), ("ASSISTANT", f"m{number}", answer(number)))
        ),
        digest=digest(TURNS),
    )
    return msgspec.structs.replace(whole, **changes)


def evidence(**changes: Any) -> Evidence:
    """Return a session of three turns, each message sent twice."""
    numbers = range(1, TURNS + 1)
    sound = Evidence(
        session_id="s1",
        sent={
            f"m{number}": Sent(f"m{number}", f"{number} pears", [Told(number, answer(number))] * 2)
            for number in numbers
        },
        head=TURNS,
        transcript=[row(number) for number in numbers],
        exported=exported(),
    )
    return msgspec.structs.replace(sound, **changes)
