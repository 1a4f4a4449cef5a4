"""Loading an app: what is wrong with the file is said in the words of its author."""

import sys

import pytest

from satchel.errors import InvalidRequest, SchemaRefused
from satchel.worker.load import load_app

ONE = """
from satchel.worker.worker import Worker
{name} = Worker("{name}")

@{name}.on_message
def reply_{name}(turn):
    return turn.text
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(text, name="app_under_test.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_every_worker_of_the_file_is_served_once_in_order(write):
    """One process serves all of them over one link."""
    app = write(ONE.format(name="desk") + ONE.format(name="billing") + "\nalias = desk\n")

    assert [worker.name for worker in load_app(app)] == ["desk", "billing"]


def test_the_files_neighbours_can_be_imported(write):
    """It is how people split an app before they package it."""
    write("GREETING = 'hi'", name="greetings_under_test.py")
    app = write("from greetings_under_test import GREETING\n" + ONE.format(name="desk"))

    assert len(load_app(app)) == 1


def test_a_file_named_like_a_loaded_module_does_not_replace_it(write):
    """An app called json.py must not break the process that loads it."""
    import json  # noqa: PLC0415  # the module that must stay

    load_app(write(ONE.format(name="desk"), name="json.py"))

    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "has no Worker"),
        ("from satchel.worker.worker import Worker\nw = Worker('bare')", "'bare' has no handler"),
        (
            ONE.format(name="desk") + ONE.format(name="other").replace('Worker("other")', 'Worker("desk")'),
            "two workers named 'desk'",
        ),
        ("def f():\n    return 1 / 0\nf()", "ZeroDivisionError"),
        ("import sys\nsys.exit(3)", "SystemExit"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_what_is_wrong_is_named(write, text, said):
    with pytest.raises(InvalidRequest, match=said):
        load_app(write(text))


def test_an_import_error_shows_the_authors_own_lines_only(write):
    """The machinery before them is ours and tells nothing."""
    with pytest.raises(InvalidRequest) as raised:
        load_app(write("def f():\n    return 1 / 0\nf()"))

    assert "app_under_test.py" in raised.value.message
    assert "load.py" not in raised.value.message


def test_a_refused_schema_is_said_as_it_is(write):
    """It names the table and the fix; a traceback would hide them."""
    text = "from satchel.worker.worker import Worker\nw = Worker('a', schema='CREATE TABLE t (x TEXT);')"
    with pytest.raises(SchemaRefused):
        load_app(write(text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidRequest, match=r"no file .*nothing\.py"):
        load_app(tmp_path / "nothing.py")
