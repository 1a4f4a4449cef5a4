"""The demo's agent: it keeps a pantry, and each answer says what its rows were when it was given.

"4 pears" puts four pears there. The answer ends with the version and a digest of the
session's rows, so that whoever exports that version can compare.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from satchel.demo.rows import rows_digest
from satchel.errors import TurnRefused
from satchel.model import Message
from satchel.worker.context import Turn
from satchel.worker.worker import Worker

AGENT: Final = "pantry"

SCHEMA: Final = """
CREATE TABLE note (
    id INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL,
    item TEXT NOT NULL,
    count INTEGER NOT NULL
) STRICT;
CREATE TABLE tally (item TEXT PRIMARY KEY NOT NULL, count INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""
# No UNIQUE on note.message_id: a turn that ran twice to a commit is to show, not to fail.

MIGRATION: Final = """
ALTER TABLE tally ADD COLUMN largest INTEGER NOT NULL DEFAULT 0;
UPDATE tally SET largest = (SELECT max(note.count) FROM note WHERE note.item = tally.item);
"""

PIECE_S: Final = 0.06
"""Between two pieces of an answer: a model that is in a hurry."""

_ENDING: Final = re.compile(r"\[v(\d+) ([0-9a-f]+)\]$")


class Claim(msgspec.Struct, frozen=True):
    """What an answer says of its own turn."""

    version: int
    digest: str


def claim_of(answer: str) -> Claim | None:
    """Return what *answer* ends with; None if that is not what this agent says."""
    match = _ENDING.search(answer)
    return None if match is None else Claim(int(match[1]), match[2])


def pantry(*, build: int) -> Worker[Any]:
    """Return the agent as *build* 1 or 2 has it; 2 brings a migration."""
    worker: Worker[Any] = Worker(AGENT, schema=SCHEMA, migrations=[MIGRATION][: build - 1])

    @worker.on_message
    async def reply(turn: Turn) -> None:
        count, item = _wish(turn.text)
        _keep(turn, count, item, has_largest=build > 1)
        await turn.say(_pieces(_answer(turn, item)))

    return worker


def _wish(text: str) -> tuple[int, str]:
    count, _, item = text.partition(" ")
    if not (count.isdigit() and item):
        raise TurnRefused("Say how many of what: 4 pears.")
    return int(count), item


def _keep(turn: Turn, count: int, item: str, *, has_largest: bool) -> None:
    execute = turn.state.execute
    execute("INSERT INTO note (message_id, item, count) VALUES (?, ?, ?)", (turn.message_id, item, count))
    execute(
        "INSERT INTO tally (item, count) VALUES (?, ?) ON CONFLICT (item) DO UPDATE SET count = count + excluded.count",
        (item, count),
    )
    if has_largest:
        execute("UPDATE tally SET largest = max(largest, ?) WHERE item = ?", (count, item))
    turn.state["turns"] = turn.state.get("turns", 0) + 1
    turn.state["last"] = {"item": item, "count": count}


def _answer(turn: Turn, item: str) -> str:
    count = turn.state.execute("SELECT count FROM tally WHERE item = ?", (item,)).scalar()
    return f"{count} {item} in the pantry after {turn.state['turns']} turns. [v{turn.version} {_digest(turn)}]"


def _digest(turn: Turn) -> str:
    state = turn.state
    return rows_digest(
        note=state.execute("SELECT * FROM note ORDER BY id"),
        tally=state.execute("SELECT * FROM tally ORDER BY item"),
        values=sorted(state.items()),
        said=[(item.role, item.text) for item in turn.history if isinstance(item, Message)],
    )


async def _pieces(answer: str) -> AsyncIterator[str]:
    first, _, rest = answer.partition(" in ")
    for piece in (first, f" in {rest}"):
        await asyncio.sleep(PIECE_S)
        yield piece
