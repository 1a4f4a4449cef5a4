"""Gives functions of the product the code of a changed text, for as long as a block lasts.

A mutant changes the text of a few of the product's functions in memory and gives them
the code of the changed text, so that it holds wherever they were imported. A text that
is not there, or there twice, is an error: the table follows the product.
"""

import ast
import contextlib
import functools
import importlib
import inspect
import types
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec

from satchel.store import statements


class Edit(msgspec.Struct, frozen=True):
    """A text that is replaced in a function (``hub.runner:SessionRunner.run``) or a statement (``log.sql:turn``)."""

    place: str
    old: str
    new: str


class Mutant(msgspec.Struct, frozen=True):
    """One rule left out."""

    name: str
    breaks: str
    """The invariant whose breach is noticed first, in most seeds."""
    seed: int
    """One that notices it."""
    edits: tuple[Edit, ...]
    harm: str = ""
    """The kind of fault that it takes, where most seeds do not have it at the right moment."""


@contextlib.contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """Have the product be *mutant* until the end of the block, in this process."""
    with contextlib.ExitStack() as undone:
        by_module: dict[str, list[Edit]] = defaultdict(list)
        for edit in mutant.edits:
            by_module[edit.place.partition(":")[0]].append(edit)
        for module, edits in by_module.items():
            undone.enter_context(_sql_edited(edits) if module.endswith(".sql") else _code_edited(module, edits))
        yield


# --- functions -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _code_edited(module_name: str, edits: list[Edit]) -> Iterator[None]:
    module = importlib.import_module(f"satchel.{module_name}")
    text = inspect.getsource(module)
    names = list(dict.fromkeys(edit.place.partition(":")[2] for edit in edits))
    for edit in edits:
        text = _edited(text, edit)
    codes = dict(_codes(compile(text, module.__file__ or "", "exec", dont_inherit=True)))
    functions = {name: _function(module, name) for name in names}
    before = {name: function.__code__ for name, function in functions.items()}
    try:
        for name, function in functions.items():
            function.__code__ = codes[name]
        yield
    finally:
        for name, function in functions.items():
            function.__code__ = before[name]


def _edited(text: str, edit: Edit) -> str:
    """Return a module's text with one function edited (pure)."""
    lines = text.splitlines(keepends=True)
    node = _node(ast.parse(text), edit.place.partition(":")[2].split("."))
    before, after = "".join(lines[: node.lineno - 1]), "".join(lines[node.end_lineno :])
    return before + _replaced("".join(lines[node.lineno - 1 : node.end_lineno]), edit) + after


def _node(tree: Any, path: list[str]) -> Any:
    for name in path:
        [tree] = [node for node in tree.body if getattr(node, "name", None) == name]
    return tree


def _replaced(text: str, edit: Edit) -> str:
    if text.count(edit.old) != 1:
        raise AssertionError(
            f"{edit.old!r} is {text.count(edit.old)} times in {edit.place}: bring the mutant up to date"
        )
    return text.replace(edit.old, edit.new)


def _codes(code: types.CodeType) -> Iterator[tuple[str, types.CodeType]]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant.co_qualname, constant
            yield from _codes(constant)


def _function(module: types.ModuleType, name: str) -> types.FunctionType:
    """Return the plain function behind a method, property or decorated function."""
    found: Any = module
    for part in name.split("."):
        found = vars(found)[part]
    found = getattr(found, "fget", None) or getattr(found, "__func__", None) or found
    function: types.FunctionType = inspect.unwrap(found)
    return function


# --- statements ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _sql_edited(edits: list[Edit]) -> Iterator[None]:
    plain = statements.schema

    @functools.cache
    def schema(file: str) -> str:
        text = plain(file)
        for edit in edits:
            if edit.place.partition(":")[0] == f"{file}.sql":
                text = _sql_replaced(text, edit)
        return text

    statements.schema = schema
    try:
        yield
    finally:
        statements.schema = plain


def _sql_replaced(text: str, edit: Edit) -> str:
    before, name, rest = text.partition(f"-- name: {edit.place.partition(':')[2]}\n")
    if not name:
        raise AssertionError(f"there is no statement {edit.place}: bring the mutant up to date")
    statement, end, after = rest.partition("\n\n")
    return before + name + _replaced(statement, edit) + end + after
