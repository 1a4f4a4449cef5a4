"""Runs one session's turns, one after the other, each from seat to commit.

A turn's path: wait for a worker with room, start (the store gives epoch and base),
plan and dispatch, collect events, check the result, commit, tell. Every wait also
ends when the worker is lost, the time is up, or somebody cancels. What is durable is
the store's; a runner can vanish at any line and another takes its session up again.
"""

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, assert_never

import msgspec

from satchel.clock import Clock
from satchel.errors import (
    AttemptsExhausted,
    Cancelled,
    CorruptPayload,
    Fenced,
    HandlerError,
    InternalError,
    NoWorker,
    PeerViolation,
    SatchelError,
    StateError,
    StateTooLarge,
    StoreUnavailable,
    TurnRefused,
    TurnTimeout,
)
from satchel.hub.commit import check_result, left_schema, rests_inline
from satchel.hub.fleet import Fleet, Held, Member, Need
from satchel.hub.settings import HubSettings
from satchel.hub.shipping import Way, need_of, way_to_head
from satchel.hub.stream import TurnStream
from satchel.hub.telemetry import Telemetry
from satchel.limits import ATTEMPTS_MAX, CHAIN_BYTES_MAX, INLINE_BYTES_MAX, TURN_TIMEOUT_S
from satchel.model import (
    AgentSpec,
    CommittedState,
    Complete,
    ErrorBody,
    Link,
    MessageId,
    PayloadKind,
    SessionKey,
    Start,
    TurnReport,
    TurnStatus,
    canonical_json,
)
from satchel.protocol.messages import (
    AttemptName,
    Cancel,
    Committed,
    Event,
    Failure,
    FailureCode,
    NeedSnapshot,
    Pieces,
    Release,
    Request,
    Result,
)
from satchel.store.base import Commit, Session, Started, Store, StoredEvents, StoredPayload, Turn
from satchel.store.events import load_events

logger = logging.getLogger("satchel.hub")

STORE_RETRY_S = 0.1
STORE_RETRY_MAX_S = 5.0
"""How often a runner asks a store that does not answer."""


SENT_AGAIN = "the message was sent again"
"""Why a message's first start since it was sent drops what earlier starts said."""

EPOCHS_SKIPPED = 1
"""A session has at most one attempt whose start was never durable, and its epoch was the next one."""


class Lost(msgspec.Struct, frozen=True):
    """The worker is gone, or gave the attempt up."""

    reason: str
    turn: Turn


class Ended(msgspec.Struct, frozen=True):
    """Somebody ended the turn in the store."""


class TimedOut(msgspec.Struct, frozen=True):
    """The attempt has had its time."""


Signal = Result | Failure | Lost | Ended | TimedOut
Written = TypeVar("Written")


class Phase(enum.Enum):
    """Where an attempt is, as far as its frames tell."""

    UNSENT = enum.auto()
    """The worker does not know it: nothing of it will ever be said."""
    RUNNING = enum.auto()
    PENDING = enum.auto()
    """Its result is here, and waits on the worker for what becomes of it."""
    OVER = enum.auto()
    """The worker has forgotten it."""


class Attempt:
    """One start of a turn on one worker, as the runner sees it."""

    def __init__(self, started: Started, member: Member, *, start: Start, sent_bytes: int) -> None:
        turn = started.turn
        if turn.epoch is None:
            raise InternalError("A started turn has no epoch.")
        self.name = AttemptName(turn.key.session_id, turn.message_id, turn.epoch)
        self.started = started
        self.member = member
        self.start = start
        self.sent_bytes = sent_bytes
        self.handler_ms = 0.0
        self.phase = Phase.UNSENT


class Begun(msgspec.Struct, frozen=True):
    """A turn that was started in the store, and the worker with a slot for it."""

    started: Started
    member: Member
    way: "asyncio.Task[Way] | None" = None
    """The links that the worker needs, being read since before the start was durable."""

    def give_back(self, fleet: Fleet) -> None:
        """Make nothing of it: somebody else has the turn, or it was ended."""
        self.drop_way()
        fleet.unreserve(self.member)

    def drop_way(self) -> None:
        if self.way is not None:
            self.way.cancel()


