"""Runs one session's turns, one after the other, each from seat to commit.

A turn's path: wait for a worker with room, start (the store gives epoch and base),
plan and dispatch, collect events, check the result, commit, tell. Every wait also
ends when the worker is lost, the time is up, or somebody cancels. What is durable is
the store's; a runner can vanish at any line and another takes its session up again.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, assert_never

import msgspec

from satchel.errors import (
    AttemptsExhausted,
    Cancelled,
    CorruptPayload,
    Fenced,
    HandlerError,
    InternalError,
    NoWorker,
    SatchelError,
    StateError,
    StateTooLarge,
    StoreUnavailable,
    TurnRefused,
    TurnTimeout,
)
from satchel.hub.commit import check_result, rests_inline
from satchel.hub.fleet import Fleet, Held, Member, Need
from satchel.hub.settings import HubSettings
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
    Version,
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
    Release,
    Request,
    Result,
)
from satchel.state.plan import cheapest_plan
from satchel.store.base import Commit, Session, Started, Store, StoredEvents, StoredPayload, Turn
from satchel.store.chain import load_chain, load_deltas

logger = logging.getLogger("satchel.hub")

STORE_RETRY_S = 0.1
STORE_RETRY_MAX_S = 5.0
"""How often a runner asks a store that does not answer."""


class Lost(msgspec.Struct, frozen=True):
    """The worker is gone, or gave the attempt up."""

    reason: str


class Ended(msgspec.Struct, frozen=True):
    """Somebody ended the turn in the store."""


class Begun(msgspec.Struct, frozen=True):
    """A turn that was started in the store, and the worker with a slot reserved for it."""

    started: Started
    member: Member


Signal = Result | Failure | Lost | Ended
Written = TypeVar("Written")


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


class Services(Protocol):
    """What a runner needs of its hub."""

    store: Store
    fleet: Fleet
    settings: HubSettings
    telemetry: Telemetry
    now_ms: Callable[[], int]

    def agent(self, key: SessionKey, name: str) -> AgentSpec | None: ...
    def wants_digest(self, session: Session) -> bool: ...
    def wants_snapshot(self, key: SessionKey) -> bool: ...
    def damaged(self, key: SessionKey) -> None: ...
    def committed(self, session: Session) -> None: ...


class SessionRunner:
    """The unfinished turns of one session, in order, and the one that runs."""

    def __init__(self, key: SessionKey, hub: Services) -> None:
        self.key = key
        self.streams: dict[MessageId, TurnStream] = {}
        self.attempt: Attempt | None = None
        self._hub = hub
        self._log = hub.store.log
        self._turns: deque[Turn] = deque()
        self._begun: dict[MessageId, Begun] = {}
        self._signals: asyncio.Queue[Signal] = asyncio.Queue()
        self._adoption: asyncio.Future[Member] | None = None

    # --- what others tell it ---------------------------------------------------------------

    def enqueue(self, turn: Turn, begun: Begun | None = None) -> TurnStream:
        """Take a queued or running turn, by its place in the session's order. Idempotent.

        *begun* comes with a turn that was started as it was admitted.
        """
        stream = self.streams.get(turn.message_id)
        if stream is None:
            stream = self.streams[turn.message_id] = TurnStream(turn)
            behind = [other for other in self._turns if other.place > turn.place]
            for other in behind:
                self._turns.remove(other)
            self._turns.extend([turn, *behind])
            if begun is not None:
                self._begun[turn.message_id] = begun
        elif begun is not None:  # somebody asked for the message and took it up in between
            self._hub.fleet.unreserve(begun.member)
        return stream

    def adopt(self, member: Member, name: AttemptName) -> bool:
        """Take back an attempt that outlived the hub that started it, if it is the current one."""
        turn = self._turns[0] if self._turns else None
        if self._adoption is None or self._adoption.done() or turn is None:
            return False
        if (turn.message_id, turn.epoch) != (name.message_id, name.epoch):
            return False
        self._adoption.set_result(member)
        return True

    def receive(self, member: Member, frame: Event | Result | Failure) -> None:
        """Take a frame of the current attempt; any other attempt's is ignored. Raises ``PeerViolation``."""
        attempt = self.attempt
        if attempt is None or attempt.member is not member or attempt.name != frame.attempt:
            return
        if isinstance(frame, Event):
            self.streams[attempt.name.message_id].add(frame.index, frame.item)
        else:
            self._signals.put_nowait(frame)

    def lost(self, member: Member) -> None:
        """Hear that a worker's link is gone."""
        if self.attempt is not None and self.attempt.member is member:
            self._signals.put_nowait(Lost("the worker was lost"))

    def ended(self, turn: Turn) -> None:
        """Hear that somebody ended *turn* in the store: stop it if it runs, drop it if it waits."""
        if self._turns and self._turns[0].message_id == turn.message_id:
            self._signals.put_nowait(Ended())
            return
        for waiting in list(self._turns):
            if waiting.message_id == turn.message_id:
                self._turns.remove(waiting)
                self._give_back_seat(turn.message_id)
                self._tell_end(turn, None)

    def _give_back_seat(self, message_id: MessageId) -> None:
        begun = self._begun.pop(message_id, None)
        if begun is not None:
            self._hub.fleet.unreserve(begun.member)

    # --- one turn after the other -----------------------------------------------------------

    async def run(self) -> None:
        """Run until no turn is left. A store that does not answer is asked again, for ever."""
        delay_s = STORE_RETRY_S
        while self._turns:
            turn = self._turns[0]
            try:
                if delay_s > STORE_RETRY_S:
                    turn = await self._log.turn(self.key, turn.message_id)
                await self._run_turn(turn)
            except StoreUnavailable:
                logger.warning("the store does not answer", extra={"session_id": self.key.session_id})
                if self.attempt is not None:
                    self.attempt.member.send(Cancel(self.attempt.name, reason="the store does not answer"))
                    self.attempt = None
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, STORE_RETRY_MAX_S)
                continue
            except StateError as error:
                self._hub.damaged(self.key)
                logger.error(  # noqa: TRY400  # what is stored is damaged: a traceback adds nothing
                    "a stored chain is damaged", extra={"session_id": self.key.session_id, "error": str(error)}
                )
                await self._end(turn, _damaged(error), self.attempt)
            except Exception:  # a fault of ours ends this turn, not the session or the hub
                logger.exception("a turn failed in the hub", extra={"session_id": self.key.session_id})
                await self._end(turn, InternalError(), self.attempt)
            delay_s = STORE_RETRY_S
            self._turns.popleft()
            self.attempt = None
            self._signals = asyncio.Queue()

    async def _run_turn(self, turn: Turn) -> None:
        """Bring one turn to its end, over as many attempts as it takes."""
        self._turns[0] = turn
        begun = self._begun.pop(turn.message_id, None)
        if begun is None and turn.status is TurnStatus.RUNNING:
            lost_reason = await self._run_adopted(turn)
            if lost_reason is None:
                return
            turn = await self._requeue(turn)
        while not turn.status.is_final:
            begun = begun or await self._begin(turn)
            if begun is None:
                return
            reason = await self._attempt(begun.started, begun.member)
            if reason is None:
                return
            self._hub.telemetry.restarts.labels(turn.agent).inc()
            turn, begun = await self._requeue(begun.started.turn), None
        self._tell_end(turn, self.attempt)

    async def _begin(self, turn: Turn) -> Begun | None:
        """Start a queued turn on a worker with room. None: it ended."""
        self._turns[0] = turn
        spec = self._hub.agent(self.key, turn.agent)
        attempts_max = spec.max_attempts if spec is not None else ATTEMPTS_MAX
        if turn.starts - turn.starts_before >= attempts_max:
            await self._end(turn, AttemptsExhausted(attempts=turn.starts), None)
            return None
        member = await self._seat(turn)
        if member is None:
            return None
        started = await self._start(turn, member)
        return None if started is None else Begun(started, member)

    async def _requeue(self, turn: Turn) -> Turn:
        """Put a lost attempt's turn back in its place; a turn ended meanwhile stays ended."""
        self.attempt = None
        if turn.epoch is None:
            return turn
        try:
            return await self._log.requeue(self.key, turn.message_id, turn.epoch)
        except Fenced:
            return await self._log.turn(self.key, turn.message_id)

    async def _run_adopted(self, turn: Turn) -> str | None:
        """Wait for a worker that still runs this turn's attempt; return why it is lost, or None at the end."""
        self._adoption = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._hub.settings.adopt_s):
                member = await self._adoption
        except TimeoutError:
            return "no worker brought the attempt back"
        finally:
            self._adoption = None
        session = await self._log.session(self.key)
        started = Started(turn=turn, session=session)
        self.attempt = Attempt(started, member, start=Start.WARM, sent_bytes=0)
        return await self._collect(self.attempt)

    async def _seat(self, turn: Turn) -> Member | None:
        """Reserve a worker. None: the turn ended while it waited."""
        session = await self._log.session(self.key)
        need = Need(
            key=self.key,
            agent=turn.agent,
            head=session.head,
            schema=session.schema,
            ship_bytes=await self._ship_bytes(session),
        )
        return self._hub.fleet.seat_now(need) or await self._wait_for_seat(turn, need)

    async def _wait_for_seat(self, turn: Turn, need: Need) -> Member | None:
        deadline_ms = self._hub.now_ms() + int(1000 * self._hub.settings.worker_wait_s)
        turn = await self._log.wait_for_worker(self.key, turn.message_id, deadline_ms)
        left_s = ((turn.worker_deadline_ms or deadline_ms) - self._hub.now_ms()) / 1000
        seat = asyncio.create_task(self._hub.fleet.seat(need))
        signal = asyncio.create_task(self._signals.get())
        member = None
        try:
            await asyncio.wait({seat, signal}, timeout=max(left_s, 0), return_when=asyncio.FIRST_COMPLETED)
            if seat.done() and not signal.done():
                member = seat.result()
                return member
        finally:
            signal.cancel()
            if member is None and seat.done() and not seat.cancelled():
                self._hub.fleet.unreserve(seat.result())
            seat.cancel()
        if signal.done() and not signal.cancelled():
            self._tell_end(await self._log.turn(self.key, turn.message_id), None)
        else:
            await self._end(turn, self._no_worker(turn), None)
        return None

    def _no_worker(self, turn: Turn) -> NoWorker:
        serving = [member for member in self._hub.fleet.members(self.key.tenant) if turn.agent in member.agents]
        state = "all are at their slots or serve another schema" if serving else "none is connected"
        return NoWorker(f"No worker with room for agent {turn.agent!r} came in time: {state}.", agent=turn.agent)

    async def _ship_bytes(self, session: Session) -> dict[Version | None, int]:
        """Return what it costs to bring each held version to the head; None: a cold start."""
        costs: dict[Version | None, int] = {None: session.chain_bytes, session.head.version: 0}
        for held in set(self._hub.fleet.held_versions(self.key).values()):
            if held.version < session.head.version:
                links = await self._log.deltas(self.key, held.version, session.head.version)
                if links is not None:
                    costs[held.version] = sum(link.stored.size for link in links)
        return costs

    async def _start(self, turn: Turn, member: Member) -> Started | None:
        """Start the turn in the store. None: it was ended while it waited."""
        try:
            started = await self._log.start(self.key, turn.message_id)
        except Fenced:
            self._hub.fleet.unreserve(member)
            self._tell_end(await self._log.turn(self.key, turn.message_id), None)
            return None
        except BaseException:
            self._hub.fleet.unreserve(member)
            raise
        self._turns[0] = started.turn
        self.streams[turn.message_id].restart(started.turn.starts, "the worker was lost")
        return started

    # --- one attempt -----------------------------------------------------------------------

    async def _attempt(self, started: Started, member: Member) -> str | None:
        """Dispatch and collect one attempt. Return why it is lost, or None when the turn ended."""
        if not self._hub.fleet.is_member(member):  # it left while the store wrote: nobody else will say so
            self._hub.fleet.unreserve(member)
            return "the worker was lost"
        self.attempt = attempt = Attempt(started, member, start=Start.NEW, sent_bytes=0)
        self._hub.fleet.occupy(member, attempt.name)
        held = member.held.get(self.key.session_id)
        await self._dispatch(attempt, held.name.version if held is not None else None)
        return await self._collect(attempt)

    async def _dispatch(self, attempt: Attempt, held: Version | None) -> None:
        """Send the request with the cheapest form of the state for a worker that holds version *held*."""
        started, member = attempt.started, attempt.member
        session, turn = started.session, started.turn
        chain: tuple[Link, ...] = ()
        known = member.held.get(self.key.session_id)
        if session.head.version == 0:
            attempt.start = Start.NEW
        elif known is not None and known.name == session.head:
            attempt.start = Start.WARM
        else:
            try:
                attempt.start, chain = await self._chain(session, held)
            except BaseException:
                self._hub.fleet.vacate(member, attempt.name)  # it is not sent, so no worker will say that it ended
                raise
        sent = sum(link.payload.size for link in chain)
        attempt.sent_bytes += sent
        member.send(
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

    async def _chain(self, session: Session, held: Version | None) -> tuple[Start, tuple[Link, ...]]:
        """Return the links that bring a worker from *held* to the head, cheapest form first."""
        if held is not None and held < session.head.version:
            links = await load_deltas(self._hub.store, self.key, held, session.head.version)
            sizes = {link.name.version: link.payload.size for link in links or ()}
            plan = cheapest_plan(held, session.head.version, cold_bytes=session.chain_bytes, delta_bytes=sizes)
            if links and plan.start is Start.CATCH_UP:
                return Start.CATCH_UP, links
        return Start.COLD, await load_chain(self._hub.store, self.key, session.head.version)

    async def _collect(self, attempt: Attempt) -> str | None:
        """Follow an attempt to its end. Return why it is lost, or None when the turn ended."""
        spec = attempt.member.agents.get(attempt.started.turn.agent)
        deadline = time.monotonic() + (spec.turn_timeout_s if spec is not None else TURN_TIMEOUT_S)
        not_found = bad_results = 0
        while True:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    signal = await self._signals.get()
            except TimeoutError:
                await self._end(attempt.started.turn, self._timeout(spec), attempt)
                return None
            match signal:
                case Lost(reason=reason):
                    return reason
                case Ended():
                    await self._tell_stored_end(attempt)
                    return None
                case Failure(code=FailureCode.SESSION_STATE_NOT_FOUND) if not_found == 0:
                    not_found += 1
                    self._forget_held(attempt, signal)
                    await self._dispatch(attempt, None)
                case Failure():
                    return await self._failed(attempt, signal)
                case Result():
                    try:
                        await check_result(signal, attempt.started)
                    except CorruptPayload as error:
                        bad_results += 1
                        self._log_corrupt(attempt, error)
                        if bad_results > 1:
                            self._drop_copy(attempt, "its result was corrupt")
                            return "the worker's result was corrupt"
                        attempt.member.send(NeedSnapshot(attempt.name))
                        continue
                    await self._commit(attempt, signal)
                    return None
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

    def _drop_copy(self, attempt: Attempt, reason: str) -> None:
        attempt.member.send(Cancel(attempt.name, reason=reason))
        attempt.member.send(Release(self.key.session_id))
        attempt.member.held.pop(self.key.session_id, None)

    async def _failed(self, attempt: Attempt, failure: Failure) -> str | None:
        """End the turn as its failure says. Return why the attempt is lost, if it is."""
        error: SatchelError
        match failure.code:
            case FailureCode.PROCESS_CLOSED | FailureCode.CANCELLED:
                return "the worker gave the attempt up"
            case FailureCode.SESSION_STATE_NOT_FOUND:
                self._hub.fleet.vacate(attempt.member, attempt.name)
                return "the worker could not open the state"
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
        await self._end(attempt.started.turn, error, attempt, handler_ms=failure.handler_ms, stop=False)
        return None

    # --- the end of a turn -------------------------------------------------------------------

    async def _commit(self, attempt: Attempt, result: Result) -> None:
        """Write the version, then tell: the caller, the worker, the hub."""
        turn, session = attempt.started.turn, attempt.started.session
        stream = self.streams[turn.message_id]
        stored = StoredPayload(payload=result.payload)
        if not rests_inline(result):
            name = await self._until_known(lambda: self._hub.store.objects.put(self.key, result.payload.data))
            stored = StoredPayload(payload=msgspec.structs.replace(result.payload, data=b""), object=name)
        complete = Complete(
            session_state=CommittedState(version=result.name.version),
            turn=self._report(
                attempt,
                received_bytes=result.payload.size,
                changed_rows=result.changed_rows,
                handler_ms=result.handler_ms,
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
            schema=result.schema,
            state_bytes=result.state_bytes,
            digest=result.digest,
            answer=stream.answer,
            events=events,
            finished_at_ms=self._hub.now_ms(),
        )
        try:
            ended = await self._until_known(lambda: self._log.commit(commit))
        except Fenced:
            await self._tell_stored_end(attempt)
            return
        attempt.member.held[self.key.session_id] = Held(name=result.name, state_bytes=result.state_bytes)
        attempt.member.send(Committed(attempt.name))
        stream.finish(complete)
        del self.streams[turn.message_id]
        self._hub.telemetry.turn_ended(ended, ended.status, complete)
        self._hub.committed(_after(session, commit, result.payload.kind))

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

    async def _end(
        self,
        turn: Turn,
        error: SatchelError,
        attempt: Attempt | None,
        *,
        handler_ms: float = 0.0,
        stop: bool = True,
    ) -> None:
        """Fail the turn in the store, then tell; if it ended otherwise meanwhile, tell that."""
        body = msgspec.convert(error.body(), ErrorBody)
        epoch = attempt.name.epoch if attempt is not None else None
        try:
            turn = await self._until_known(
                lambda: self._log.fail(self.key, turn.message_id, body, epoch=epoch, now_ms=self._hub.now_ms())
            )
        except Fenced:
            turn = await self._log.turn(self.key, turn.message_id)
        if attempt is not None and stop:
            attempt.member.send(Cancel(attempt.name, reason=error.code))
        self._tell_end(turn, attempt, handler_ms=handler_ms)

    async def _tell_stored_end(self, attempt: Attempt) -> None:
        """Stop an attempt that the store says is over, and tell what ended it."""
        attempt.member.send(Cancel(attempt.name, reason="the turn was ended"))
        self._tell_end(await self._log.turn(self.key, attempt.name.message_id), attempt)

    def _tell_end(self, turn: Turn, attempt: Attempt | None, *, handler_ms: float = 0.0) -> None:
        """Let the readers of a turn that ended without our commit know how."""
        stream = self.streams.get(turn.message_id)
        if stream is None:
            return
        complete = ended_complete(turn, self._report(attempt, handler_ms=handler_ms) if attempt else None)
        del self.streams[turn.message_id]
        stream.finish(complete)
        self._hub.telemetry.turn_ended(turn, turn.status, complete)

    def _report(
        self,
        attempt: Attempt,
        *,
        received_bytes: int = 0,
        changed_rows: dict[str, tuple[int, int, int]] | None = None,
        handler_ms: float = 0.0,
    ) -> TurnReport:
        turn = attempt.started.turn
        return TurnReport(
            start=attempt.start,
            worker_id=attempt.member.worker_id,
            attempts=turn.starts,
            sent_bytes=attempt.sent_bytes,
            received_bytes=received_bytes,
            changed_rows=changed_rows or {},
            handler_ms=round(handler_ms, 3),
            total_ms=round(self.streams[turn.message_id].age_ms(), 3),
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
