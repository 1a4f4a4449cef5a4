"""The simulation must be able to fail: the product with any one rule left out breaks a promise.

How soon, and how it is measured, says docs/explanation/testing.md.
"""

import multiprocessing
import os
import re
from pathlib import Path

import pytest

from satchel.store import fence
from satchel.store.statements import statements
from tests.simulation.measure import Kill, first_kill, table
from tests.simulation.mutants import MUTANTS
from tests.simulation.mutation import Edit, Mutant, applied

MORE_SEEDS = 200
"""Tried when the table's seed does not notice its mutant any more: the seeds' worlds change with the code."""

NOT_YET = {"TOMBSTONE", "L7"}
"""Deletion and quarantine: the product has neither."""

PROMISES = {
    *("GAPLESS", "CHAIN", "ONCE", "SAME-KEY-SAME-REQUEST", "EXACT-BASE", "EQUAL", "DURABLE-FIRST", "FENCED"),
    *("ONE-STREAM", "FINAL-AGREES", "N-1", "NO-TRACE", "DEFINITE-FAIL", "ORDER", "OWN-SESSION", "EVICT-SAFE"),
    *("TOMBSTONE", "FAIL-STOP", "BOUNDED", "POISON", "EFFECT-KEY"),
    *(f"L{number}" for number in range(1, 10)),
}


def killed(name: str) -> Kill:
    mutant = MUTANTS[name]
    return first_kill(mutant, range(mutant.seed, mutant.seed + MORE_SEEDS), harms=True)


@pytest.fixture(scope="module")
def kills():
    """Every mutant, run beside each other on every core."""
    with multiprocessing.get_context("spawn").Pool(os.cpu_count() or 1) as pool:
        return {kill.mutant: kill for kill in pool.imap_unordered(killed, MUTANTS)}


@pytest.mark.timeout(900)  # whichever is first waits for all
@pytest.mark.parametrize("name", MUTANTS)
def test_a_product_without_one_rule_is_noticed(kills, name):
    """A check that no fault of the product can fail is not a check."""
    since = MUTANTS[name].seed

    assert kills[name].broken, f"not noticed from seed {since} on; measure again: just sim --mutant {name!r}"


def test_every_promise_is_asserted_by_its_name():
    """So that a failure says which one was broken."""
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py") if path != Path(__file__))

    asserted = {name for names in re.findall(r'Violated\(\s*"([^"]+)"', sources) for name in names.split(", ")}

    assert PROMISES - asserted == NOT_YET


def test_the_page_has_every_mutant():
    """What is not listed was not measured."""
    page = Path("docs/explanation/testing.md").read_text()
    _, _, section = page.partition("## Mutants of the simulation\n")

    listed = re.findall(r"^\| (.+) \| (.+) \| (?:over )?[\d.]+ \|$", section.partition("\n## ")[0], re.MULTILINE)

    assert listed == [(mutant.name, mutant.breaks) for mutant in MUTANTS.values()]


def test_a_mutant_ends_with_its_block():
    """The next test must meet the product again."""
    edits = (
        Edit("store.fence:check_start", "first != turn.message_id", "False"),
        Edit("log.sql:touch_session", "epoch + :raised", "epoch"),
    )
    before = (fence.check_start.__code__, statements("log")["touch_session"])

    with applied(Mutant("of code and statement", breaks="", seed=0, edits=edits)):
        changed = (fence.check_start.__code__, statements("log")["touch_session"])

    assert all(text is not other for text, other in zip(changed, before, strict=True))
    assert (fence.check_start.__code__, statements("log")["touch_session"]) == before


def test_a_mutant_of_a_text_that_is_gone_is_an_error():
    """Else it would be the product itself, and its survival a riddle."""
    mutant = Mutant("of yesterday", breaks="", seed=0, edits=(Edit("store.fence:check_start", "no such text", ""),))

    with pytest.raises(AssertionError, match="bring the mutant up to date"), applied(mutant):
        pass


def test_the_table_names_the_most_frequent_promise_and_the_median():
    """One lucky range says little."""
    name = next(iter(MUTANTS))
    measured = [Kill(name, 3, 1, "ORDER"), Kill(name, 9, 2, "FENCED"), Kill(name, 4, 3, "ORDER"), Kill(name, 9, 4, "")]

    lines = list(table(measured, most=9))

    assert lines[2:] == [f"| {name} | ORDER | 6.5 |"]
