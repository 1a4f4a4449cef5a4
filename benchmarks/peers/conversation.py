"""The conversation that every peer is given: about 1 KB an item as JSON, turns of 2 and 4 items in turn.

The prose is made: words of a made vocabulary, each followed by one of a few others.
200 KB of items as JSON shrink 3.3 times under zstd-3, as English prose does.
"""

import functools
import itertools
import json
import random
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

VOCABULARY: Final = 1500
FOLLOWERS: Final = 40
"""Words that may follow a word, the earlier the likelier."""

TEXT_BYTES: Final = 900
ARGUMENT_BYTES: Final = 850
"""With the names around them, an item of either kind has about 1 KB as JSON."""

_LETTERS: Final = "eeeeeetttttaaaaooooiiinnnssshhhrrrdddlllcuumwfgypbvk"


class Item(msgspec.Struct, frozen=True):
    """One item of the conversation, as every framework has it under a name of its own."""

    kind: Literal["user", "assistant", "call", "output"]
    text: str
    """Of a call: the value of its only argument."""
    call_id: str = ""


Turn = tuple[Item, ...]
"""The user's message, the assistant's last; between them a tool call and its output in every second turn."""


def conversation(seed: int) -> Iterator[Turn]:
    """Yield turns without end, the same ones for each *seed*."""
    random_ = random.Random(seed)  # the same conversation each time
    for number in itertools.count():
        call_id = f"call_{seed:04}_{number:06}"
        said = [Item("user", _prose(random_, TEXT_BYTES)), Item("assistant", _prose(random_, TEXT_BYTES))]
        if number % 2:
            call = Item("call", _prose(random_, ARGUMENT_BYTES), call_id)
            said[1:1] = [call, Item("output", _prose(random_, TEXT_BYTES), call_id)]
        yield tuple(said)


def opening(turns: Iterator[Turn], items: int) -> list[Item]:
    """Return the items of the turns that bring a conversation to *items* items or up to three more."""
    taken: list[Item] = []
    while len(taken) < items:
        taken += next(turns)
    return taken


def as_json(item: Item, item_id: str) -> dict[str, object]:
    """Return *item* as the Responses API writes it: what the OpenAI SDK stores, and the unit of "1 KB"."""
    match item.kind:
        case "call":
            arguments = json.dumps({"query": item.text})
            return {"type": "function_call", "id": item_id, "call_id": item.call_id, "name": "look_up",
                    "arguments": arguments, "status": "completed"}  # fmt: skip
        case "output":
            return {"type": "function_call_output", "call_id": item.call_id, "output": item.text}
        case "assistant":
            content = [{"type": "output_text", "text": item.text, "annotations": []}]
            return {"type": "message", "id": item_id, "role": "assistant", "status": "completed", "content": content}
        case "user":
            return {"role": "user", "content": item.text}


def _prose(random_: random.Random, size: int) -> str:
    words, followers = _language()
    word, said, length = random_.randrange(VOCABULARY), [], 0
    while length < size:
        word = followers[word][int(FOLLOWERS * random_.random() ** 2)]
        said.append(words[word])
        length += len(words[word]) + 1
    return " ".join(said)[:size]


@functools.cache
def _language() -> tuple[list[str], list[list[int]]]:
    """Return the words and, for each, the words that may follow it: the common ones follow often."""
    random_ = random.Random(5)  # the same language each time
    words = ["".join(random_.choices(_LETTERS, k=random_.choice((2, 3, 3, 4, 5, 6, 8)))) for _ in range(VOCABULARY)]
    followers = [[int(VOCABULARY * random_.random() ** 3) for _ in range(FOLLOWERS)] for _ in words]
    return words, followers
