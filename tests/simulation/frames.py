"""What the hub and one worker say to each other, watched as it is said."""

from collections import Counter
from collections.abc import Callable

from satchel.model import PayloadKind, SessionId, StateName
from satchel.protocol.messages import AttemptName, Committed, Failure, FailureCode, Frame, NeedSnapshot, Request, Result
from tests.simulation.checks import History, Violated


class FrameWatch:
    """One worker's requests, and whether its answers keep to them. EXACT-BASE, DURABLE-FIRST, FENCED, L4, L5."""

    def __init__(self, history: History, broken: Callable[[Violated], None]) -> None:
        self._history = history
        self._broken = broken
        self.requests: dict[AttemptName, Request] = {}
        self._asked_whole: set[AttemptName] = set()
        self._not_found: Counter[AttemptName] = Counter()
        self._ran: dict[SessionId, int] = {}

    def hears(self, frame: Frame) -> None:
        if isinstance(frame, Request):
            self.requests[frame.attempt] = frame
        if isinstance(frame, NeedSnapshot):
            self._asked_whole.add(frame.attempt)
        if isinstance(frame, Committed) and not self._history.is_committed(frame.attempt):
            self._broken(Violated("DURABLE-FIRST", "a worker is told of a commit that is not", frame.attempt))

    def says(self, frame: Frame) -> None:
        match frame:
            case Failure(code=FailureCode.SESSION_STATE_NOT_FOUND):
                self._did_not_find(frame.attempt)
            case Result():
                self._made(frame)

    def runs(self, name: AttemptName, state: StateName) -> None:
        """Hear that a handler starts on *state*.

        EXACT-BASE: it is the one that the request names. FENCED: in one process,
        attempts of a session start in the order of epochs.
        """
        if state != self.requests[name].base:
            self._broken(Violated("EXACT-BASE", name, state, self.requests[name].base))
        if name.epoch <= self._ran.get(name.session_id, -1):
            self._broken(Violated("FENCED", "an earlier attempt starts after a later one", name, self._ran))
        self._ran[name.session_id] = name.epoch

    def _did_not_find(self, name: AttemptName) -> None:
        """L4: a worker lacks a state once, and a whole one always suffices."""
        if name.session_id in self._history.rotten:
            return
        self._not_found[name] += 1
        chain = self.requests[name].chain
        if self._not_found[name] > 1 or (chain and chain[0].payload.kind is PayloadKind.SNAPSHOT):
            self._broken(Violated("L4", "a whole state did not suffice", name, self._not_found[name]))

    def _made(self, result: Result) -> None:
        """L5: a version is sent whole when it is the first, the schema changed or the hub asked; else as a delta."""
        request = self.requests[result.attempt]
        is_asked = request.wants_snapshot or result.attempt in self._asked_whole
        is_new = result.schema is not None
        if request.schema is None and not is_new:
            self._broken(Violated("L5", "a first version does not name its schema", result.attempt))
        if result.payload.kind is PayloadKind.SNAPSHOT and not (is_asked or is_new):
            self._broken(Violated("L5", "a whole state where a delta would do", result.attempt, result.name.version))
