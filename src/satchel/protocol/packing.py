"""Fewer, larger frames on the wire: pieces of text that meet become one (pure)."""

from collections.abc import Iterable
from typing import Final

from satchel.limits import PACKED_BYTES_MAX
from satchel.protocol.messages import AttemptName, Event, Failure, Pieces, Result, WorkerFrame

_MERGED_LENGTH_MAX: Final = PACKED_BYTES_MAX // 4
"""Characters of a merged frame: one has up to four bytes. A longer piece travels alone."""

_PIECE_LENGTH: Final = 8
"""What a piece counts for beside its text."""


def merged(frames: Iterable[WorkerFrame]) -> list[WorkerFrame]:
    """Return *frames* with consecutive pieces of a message in one frame.

    What an attempt says keeps its order and its numbers, and is not held back behind
    other attempts: a piece joins those of its message that stand further ahead.
    """
    out: list[WorkerFrame | _Run] = []
    runs: dict[AttemptName, _Run] = {}
    for frame in frames:
        if isinstance(frame, Pieces):
            run = runs.get(frame.attempt)
            if run is None or not run.took(frame):
                run = runs[frame.attempt] = _Run(frame)
                out.append(run)
            continue
        if isinstance(frame, Event | Result | Failure):
            runs.pop(frame.attempt, None)
        out.append(frame)
    return [each.frame() if isinstance(each, _Run) else each for each in out]


class _Run:
    """Pieces that follow each other."""

    def __init__(self, first: Pieces) -> None:
        self._first = first
        self._texts = list(first.texts)
        self._length = _length(first)

    def took(self, more: Pieces) -> bool:
        """Append *more* if it follows and there is room."""
        length = self._length + _length(more)
        is_next = more.index == self._first.index + len(self._texts) and more.item_id == self._first.item_id
        if not is_next or length > _MERGED_LENGTH_MAX:
            return False
        self._texts += more.texts
        self._length = length
        return True

    def frame(self) -> Pieces:
        first = self._first
        return Pieces(first.attempt, first.index, first.item_id, tuple(self._texts))


def _length(frame: Pieces) -> int:
    return sum(map(len, frame.texts)) + _PIECE_LENGTH * len(frame.texts)
