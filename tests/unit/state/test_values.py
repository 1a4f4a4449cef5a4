"""The handler's view: SQL and the mapping. What is kept, what is refused, and when it is said."""

import json
from typing import Any

import apsw
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from satchel import limits
from satchel.errors import StateMisused
from satchel.state.values import State
from tests.unit.state.sessions import Recording

SCHEMA = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)"

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=10
)


# The first text of a run is slow: hypothesis makes its tables of characters.
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text(max_size=10), values, max_size=4))
def test_what_is_set_is_read_by_another_worker(items: dict[str, Any]):
    """Types and order of keys included: repr tells 1 from 1.0 and True."""
    with Recording() as recording:
        recording.turn(lambda session: session.state.update(items))

        copy = recording.copy()
        recording.session = copy
        state = recording.begin().state

        assert sorted((key, repr(state[key])) for key in state) == sorted((key, repr(items[key])) for key in items)
        assert len(state) == len(items)


def test_changes_in_place_are_kept():
    """A cart is read and appended to; nobody assigns it back."""
    with Recording() as recording:
        recording.turn(lambda session: session.state.update(cart=["tea"], deep={"a": [{}]}))

        def work(state: State) -> None:
            state["cart"].append("milk")
            state["deep"]["a"][0]["b"] = 1

        recording.turn(lambda session: work(session.state))

        state = recording.begin().state
        assert state["cart"] == ["tea", "milk"]
        assert state["deep"] == {"a": [{"b": 1}]}


def test_a_value_just_set_stays_live():
    """setdefault gives the object that is kept, as a dict's does."""
    with Recording() as recording:
        recording.turn(lambda session: session.state.setdefault("cart", []).append("tea"))

        assert recording.begin().state["cart"] == ["tea"]


def test_reading_without_changing_writes_nothing():
    """A turn's delta holds what changed, not what was looked at."""
    with Recording() as recording:
        recording.turn(lambda session: session.state.update(cart=["x" * 5000]))

        recorded = recording.turn(lambda session: session.state["cart"])

        assert len(recorded.raw) < 200


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({1, 2}, "state['k'] is a set"),
        ((1, 2), "state['k'] is a tuple"),
        (b"raw", "state['k'] is a bytes"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ({1: "a"}, "the key 1"),
        ([{"a": {"b": object()}}], "state['k'][0]['a']['b'] is a object"),
        ("\ud800", "surrogate"),
        ({"\ud800": 1}, "surrogate"),
        (msgspec.UNSET, "not JSON"),
    ],
)
def test_a_value_that_is_not_json_is_refused_where_it_is_set(value: Any, where: str):
    """The line that is wrong is in the traceback, and the state is as before."""
    with Recording() as recording:
        state = recording.begin().state
        state["k"] = 1

        with pytest.raises(StateMisused) as caught:
            state["k"] = value

        assert where in str(caught.value)
        assert state["k"] == 1


def test_a_value_that_holds_itself_is_refused():
    """It has no end, so it has no text."""
    loop: list[Any] = []
    loop.append(loop)
    with Recording() as recording:
        state = recording.begin().state

        with pytest.raises(StateMisused, match="nested more than"):
            state["k"] = loop


def test_a_value_may_be_nested_as_deep_as_the_bound_and_no_deeper():
    """At the bound and one past it."""

    def nested(depth: int) -> Any:
        return [nested(depth - 1)] if depth else 0

    with Recording() as recording:
        state = recording.begin().state

        state["k"] = nested(limits.JSON_DEPTH_MAX)

        with pytest.raises(StateMisused, match="deep"):
            state["k"] = nested(limits.JSON_DEPTH_MAX + 1)


def test_a_change_in_place_that_is_not_json_fails_the_turn_by_name():
    """Nothing was assigned, so the turn's end is where it is seen; the key is what helps."""
    with Recording() as recording:
        state = recording.begin().state
        state["cart"] = []
        state["cart"].append({1})

        with pytest.raises(StateMisused, match=r"state\['cart'\]\[0\] is a set"):
            recording.finish()

        recording.session.rollback()
        assert not recording.session.is_broken


def test_a_key_is_text():
    """JSON and SQL agree on this."""
    with Recording() as recording:
        state: Any = recording.begin().state

        with pytest.raises(StateMisused, match="str, not int"):
            state[1] = 1
        with pytest.raises(KeyError):
            state[1]
        assert 1 not in state


def test_get_converts_to_the_type_that_is_asked_for():
    """Rows hold plain JSON; a handler wants its own types."""

    class Cart(msgspec.Struct):
        items: list[str]

    with Recording() as recording:
        state = recording.begin().state
        state["cart"] = {"items": ["tea"]}

        assert state.get("cart", type=Cart) == Cart(["tea"])
        assert state.get("none", Cart([]), type=Cart) == Cart([])
        assert state.get("none") is None
        with pytest.raises(msgspec.ValidationError):
            state.get("cart", type=int)


