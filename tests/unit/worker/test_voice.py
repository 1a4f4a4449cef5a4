"""What is said is text, whatever kind of str it came as."""

import enum

import satchel.testing
from satchel import Turn, Worker


class Accessor(str):
    """A text that can be called, as LangChain's messages have it."""

    __slots__ = ()

    def __call__(self) -> str:
        return str(self)


class Mood(str, enum.Enum):  # noqa: UP042  # a StrEnum would be its value in str(), this is not
    GLAD = "glad"


async def test_a_kind_of_str_is_said_as_the_text_it_is():
    """`return message.text` is what an agent of LangChain does first."""
    worker = Worker("a")

    @worker.on_message
    async def reply(turn: Turn) -> str:
        assert type(await turn.say(Mood.GLAD)) is str
        await turn.say([Accessor("in "), Accessor("pieces")])
        return Accessor("whole")

    async with satchel.testing.session(worker) as session:
        answer = await session.send("hello")

        assert answer.text == "glad\nin pieces\nwhole"
        assert [item.text for item in session.history] == ["hello", "glad", "in pieces", "whole"]
