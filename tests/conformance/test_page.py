"""The page for authors of a backend shows fixtures that the clauses can use."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from satchel.store.base import Store
from satchel.store.open import open_store
from satchel.testing.conformance.commits import CommitClauses
from satchel.testing.conformance.crashes import CrashClauses
from tests.conformance.crash import Crasher
from tests.docs.pages import blocks


async def open_my_store(folder: Path) -> Store:
    return await open_store(str(folder / "my.db"))


def fixtures_of_the_page() -> dict[str, Any]:
    """Return what the page's test class says, over the embedded store in place of the reader's."""
    [block] = [block for block in blocks("docs/howto/write-a-store.md") if block.kind == "python"]
    backend = ModuleType("my_backend")
    backend.__dict__.update(open_my_store=open_my_store, Failpoints=lambda folder: Crasher(folder, everything=True))
    names: dict[str, Any] = {"__name__": "snippet"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "my_backend", backend)
        exec(compile(block.text, str(block), "exec"), names)  # noqa: S102  # our own page
    return vars(names["TestMyStore"])


class TestThePage:
    """Some clauses that use each fixture."""

    failpoints, opens, crash = (fixtures_of_the_page()[name] for name in ("failpoints", "opens", "crash"))
    test_a_crash_in_commit = CrashClauses.test_a_crash_in_commit
    test_a_crash_in_put = CrashClauses.test_a_crash_in_put
    test_what_was_committed_is_there_after_reopening = CommitClauses.test_what_was_committed_is_there_after_reopening
