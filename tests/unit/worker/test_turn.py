"""What a handler can do with its turn: say, call, hand off, and what each leaves in events and history."""

import asyncio

import pytest

import satchel.testing
from satchel.errors import HandlerError, TurnMisused
from satchel.limits import EVENT_BYTES_MAX
from satchel.model import MessageId, SessionId
from satchel.protocol.messages import AttemptName
from satchel.worker import events
from satchel.worker.context import current_turn
from satchel.worker.events import ENVELOPE_BYTES, AttemptEvents
from satchel.worker.worker import Worker


async def run(handler, *, history=True):
    """Run one turn of *handler*; return its answer and the history after it."""
    worker = Worker("a", history=history)
    worker.on_message(handler)
    async with satchel.testing.session(worker) as session:
        answer = await session.send("hello")
        return answer, session.history


def types(answer):
    return [event.type for event in answer.events[1:-1]]


async def pieces(texts):
    for text in texts:
        await asyncio.sleep(0)
        yield text


async def test_a_stream_is_sent_in_pieces_and_recorded_whole():
    """Readers see tokens as they come; the next turn sees one message."""

    async def reply(turn):
        return await turn.say(pieces(["Hel", "", "lo"]))

    answer, history = await run(reply)

    assert types(answer) == ["text_delta", "text_delta", "message", "message"]
    assert [event.text_delta.text for event in answer.events if event.text_delta] == ["Hel", "lo"]
    assert answer.events[1].text_delta.item_id == answer.events[3].message.id
    assert [item.text for item in history] == ["hello", "Hello", "Hello"]


async def test_a_text_is_one_message_without_pieces():
    async def reply(turn):
        assert await turn.say("Hi") == "Hi"

    answer, _ = await run(reply)

    assert types(answer) == ["message"]


async def test_an_async_generator_is_a_handler():
    async def reply(turn):
        yield "You said "
        yield turn.text

    answer, _ = await run(reply)

    assert answer.text == "You said hello"


async def test_a_say_may_be_a_task_of_its_own():
    """Two things at once in a task group is how tools are called in parallel."""

    async def reply(turn):
        async with asyncio.TaskGroup() as group:
            group.create_task(turn.say("one"))
            group.create_task(turn.say(pieces(["two"])))

    answer, _ = await run(reply)

    assert sorted(answer.text.split("\n")) == ["one", "two"]


@pytest.mark.parametrize("said", [7, b"bytes", ["text", 7]])
async def test_what_is_not_text_is_refused(said):
    async def reply(turn):
        await turn.say(said)

    with pytest.raises(HandlerError) as raised:
        await run(reply)

    assert isinstance(raised.value.__cause__, TurnMisused)


async def test_a_tool_call_is_emitted_with_its_output():
    async def weather(city):
        await asyncio.sleep(0)
        return {"city": city, "degrees": 21}

    async def reply(turn):
        return str((await turn.call(weather, city="Bern"))["degrees"])

    answer, history = await run(reply)

    call, output = answer.events[1].function_call, answer.events[2].function_call_output
    assert (call.name, call.arguments) == ("weather", '{"city": "Bern"}')
    assert (output.call_id, output.name, output.output) == (call.call_id, "weather", '{"city": "Bern", "degrees": 21}')
    assert [type(item).__name__ for item in history] == ["Message", "FunctionCall", "FunctionCallOutput", "Message"]


async def test_a_tool_that_raises_shows_its_class_alone_and_goes_on_raising():
    """The events are the caller's: an exception's text may hold a secret."""

    def charge():
        raise LookupError("card 4242")

    async def reply(turn):
        try:
            await turn.call(charge)
        except LookupError:
            return "no luck"

    answer, _ = await run(reply)

    output = answer.events[2].function_call_output
    assert (output.output, output.is_error, answer.text) == ("LookupError", True, "no luck")


async def test_a_call_by_hand_keeps_the_models_call_id():
    async def reply(turn):
        call_id = turn.function_call("lookup", '{"q": 1}', call_id="call_7")
        turn.function_call_output(call_id, "found")
        turn.hand_off("billing", old_agent="desk")
        with pytest.raises(TurnMisused, match="made no function call"):
            turn.function_call_output("call_8", "?")

    answer, _ = await run(reply)

    assert types(answer) == ["function_call", "function_call_output", "agent_handoff"]
    assert answer.events[1].function_call.call_id == "call_7"


async def test_a_call_of_an_earlier_turn_is_answered_by_its_tools_name():
    """A tool that waits for an approval is called in one turn and gives its output in another."""

    async def reply(turn):
        turn.function_call_output("call_6", "approved", name="pay")

    answer, _ = await run(reply)

    output = answer.events[1].function_call_output
    assert (output.call_id, output.name, output.output) == ("call_6", "pay", "approved")


async def test_history_can_be_left_to_the_agent():
    """A framework with a history of its own must not pay for two."""

    async def reply(turn):
        assert len(turn.history) == 0
        return "hi"

    _, history = await run(reply, history=False)

    assert list(history) == []


async def test_the_current_turn_is_at_hand_in_what_a_handler_calls_and_nowhere_else():
    async def reply(turn):
        assert current_turn() is turn
        assert await asyncio.to_thread(current_turn) is turn

    await run(reply)

    with pytest.raises(TurnMisused, match="No turn runs here"):
        current_turn()


async def test_a_turn_that_is_over_cannot_be_used():
    """A task that a handler left behind must not write into the next turn."""
    kept = []

    async def reply(turn):
        kept.append(turn)

    await run(reply)

    with pytest.raises(HandlerError):
        kept[0].state["late"] = 1
    with pytest.raises(Exception, match="over"):
        kept[0].hand_off("late")


# --- bounds -----------------------------------------------------------------------------------


def attempt_events(sent):
    return AttemptEvents(AttemptName(SessionId("s"), MessageId("m"), 1), sent.append)


def test_an_event_at_its_bound_is_sent_and_one_past_it_is_not():
    around = len(b'""') + ENVELOPE_BYTES
    sent = []
    added = attempt_events(sent)

    added.add_piece("i", "x" * (EVENT_BYTES_MAX - around))
    with pytest.raises(TurnMisused, match=str(EVENT_BYTES_MAX)):
        added.add_piece("i", "x" * (EVENT_BYTES_MAX - around + 1))

    assert len(sent) == 1


def test_a_turns_events_are_bounded_in_bytes_and_number(monkeypatch):
    """They are kept in memory until the commit."""
    one = len(b'"x"') + ENVELOPE_BYTES
    monkeypatch.setattr(events, "TURN_EVENTS_BYTES_MAX", 3 * one)
    added = attempt_events([])
    for _ in range(3):
        added.add_piece("i", "x")
    with pytest.raises(TurnMisused, match="bytes"):
        added.add_piece("i", "x")

    monkeypatch.setattr(events, "EVENTS_MAX", 3)
    with pytest.raises(TurnMisused, match="at most 3 events"):
        added.add_piece("i", "x")

    assert len(added) == 3


def test_text_that_is_not_unicode_is_refused_before_it_reaches_the_link():
    with pytest.raises(TurnMisused, match="surrogate"):
        attempt_events([]).add_piece("i", "\ud800")


def test_events_made_while_the_link_is_down_follow_those_before_it():
    sent = []
    added = attempt_events(sent)
    added.add_piece("i", "1")
    added.mute()
    added.add_piece("i", "2")
    assert len(sent) == 1

    added.send_again()
    added.add_piece("i", "3")

    assert [event.index for event in sent] == [1, 1, 2, 3]