class Services(Protocol):
    """What a runner needs of its hub."""

    store: Store
    fleet: Fleet
    settings: HubSettings
    telemetry: Telemetry
    clock: Clock

    def agent(self, key: SessionKey, name: str) -> AgentSpec | None: ...
    def wants_digest(self, session: Session) -> bool: ...
    def wants_snapshot(self, key: SessionKey) -> bool: ...
    def damaged(self, key: SessionKey) -> None: ...
    def committed(self, session: Session) -> None: ...


class Following(msgspec.Struct, frozen=True):
    """A turn that is being started in the write that ends the one before it, and the worker with a slot for it."""

    turn: Turn
    member: Member
    starting: asyncio.Future[Started]


class Adoption:
    """The attempt that a worker may bring back, and the wait for it."""

    def __init__(self, started: Started) -> None:
        self.started = started
        self.is_over = asyncio.Event()


class SessionRunner:
    """The unfinished turns of one session, in order, and the one that runs."""

    def __init__(self, key: SessionKey, hub: Services) -> None:
        self.key = key
        self.streams: dict[MessageId, TurnStream] = {}
        self.attempt: Attempt | None = None
        self._hub = hub
        self._log = hub.store.log
        self._waiting: deque[Turn] = deque()
        self._begun: dict[MessageId, Begun] = {}
        self._current: Turn | None = None
        self._signals: asyncio.Queue[Signal] = asyncio.Queue()
        self._adoption: Adoption | None = None
        self._following: Following | None = None

    # --- what others tell it ---------------------------------------------------------------

    def enqueue(self, turn: Turn, begun: Begun | None = None) -> TurnStream:
        """Take a queued or running turn, by its place in the session's order. Idempotent.

        *begun* comes with a turn that was started as it was admitted.
        """
        stream = self.streams.get(turn.message_id)
        if stream is None:
            is_taken_up = turn.starts > turn.starts_before  # another hub accepted it, and is gone
            waited_ms = self._hub.clock.now_ms() - turn.accepted_at_ms if is_taken_up else 0
            stream = self.streams[turn.message_id] = TurnStream(
                turn, waited_ms=max(waited_ms, 0), clock=self._hub.clock
            )
            self._insert(turn)
            if begun is not None:
                self._begun[turn.message_id] = begun
        elif begun is not None:  # somebody asked for the message and took it up in between
            begun.give_back(self._hub.fleet)
        return stream

    def dispatch_ahead(self, started: Started, member: Member, way: Way) -> None:
        """Dispatch a turn before anybody hears of it, perhaps while its start is being written: a new runner's first.

        What the worker says of it is taken, but nobody may see it, and no commit is
        made, before the start is durable: then ``run``, else ``give_up``.
        """
        turn = started.turn
        self.streams[turn.message_id] = TurnStream(turn, clock=self._hub.clock)
        self._waiting.append(turn)
        self._begun[turn.message_id] = Begun(started, member)
        self.attempt = Attempt(started, member, start=way.start, sent_bytes=0)
        self._hub.fleet.occupy(member, self.attempt.name)
        self._send_request(self.attempt, way.links)

    def give_up(self) -> None:
        """Stop what was dispatched ahead: its start came to nothing."""
        self._stop_attempt("its start was not written")

    def _insert(self, turn: Turn) -> None:
        behind = [other for other in self._waiting if other.place > turn.place]
        for other in behind:
            self._waiting.remove(other)
        self._waiting.extend([turn, *behind])

    def adopt(self, member: Member, name: AttemptName) -> bool:
        """Take back an attempt that outlived the hub that started it, if it is the current one.

        Its frames are taken from here on.
        """
        adoption = self._adoption
        if adoption is None or adoption.is_over.is_set():
            return False
        turn = adoption.started.turn
        if (turn.message_id, turn.epoch) != (name.message_id, name.epoch):
            return False
        self.attempt = Attempt(adoption.started, member, start=Start.WARM, sent_bytes=0)
        self.attempt.phase = Phase.RUNNING
        adoption.is_over.set()
        return True

    def receive(self, member: Member, frame: Event | Pieces | Result | Failure) -> bool:
        """Take a frame of the current attempt, and tell whether it was one; any other attempt's is ignored.

        Raises ``PeerViolation``.
        """
        attempt = self.attempt
        if attempt is None or attempt.member is not member or attempt.name != frame.attempt:
            return False
        stream = self.streams[attempt.name.message_id]
        match frame:
            case Pieces():
                if attempt.phase is Phase.RUNNING:
                    stream.add_pieces(frame.index, frame.item_id, frame.texts)
                return True
            case Event():
                if attempt.phase is Phase.RUNNING:
                    stream.add(frame.index, frame.item)
                return True
            case Result():
                if frame.events != stream.event_count:
                    raise PeerViolation(f"A result of {frame.events} events follows {stream.event_count}.")
                attempt.phase = Phase.PENDING
            case Failure():
                attempt.phase = Phase.OVER
        self._signals.put_nowait(frame)
        return True

    def lost(self, member: Member) -> None:
        """Hear that a worker's link is gone."""
        if self.attempt is not None and self.attempt.member is member:
            self._signals.put_nowait(Lost("the worker was lost", self.attempt.started.turn))

    def ended(self, turn: Turn) -> None:
        """Hear that *turn* has ended in the store: stop it if it runs, drop it if it waits and was not committed."""
        if self._current is not None and self._current.message_id == turn.message_id:
            self._signals.put_nowait(Ended())
            if self._adoption is not None:
                self._adoption.is_over.set()
            return
        if turn.status is TurnStatus.COMMITTED:
            return  # its row was old when it was taken up; its events are in the store, and told when it is its turn
        for waiting in list(self._waiting):
            if waiting.message_id == turn.message_id:
                self._waiting.remove(waiting)
                self._give_back_seat(turn.message_id)
                self._tell_end(turn)

    def _give_back_seat(self, message_id: MessageId) -> None:
        begun = self._begun.pop(message_id, None)
        if begun is None:
            return
        if self.attempt is not None and self.attempt.name.message_id == message_id:
            self._stop_attempt("the turn was ended")  # it was dispatched ahead
            self._let_go()
        else:
            begun.give_back(self._hub.fleet)

    # --- one turn after the other -----------------------------------------------------------

    async def run(self) -> None:
        """Run until no turn is left."""
        try:
            while self._waiting:
                self._current = self._waiting.popleft()
                await self._run_current(self._current)
                self._current = None
                self._let_go()
                await self._take_following()
        finally:
            if self._following is not None:
                self._following.starting.cancel()

    def _start_following(self, member: Member) -> None:
        """Start the turn that waits behind the current one, on the same worker, if that has room.

        To be called right before the write that ends the current turn: the store takes
        both in this order, and makes them one write. If the first comes to nothing, so
        does the start, since one turn of a session runs at a time.
        """
        assert self._following is None, "a turn ends once"
        turn = self._waiting[0] if self._waiting else None
        if turn is None or turn.status is not TurnStatus.QUEUED or self._is_exhausted(turn):
            return
        if self._hub.fleet.seat_at(member):
            starting = self._log.start(self.key, turn.message_id, skip=EPOCHS_SKIPPED)
            self._following = Following(turn, member, asyncio.ensure_future(starting))

    async def _take_following(self) -> None:
        """Begin the turn that was started behind the last one; if it was not, it takes the longer way."""
        following, self._following = self._following, None
        if following is None:
            return
        try:
            started = await following.starting
        except SatchelError:  # it is looked at again when it is its turn
            started = None
        if started is None or following.turn not in self._waiting:  # it was ended meanwhile
            self._hub.fleet.unreserve(following.member)
            return
        self._waiting[self._waiting.index(following.turn)] = started.turn
        self._begun[started.turn.message_id] = Begun(started, following.member)
        self.streams[started.turn.message_id].restart(started.turn.starts, SENT_AGAIN)

    async def _run_current(self, turn: Turn) -> None:
        """Run a turn to its end. A store that does not answer is asked again, for ever."""
        delay_s = STORE_RETRY_S
        while True:
            try:
                if delay_s > STORE_RETRY_S:
                    turn = await self._log.turn(self.key, turn.message_id)
                await self._run_turn(turn)
            except StoreUnavailable:
                logger.warning("the store does not answer", extra={"session_id": self.key.session_id})
                self._stop_attempt("the store does not answer")
                self._let_go()
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, STORE_RETRY_MAX_S)
            except StateError as error:
                self._hub.damaged(self.key)
                logger.error(  # noqa: TRY400  # what is stored is damaged: a traceback adds nothing
                    "a stored chain is damaged", extra={"session_id": self.key.session_id, "error": str(error)}
                )
                await self._end_by_fault(turn, _damaged(error))
                return
            except Exception:  # a fault of ours ends this turn, not the session or the hub
                logger.exception("a turn failed in the hub", extra={"session_id": self.key.session_id})
                await self._end_by_fault(turn, InternalError())
                return
            else:
                return

    async def _run_turn(self, turn: Turn) -> None:
        """Bring one turn to its end, over as many attempts as it takes; or back to its place behind others."""
        reason = SENT_AGAIN
        begun = self._begun.pop(turn.message_id, None)
        while not turn.status.is_final:
            await self._take_following()  # it must not keep the slot that this one needs
            if turn.status is TurnStatus.QUEUED and self._waiting and self._waiting[0].place < turn.place:
                self._insert(turn)
                return
            if begun is not None:
                outcome, begun = await self._attempt(begun), None
            elif turn.status is TurnStatus.RUNNING:
                outcome = await self._run_adopted(turn)
            elif self._is_exhausted(turn):
                outcome = await self._fail(turn, AttemptsExhausted(attempts=turn.starts))
            else:
                outcome = await self._run_started(turn, reason)
            if isinstance(outcome, Turn):
                turn = outcome
            else:
                reason = outcome.reason
                self._hub.telemetry.restarts.labels(turn.agent).inc()
                turn = await self._requeue(outcome)
        await self._tell_stored_end(turn)

    def _is_exhausted(self, turn: Turn) -> bool:
        spec = self._hub.agent(self.key, turn.agent)
        return turn.starts - turn.starts_before >= (spec.max_attempts if spec is not None else ATTEMPTS_MAX)

    async def _requeue(self, lost: Lost) -> Turn:
        """Put a lost attempt's turn back in its place; a turn ended meanwhile stays ended."""
        self._stop_attempt(lost.reason)
        self._let_go()
        turn = lost.turn
        assert turn.epoch is not None, "what was lost ran"
        try:
            return await self._log.requeue(self.key, turn.message_id, turn.epoch)
        except Fenced:
            return await self._log.turn(self.key, turn.message_id)

    def _stop_attempt(self, reason: str) -> None:
        """Have the worker stop the current attempt; if it does not know of it, free the slot here."""
        attempt = self.attempt
        if attempt is None:
            return
        if attempt.phase in {Phase.RUNNING, Phase.PENDING}:
            attempt.member.send(Cancel(attempt.name, reason=reason))
        else:
            self._hub.fleet.vacate(attempt.member, attempt.name)

    def _let_go(self) -> None:
        """Hear no more of the current attempt."""
        self.attempt = None
        self._signals = asyncio.Queue()

    async def _run_adopted(self, turn: Turn) -> "Turn | Lost":
        """Wait for a worker that still runs this turn's attempt, and follow it."""
        self._adoption = Adoption(Started(turn=turn, session=await self._log.session(self.key)))
        try:
            async with asyncio.timeout(self._hub.settings.adopt_s):
                await self._adoption.is_over.wait()
        except TimeoutError:
            pass
        finally:
            self._adoption = None
        if self.attempt is None:
            return Lost("no worker brought the attempt back", turn)
        return await self._collect(self.attempt)

    async def _run_started(self, turn: Turn, reason: str) -> "Turn | Lost":
        """Start a queued turn on a worker with room, and follow the attempt; *reason* is told if it is a restart."""
        need = await need_of(await self._log.session(self.key), fleet=self._hub.fleet, log=self._log)
        member = self._hub.fleet.seat_now(need)
        if member is None:
            turn = await self._with_deadline(turn)
            if turn.status is not TurnStatus.QUEUED:
                return turn
            member = await self._wait_for_seat(turn, need)
        if member is None and not self._signals.empty():
            return await self._log.turn(self.key, turn.message_id)
        if member is None:
            return await self._fail(turn, self._no_worker(turn))
        started = await self._start(turn, member)
        if started is None:
            return await self._log.turn(self.key, turn.message_id)
        self.streams[turn.message_id].restart(started.turn.starts, reason)
        return await self._attempt(Begun(started, member))

    async def _with_deadline(self, turn: Turn) -> Turn:
        """Give a turn until when it waits for a worker, unless it has it; return it as it stands."""
        deadline_ms = self._hub.clock.now_ms() + int(1000 * self._hub.settings.worker_wait_s)
        return await self._log.wait_for_worker(self.key, turn.message_id, deadline_ms)

    async def _wait_for_seat(self, turn: Turn, need: Need) -> Member | None:
        """Reserve a slot. None: the time is up, or a signal came, which stays."""
        assert turn.worker_deadline_ms is not None, "a turn that waits has its deadline"
        left_s = (turn.worker_deadline_ms - self._hub.clock.now_ms()) / 1000
        seat = asyncio.create_task(self._hub.fleet.seat(need))
        signal = asyncio.create_task(self._signals.get())
        member = None
        try:
            await asyncio.wait({seat, signal}, timeout=max(left_s, 0), return_when=asyncio.FIRST_COMPLETED)
            if signal.done():
                self._signals.put_nowait(signal.result())
            elif seat.done():
                member = seat.result()
        finally:
            signal.cancel()
            if member is None and seat.done() and not seat.cancelled():
                self._hub.fleet.unreserve(seat.result())
            seat.cancel()
        return member

    def _no_worker(self, turn: Turn) -> NoWorker:
        serving = [member for member in self._hub.fleet.members(self.key.tenant) if turn.agent in member.agents]
        state = "all are at their slots or serve another schema" if serving else "none is connected"
        return NoWorker(f"No worker with room for agent {turn.agent!r} came in time: {state}.", agent=turn.agent)

    async def _start(self, turn: Turn, member: Member) -> Started | None:
        """Start the turn in the store. None: it was ended while it waited, or others come first."""
        try:
            started = await self._log.start(self.key, turn.message_id, skip=EPOCHS_SKIPPED)
        except Fenced:
            self._hub.fleet.unreserve(member)
            await self._take_all()
            return None
        except BaseException:
            self._hub.fleet.unreserve(member)
            raise
        self._current = started.turn
        return started

    async def _take_all(self) -> None:
        """Take what the store has of this session: an admission whose outcome was unknown may have been made."""
        for turn in await self._log.unfinished():
            if turn.key == self.key:
                self.enqueue(turn)

    # --- one attempt -----------------------------------------------------------------------

    async def _attempt(self, begun: Begun) -> "Turn | Lost":
        """Dispatch, unless that was done, and follow one attempt."""
        if self.attempt is not None:  # dispatched ahead
            return await self._collect(self.attempt)
        started, member = begun.started, begun.member
        self.attempt = attempt = Attempt(started, member, start=Start.NEW, sent_bytes=0)
        self._hub.fleet.occupy(member, attempt.name)
        if not (self._hub.fleet.is_member(member) and member.serves(started.turn.agent, started.session.schema)):
            begun.drop_way()  # it was lost, or the session migrated, between its reservation and here
            return Lost("the worker was lost", started.turn)
        await self._dispatch(attempt, begun.way)
        return await self._collect(attempt)

    async def _dispatch(self, attempt: Attempt, way: "asyncio.Task[Way] | None" = None) -> None:
        """Send the request with the cheapest form of the state, by *way* if it is being read already."""
        if way is not None:
            found = await way
        else:
            held = attempt.member.held.get(self.key.session_id)
            found = await way_to_head(self._hub.store, attempt.started.session, held.name if held else None)
        attempt.start = found.start
        self._send_request(attempt, found.links)

    def _send_request(self, attempt: Attempt, chain: tuple[Link, ...]) -> None:
        """Send the request, with the *chain* that brings the worker to its base."""
        turn, session = attempt.started.turn, attempt.started.session
        attempt.sent_bytes += sum(link.payload.size for link in chain)
        attempt.member.send(
            Request(
                attempt=attempt.name,
                start_number=turn.starts,
                attempt_number=turn.starts - turn.starts_before,
                agent=turn.agent,
                text=turn.text,
                metadata="" if turn.metadata is None else canonical_json(turn.metadata).decode(),
                accepted_at_ms=turn.accepted_at_ms,
                base=session.head,
                chain=chain,
                schema=session.schema,
                digest=session.digest,
                wants_digest=self._hub.wants_digest(session),
                wants_snapshot=self._hub.wants_snapshot(self.key),
                delta_bytes_max=max(CHAIN_BYTES_MAX - session.chain_bytes, 0),
            )
        )
        attempt.phase = Phase.RUNNING

    async def _collect(self, attempt: Attempt) -> "Turn | Lost":
        """Follow an attempt to its end."""
        turn = attempt.started.turn
        spec = attempt.member.agents.get(turn.agent)
        timeout_s = spec.turn_timeout_s if spec is not None else TURN_TIMEOUT_S
        timer = asyncio.get_running_loop().call_later(timeout_s, self._signals.put_nowait, TimedOut())
        try:
            return await self._end_of(attempt, turn, spec)
        finally:
            timer.cancel()

    async def _end_of(self, attempt: Attempt, turn: Turn, spec: AgentSpec | None) -> "Turn | Lost":
        not_found = bad_results = 0
        while True:
            match signal := await self._signals.get():
                case TimedOut():
                    return await self._fail(turn, self._timeout(spec))
                case Lost():
                    return signal
                case Ended():
                    return await self._log.turn(self.key, turn.message_id)
                case Failure(code=FailureCode.SESSION_STATE_NOT_FOUND) if not_found == 0:
                    not_found += 1
                    self._forget_held(attempt, signal)
                    await self._dispatch(attempt)
                case Failure():
                    return await self._failed(attempt, signal)
                case Result():
                    try:
                        raw = await check_result(signal, attempt.started)
                    except CorruptPayload as error:
                        bad_results += 1
                        self._log_corrupt(attempt, error)
                        if bad_results > 1:
                            self._drop_copy(attempt)
                            return Lost("the worker's result was corrupt", turn)
                        attempt.member.send(NeedSnapshot(attempt.name))
                        continue
                    return await self._commit(attempt, signal, raw)
                case _:
                    assert_never(signal)

    def _timeout(self, spec: AgentSpec | None) -> TurnTimeout:
        timeout_s = spec.turn_timeout_s if spec is not None else TURN_TIMEOUT_S
        return TurnTimeout(
            f"The attempt ran longer than {timeout_s:g} s.",
            hint="Nothing of it was kept. Make the turn shorter, or raise turn_timeout_s of the Worker.",
            turn_timeout_s=timeout_s,
        )

    def _forget_held(self, attempt: Attempt, failure: Failure) -> None:
        member = attempt.member
        member.held.pop(self.key.session_id, None)
        logger.info(
            "the worker does not hold the state",
            extra={
                "session_id": self.key.session_id,
                "worker_id": member.worker_id,
                "version": attempt.started.session.head.version,
                "held_version": failure.held.version if failure.held is not None else None,
            },
        )

    def _log_corrupt(self, attempt: Attempt, error: SatchelError) -> None:
        logger.error(
            "refused a corrupt result",
            extra={
                "session_id": self.key.session_id,
                "message_id": attempt.name.message_id,
                "worker_id": attempt.member.worker_id,
                "error": str(error),
            },
        )

    def _drop_copy(self, attempt: Attempt) -> None:
        self._stop_attempt("its copy is not to be used")
        attempt.member.send(Release(self.key.session_id))
        attempt.member.held.pop(self.key.session_id, None)

    async def _failed(self, attempt: Attempt, failure: Failure) -> "Turn | Lost":
        """End the turn as its failure says, or give the attempt up for lost."""
        turn = attempt.started.turn
        attempt.handler_ms = failure.handler_ms
        error: SatchelError
        match failure.code:
            case FailureCode.PROCESS_CLOSED:
                attempt.member.is_closing = True
                return Lost("the worker gave the attempt up", turn)
            case FailureCode.CANCELLED:  # unasked: its copy was written by a later epoch, of another store than this
                self._drop_copy(attempt)
                return Lost("the worker gave the attempt up", turn)
            case FailureCode.SESSION_STATE_NOT_FOUND:
                return Lost("the worker could not open the state", turn)
            case FailureCode.TEXT_HANDLER_ERROR:
                error = HandlerError(f"The agent's handler raised {failure.message}.", exception=failure.message)
            case FailureCode.TURN_REFUSED:
                error = TurnRefused(failure.message)
            case FailureCode.STATE_TOO_LARGE:
                error = StateTooLarge(failure.message)
            case FailureCode.INTERNAL_ERROR:
                error = InternalError(failure.message)
            case _:
                assert_never(failure.code)
        self._start_following(attempt.member)
        return await self._fail(turn, error)

    # --- the end of a turn -------------------------------------------------------------------

    async def _commit(self, attempt: Attempt, result: Result, raw: bytes | None) -> Turn:
        """Write the version, then tell: the caller, the worker, the hub."""
        turn, session = attempt.started.turn, attempt.started.session
        stream = self.streams[turn.message_id]
        attempt.handler_ms = result.handler_ms
        stored = StoredPayload(payload=result.payload)
        if not rests_inline(result):
            name = await self._until_known(lambda: self._hub.store.objects.put(self.key, result.payload.data))
            stored = StoredPayload(payload=msgspec.structs.replace(result.payload, data=b""), object=name)
        complete = Complete(
            session_state=CommittedState(version=result.name.version),
            turn=self._report(
                attempt,
                age_ms=stream.age_ms(),
                received_bytes=result.payload.size,
                changed_rows=result.changed_rows,
            ),
        )
        lines = stream.lines() + stream.last(complete)
        events = StoredEvents(lines=lines)
        if len(lines) > INLINE_BYTES_MAX:
            name = await self._until_known(lambda: self._hub.store.objects.put(self.key, lines))
            events = StoredEvents(lines=b"", object=name)
        commit = Commit(
            key=self.key,
            message_id=turn.message_id,
            epoch=attempt.name.epoch,
            base=result.base,
            name=result.name,
            payload=stored,
            schema=left_schema(result, attempt.started),
            state_bytes=result.state_bytes,
            digest=result.digest,
            answer=stream.answer,
            events=events,
            finished_at_ms=self._hub.clock.now_ms(),
            raw=raw,
        )
        self._start_following(attempt.member)
        try:
            ended = await self._until_known(lambda: self._log.commit(commit))
        except Fenced:
            return await self._log.turn(self.key, turn.message_id)
        attempt.phase = Phase.OVER
        attempt.member.held[self.key.session_id] = Held(name=result.name, state_bytes=result.state_bytes)
        attempt.member.send(Committed(attempt.name))
        stream.finish(complete)
        del self.streams[turn.message_id]
        self._hub.telemetry.turn_ended(ended, ended.status, complete)
        self._hub.committed(_after(session, commit, result.payload.kind))
        return ended

    async def _until_known(self, write: Callable[[], Awaitable[Written]]) -> Written:
        """Repeat an idempotent write until its outcome is known: a guess could lose or double a turn."""
        delay_s = STORE_RETRY_S
        while True:
            try:
                return await write()
            except StoreUnavailable:
                logger.warning("the outcome of a write is unknown", extra={"session_id": self.key.session_id})
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, STORE_RETRY_MAX_S)

    async def _fail(self, turn: Turn, error: SatchelError) -> Turn:
        """Fail a turn in the store as it was last seen; return it as it stands then, perhaps otherwise."""
        body = msgspec.convert(error.body(), ErrorBody)
        try:
            return await self._until_known(
                lambda: self._log.fail(
                    self.key, turn.message_id, body, epoch=turn.epoch, now_ms=self._hub.clock.now_ms()
                )
            )
        except Fenced:
            return await self._until_known(lambda: self._log.turn(self.key, turn.message_id))

    async def _end_by_fault(self, turn: Turn, error: SatchelError) -> None:
        """End a turn however it stands, and tell. Whatever fails here, its readers are let go."""
        try:
            turn = await self._until_known(lambda: self._log.turn(self.key, turn.message_id))
            while not turn.status.is_final:
                turn = await self._fail(turn, error)
            await self._tell_stored_end(turn)
        except Exception:  # nobody else would let the readers go, nor run the session's other turns
            logger.exception("a turn could not be ended", extra={"session_id": self.key.session_id})
            self._tell_end(turn)

    async def _tell_stored_end(self, turn: Turn) -> None:
        """Stop what still runs of an ended turn, and tell its readers how it ended."""
        self._stop_attempt("the turn was ended")
        stream = self.streams.get(turn.message_id)
        if stream is not None and turn.status is TurnStatus.COMMITTED:
            stream.replay(await load_events(self._hub.store, turn))  # its row was old when it was taken up
        self._tell_end(turn)

    def _tell_end(self, turn: Turn) -> None:
        """Let the readers of a turn that ended without our commit know how."""
        stream = self.streams.pop(turn.message_id, None)
        if stream is None:
            return
        attempt = self.attempt
        is_its = attempt is not None and attempt.name.message_id == turn.message_id
        report = self._report(attempt, age_ms=stream.age_ms()) if attempt is not None and is_its else None
        complete = ended_complete(turn, report)
        stream.finish(complete)
        self._hub.telemetry.turn_ended(turn, turn.status, complete)

    def _report(
        self,
        attempt: Attempt,
        *,
        age_ms: float,
        received_bytes: int = 0,
        changed_rows: dict[str, tuple[int, int, int]] | None = None,
    ) -> TurnReport:
        return TurnReport(
            start=attempt.start,
            worker_id=attempt.member.worker_id,
            attempts=attempt.started.turn.starts,
            sent_bytes=attempt.sent_bytes,
            received_bytes=received_bytes,
            changed_rows=changed_rows or {},
            handler_ms=round(attempt.handler_ms, 3),
            total_ms=round(age_ms, 3),
        )


