"""Each example is an app as the commands load it: a file, and every Worker in it."""

import pathlib
import sys

import pytest

from satchel.worker.load import load_app

APART = {"google_adk_agent"}
"""Whose framework is not installed here: its adapter's tests load it in an environment of their own."""

FOLDER = pathlib.Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(path for path in FOLDER.glob("*.py") if path.stem not in APART)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_an_app_of_one_agent_named_like_its_file(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """The README names agents by these files; an example that no command can load helps nobody."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    workers = load_app(path)
    del sys.modules[path.stem]  # alone: what it imports cannot be imported twice

    assert [worker.name for worker in workers] == [path.stem]
    assert workers[0].handler_name == f"{path.stem}.reply"


def test_there_are_examples():
    assert {path.stem for path in EXAMPLES} >= {"assistant", "concierge"}
