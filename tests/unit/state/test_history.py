"""The conversation: items in order, read as they were written, at a cost that does not grow."""

import msgspec
import pytest

from satchel.errors import StateMisused
from satchel.model import AgentHandoff, Content, FunctionCall, FunctionCallOutput, Message
from satchel.state import history as histories
from satchel.state.history import History, HistoryItem
from tests.unit.state.sessions import Recording

ITEMS: tuple[HistoryItem, ...] = (
    Message(id="1", content=(Content("hi"), Content("é\0")), created_at="t1", role="USER"),
    FunctionCall(id="2", call_id="c", name="book", arguments='{"a":1}', created_at="t2"),
    FunctionCallOutput(id="3", call_id="c", name="book", output="no", created_at="t3", is_error=True),
    AgentHandoff(id="4", new_agent_id="desk", created_at="t4"),
    Message(id="5", content=(Content("done"),), created_at="t5"),
)


def say(history: History, *items: HistoryItem) -> None:
    for item in items:
        history.append(item)


def message(text: str) -> Message:
    return Message(id=text, content=(Content(text),), created_at="t")


def test_every_kind_of_item_comes_back_on_another_worker():
    """Types, order and contents are those that were said."""
    with Recording() as recording:
        recording.turn(lambda session: say(session.history, *ITEMS))

        recording.session.close()
        recording.session = recording.copy()

        assert tuple(recording.begin().history) == ITEMS


def test_it_is_a_sequence():
    """Length, positions from both ends, slices in any step."""
    with Recording() as recording:
        history = recording.begin().history
        items = [message(str(number)) for number in range(700)]
        say(history, *items)

        assert len(history) == 700
        assert list(history) == items
        assert (history[0], history[-1], history[699]) == (items[0], items[-1], items[699])
        for part in (slice(5, 9), slice(None, None, 100), slice(-3, None), slice(9, 2, -3), slice(5, 5)):
            assert history[part] == items[part]
        assert history.last(2) == items[-2:]
        assert history.last(0) == []
        assert history.last(1000) == items
        for index in (700, -701):
            with pytest.raises(IndexError):
                history[index]


def test_an_empty_conversation_is_empty():
    """The first turn sees no history."""
    with Recording() as recording:
        history = recording.begin().history

        assert (len(history), list(history), history.last(5)) == (0, [], [])


def test_a_turns_delta_does_not_grow_with_the_conversation():
    """One row an item: appending to a long conversation costs what it costs in a short one."""
    with Recording() as recording:
        recording.turn(lambda session: say(session.history, message("a")))
        short = recording.turn(lambda session: say(session.history, message("b")))
        recording.turn(lambda session: say(session.history, *(message("x") for _ in range(2000))))

        long = recording.turn(lambda session: say(session.history, message("b")))

        assert len(long.raw) == len(short.raw)


def test_what_was_said_survives_a_rollback_to_a_savepoint():
    """The caller has it on the screen already."""
    with Recording() as recording:
        session = recording.begin()
        say(session.history, message("a"))
        session.state.execute("SAVEPOINT s")
        say(session.history, message("b"))
        session.state.execute("ROLLBACK TO s")
        say(session.history, message("c"))
        session.state.execute("ROLLBACK TO s; RELEASE s")

        assert [item.id for item in session.history] == ["a", "b", "c"]


def test_only_items_that_are_asked_for_are_parsed(monkeypatch: pytest.MonkeyPatch):
    """Parsing a long conversation is most of what opening it would cost; a model is shown the end of it."""
    parsed: list[str] = []

    class Counting:
        def decode(self, content: str) -> HistoryItem:
            item = msgspec.json.decode(content, type=Message)
            parsed.append(item.id)
            return item

    with Recording() as recording:
        recording.turn(lambda session: say(session.history, *(message(str(number)) for number in range(10_000))))
        monkeypatch.setattr(histories, "_DECODERS", {"message": Counting()})
        recording.session.close()
        recording.session = recording.copy()
        history = recording.begin().history

        for read, ids in (
            (lambda: len(history), []),
            (lambda: history.last(20), [str(number) for number in range(9980, 10_000)]),
            (lambda: history[-1], ["9999"]),
            (lambda: history[5:9000:2000], ["5", "2005", "4005", "6005", "8005"]),
            (lambda: next(iter(history)), ["0"]),
            (lambda: next(reversed(history)), ["9999"]),
        ):
            parsed.clear()
            read()
            assert parsed == ids


def test_the_rows_say_whose_turn_they_are_of():
    """People query exported files: the columns are documented."""
    with Recording() as recording:
        session = recording.begin()
        say(session.history, ITEMS[0], ITEMS[1])

        rows = session.state.execute(
            "SELECT position, item_id, type, role, message_id, created_at FROM _satchel_history"
        )

        assert list(rows) == [
            (1, "1", "message", "USER", "m1", "t1"),
            (2, "2", "function_call", None, "m1", "t2"),
        ]


def test_the_history_of_a_turn_that_is_over_refuses_everything():
    """A task that outlives its turn must not speak in the next one."""
    with Recording() as recording:
        history = recording.begin().history
        recording.session.rollback()
        recording.begin()

        for use in (lambda: len(history), lambda: list(history), lambda: history.append(ITEMS[0])):
            with pytest.raises(StateMisused, match="turn is over"):
                use()