def ended_complete(turn: Turn, report: TurnReport | None = None) -> Complete:
    """Return the last event of a turn as its row tells it."""
    report = report or TurnReport(attempts=turn.starts)
    match turn.status:
        case TurnStatus.COMMITTED if turn.version is not None:
            return Complete(session_state=CommittedState(version=turn.version), turn=report)
        case TurnStatus.CANCELLED:
            return Complete(error=msgspec.convert(Cancelled().body(), ErrorBody), turn=report)
        case _:
            return Complete(error=turn.error or msgspec.convert(InternalError().body(), ErrorBody), turn=report)


def _damaged(error: StateError) -> InternalError:
    return InternalError(
        f"What is stored of this session is damaged: {error.message}",
        hint="Nothing was changed. A worker that still holds the session repairs it with its next turn;"
        " else restore the store from a backup.",
    )


def _after(session: Session, commit: Commit, kind: PayloadKind) -> Session:
    """Return the session's row as the commit left it."""
    is_snapshot = kind is PayloadKind.SNAPSHOT
    return msgspec.structs.replace(
        session,
        head=commit.name,
        schema=commit.schema,
        state_bytes=commit.state_bytes,
        digest=commit.digest,
        chain_bytes=commit.payload.size if is_snapshot else session.chain_bytes + commit.payload.size,
        chain_deltas=0 if is_snapshot else session.chain_deltas + 1,
        snapshot_version=commit.name.version if is_snapshot else session.snapshot_version,
        snapshot_bytes=commit.payload.size if is_snapshot else session.snapshot_bytes,
        running_message_id=None,
    )
