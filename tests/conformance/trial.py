"""The trial of a deliberately broken store: it must fail the clause that names what it breaks."""

import inspect
import itertools
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import pytest

from satchel.errors import SatchelError
from satchel.store.base import Store
from satchel.store.files import StoreLock
from satchel.store.sqlite import SqliteLog, SqliteStore
from satchel.store.sqlite_objects import SqliteObjects
from satchel.testing.conformance import StoreConformance
from tests.conformance.crash import Crasher

Patch = pytest.MonkeyPatch
Mutation = Callable[[SqliteLog, SqliteObjects, Patch], None]
Fails = Callable[..., Callable[[Mutation], Mutation]]


def registry() -> tuple[list[tuple[Mutation, str]], Fails]:
    """Return a list of mutants, and the decorator that enters one with the clauses it must fail."""
    mutants: list[tuple[Mutation, str]] = []

    def fails(*clauses: str) -> Callable[[Mutation], Mutation]:
        def register(mutation: Mutation) -> Mutation:
            mutants.extend((mutation, clause) for clause in clauses)
            return mutation

        return register

    return mutants, fails


def edit(log: SqliteLog | SqliteObjects, statement: str, old: str, new: str) -> None:
    """Break one statement."""
    assert old in log._sql[statement]
    log._sql[statement] = log._sql[statement].replace(old, new)


async def assert_caught(mutation: Mutation, clause: str, folder: Path, patch: Patch) -> None:
    """Assert that a broken store fails *clause*."""
    with pytest.raises((AssertionError, pytest.fail.Exception, SatchelError)):
        await run_clause(clause, folder, lambda store: mutation(*store._parts, patch))


async def assert_passed(clauses: Iterable[str], folder: Path) -> None:
    """Let the store as it is pass *clauses*."""
    for number, clause in enumerate(sorted(clauses)):
        await run_clause(clause, folder / str(number), lambda _store: None)


class Stores:
    """Opens the same store, broken, over and over."""

    def __init__(self, folder: Path, mutate: Callable[[SqliteStore], None]) -> None:
        folder.mkdir(parents=True)
        self._path = folder / "store.db"
        self._mutate = mutate
        self._now_ms = itertools.count(1_000_000)
        self._opened: list[Store] = []

    async def open(self) -> Store:
        store = SqliteStore(self._path, StoreLock.take(self._path, holder=""), now_ms=lambda: next(self._now_ms))
        self._mutate(store)
        await store.open()
        self._opened.append(store)
        return store

    async def close(self) -> None:
        for store in self._opened:
            await store.close()


async def run_clause(clause: str, folder: Path, mutate: Callable[[SqliteStore], None]) -> None:
    """Run one clause as pytest would, with a fresh store; one with a crash in it for each kind of crash."""
    test = getattr(StoreConformance(), clause)
    parameters = inspect.signature(test).parameters
    if "crash" in parameters:
        for kind in ("killed", "power lost"):
            await run_with_crashes(test, folder / kind, mutate, everything=kind == "killed")
        return
    stores = Stores(folder / "store", mutate)
    try:
        await (test(opens=stores.open) if "opens" in parameters else test(store=await stores.open()))
    finally:
        await stores.close()


async def run_with_crashes(
    test: Callable[..., Awaitable[None]], folder: Path, mutate: Callable[[SqliteStore], None], *, everything: bool
) -> None:
    stores = Stores(folder, mutate)
    crasher = Crasher(folder, everything=everything)
    try:
        await test(opens=stores.open, crash=crasher.crash)
    finally:
        await stores.close()
        crasher.close()
