"""Declaring an agent: what is wrong is said where it is written."""

import pytest

from satchel.errors import InvalidRequest, NotSupported, SchemaRefused
from satchel.limits import ATTEMPTS_MAX, TURN_TIMEOUT_S
from satchel.model import OnBusy
from satchel.worker.worker import Worker


def test_the_spec_is_what_a_worker_registers():
    """The hub counts timeouts and attempts by it, and routes by the schema numbers."""
    worker = Worker("concierge", migrations=["CREATE TABLE t (id INTEGER PRIMARY KEY) STRICT;"])

    assert (worker.spec.name, worker.spec.schema.number, worker.spec.schema_min) == ("concierge", 2, 1)
    assert (worker.spec.turn_timeout_s, worker.spec.max_attempts) == (TURN_TIMEOUT_S, ATTEMPTS_MAX)
    assert worker.spec.on_busy is OnBusy.QUEUE


def test_a_schema_that_would_lose_rows_is_refused_where_it_is_declared():
    """Not at the first turn, when it is in production."""
    with pytest.raises(SchemaRefused, match="booking"):
        Worker("concierge", schema="CREATE TABLE booking (guest TEXT);")


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "..", 7])
def test_a_name_is_an_id(name):
    with pytest.raises(InvalidRequest, match="agent's name"):
        Worker(name)


@pytest.mark.parametrize(
    "options", [{"turn_timeout_s": 0}, {"turn_timeout_s": float("inf")}, {"max_attempts": 0}, {"max_attempts": 1.5}]
)
def test_a_bound_that_is_none_is_refused(options):
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        Worker("a", **options)


@pytest.mark.parametrize("on_busy", ["interrupt", "steer", "later"])
def test_what_is_not_built_is_refused(on_busy):
    """An option that is accepted and ignored would be found in production."""
    with pytest.raises(NotSupported, match="not supported"):
        Worker("a", on_busy=on_busy)


def test_an_agent_has_exactly_one_handler():
    worker = Worker("a")
    with pytest.raises(InvalidRequest, match="has no handler"):
        _ = worker.handler

    @worker.on_message
    def first(turn):
        return turn.text

    with pytest.raises(InvalidRequest, match=r"two handlers: .*first and .*second"):

        @worker.on_message
        def second(turn):
            return turn.text


def test_a_handler_takes_one_turn():
    """A wrong signature would fail each turn, and each one of them late."""
    with pytest.raises(InvalidRequest, match="does not take one argument"):
        Worker("a").on_message(lambda: None)
    with pytest.raises(InvalidRequest, match="stands above a function"):
        Worker("a").on_message("reply")