def test_the_mapping_is_a_mapping():
    """pop, del, in, iteration and items behave as a dict's."""
    with Recording() as recording:
        state = recording.begin().state
        state.update(a=1, b=2, c=3)

        assert state.pop("a") == 1
        del state["b"]

        assert dict(state) == {"c": 3}
        assert "a" not in state
        assert state.pop("a", None) is None
        with pytest.raises(KeyError):
            del state["a"]


def test_values_are_plain_rows_of_json():
    """People query exported files."""
    with Recording() as recording:
        state = recording.begin().state
        state["cart"] = {"z": 1, "a": ["é"]}

        row = state.execute("SELECT key, value FROM _satchel_values").one()

        assert row == ("cart", '{"z":1,"a":["é"]}')
        assert json.loads(row["value"]) == state["cart"]


def test_a_rollback_to_a_savepoint_takes_the_mapping_back():
    """The mapping is rows, and must not remember what SQL forgot."""
    with Recording() as recording:
        state = recording.begin().state
        state["cart"] = ["tea"]
        state["cart"].append("milk")
        state.execute("SAVEPOINT s")
        state["cart"].append("rum")
        state["new"] = 1

        state.execute("-- no\nROLLBACK TO s; RELEASE s")

        assert state["cart"] == ["tea", "milk"]
        assert "new" not in state
        assert state.rollbacks == 1


def test_what_is_written_before_a_savepoint_is_ours_to_write():
    """In a copy that is new, that statement is prepared between two of the handler's, who may not write there."""
    with Recording() as recording:
        recording.turn(lambda session: session.state.update(cart=["tea"]))
        recording.session.close()
        recording.session = recording.copy()
        state = recording.begin().state
        state["cart"].append("milk")

        state.execute("SAVEPOINT s; ROLLBACK TO s")

        assert state["cart"] == ["tea", "milk"]
        with pytest.raises(StateMisused, match="belongs to Satchel"):
            state.execute("SAVEPOINT s; UPDATE _satchel_values SET value = 'null'")


def test_rows_answer_by_position_and_by_name():
    """A row is a tuple, and readable."""
    with Recording(SCHEMA) as recording:
        state = recording.begin().state
        state.executemany("INSERT INTO t VALUES (?, ?)", [(1, "x"), (2, "y")])

        rows = state.execute("SELECT a, b AS name FROM t ORDER BY a")

        assert [tuple(row) for row in rows] == [(1, "x"), (2, "y")]
        assert rows[1]["name"] == "y"
        assert dict(rows[0]) == {"a": 1, "name": "x"}
        assert rows[0:1] == [(1, "x")]
        with pytest.raises(KeyError):
            rows[0]["b"]


def test_first_one_and_scalar_say_how_many_rows_there_must_be():
    """A statement that should give one row and gives two is a fault worth hearing of."""
    with Recording(SCHEMA) as recording:
        state = recording.begin().state
        state.execute("INSERT INTO t VALUES (1, 'x'), (2, 'y')")

        assert state.execute("SELECT b FROM t ORDER BY a").first() == ("x",)
        assert state.execute("SELECT b FROM t WHERE a = 9").first() is None
        assert state.execute("SELECT b FROM t WHERE a = :a", {"a": 2}).scalar() == "y"
        for sql in ("SELECT b FROM t", "SELECT b FROM t WHERE a = 9"):
            with pytest.raises(StateMisused, match="not exactly one"):
                state.execute(sql).one()


def test_of_several_statements_the_last_gives_the_rows():
    """Columns are known also when there is no row."""
    with Recording(SCHEMA) as recording:
        rows = recording.begin().state.execute("SELECT 1; INSERT INTO t VALUES (1, 2); SELECT a, b FROM t WHERE a = 9")

        assert (rows.columns, len(rows)) == (("a", "b"), 0)


def test_sql_errors_are_apsws_own_and_leave_the_turn_going():
    """A handler may catch a constraint and carry on."""
    with Recording(SCHEMA) as recording:
        state = recording.begin().state
        state.execute("INSERT INTO t VALUES (1, 2)")

        with pytest.raises(apsw.ConstraintError):
            state.execute("INSERT INTO t VALUES (1, 3)")

        assert state.execute("SELECT b FROM t").scalar() == 2


def test_a_statement_of_ours_is_refused_to_a_handler_that_sends_the_same_text():
    """The statement cache must not carry our permission over."""
    with Recording() as recording:
        state = recording.begin().state
        state.update(k=1, other=2)
        del state["other"]

        with pytest.raises(StateMisused, match="belongs to Satchel"):
            state.execute("DELETE FROM _satchel_values WHERE key = ?", ("k",))


def test_the_state_of_a_turn_that_is_over_refuses_everything():
    """A task that outlives its turn must not write into the next one."""
    with Recording() as recording:
        state = recording.begin().state
        state["cart"] = []
        recording.commit(recording.finish())
        recording.begin()

        for use in (lambda: state.execute("SELECT 1"), lambda: state["cart"], lambda: len(state), lambda: list(state)):
            with pytest.raises(StateMisused, match="turn is over"):
                use()
