"""Runs attempts, whatever carries their frames: state exactly as named, handler, delta, pending until committed.

All of it is on the handlers' event loop. An attempt belongs to the process: a lost
link ends none, and what it emitted is kept until the hub has committed or stopped it.
At most one attempt of a session is current, the one of the highest epoch; an older
one that still runs is stopped and waited for first.
"""

import asyncio
import json
import logging
import os
import re
import socket
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, assert_never

import msgspec

from satchel.clock import Clock
from satchel.errors import InternalError, InvalidRequest, SatchelError, StateError, StateNotFound, StateTooLarge
from satchel.limits import CANCEL_GRACE_S, CHAIN_BYTES_MAX, SLOTS_DEFAULT, STATE_BYTES_MAX, WARM_BYTES_MAX
from satchel.model import (
    DEFAULT_TENANT,
    Link,
    Payload,
    PayloadKind,
    SchemaName,
    SessionId,
    StateName,
    Tenant,
    Version,
    WorkerId,
    next_state_id,
)
from satchel.protocol.messages import (
    PROTOCOL_VERSION,
    AttemptName,
    Cancel,
    Committed,
    Failure,
    FailureCode,
    HeldState,
    HubFrame,
    NeedSnapshot,
    Ping,
    Pong,
    Refused,
    Register,
    Registered,
    Release,
    Released,
    Request,
    Result,
    WorkerFrame,
)
from satchel.state.payload import seal
from satchel.state.session import OpenSession, Recorded
from satchel.worker.attempt import VERDICTS, Attempt, Copy, HandlerRaised
from satchel.worker.cache import WarmCache
from satchel.worker.context import Turn, TurnFacts
from satchel.worker.events import AttemptEvents
from satchel.worker.handler import call_handler, is_async
from satchel.worker.resolve import Resolution, Step, resolve
from satchel.worker.threads import by_size, either
from satchel.worker.voice import Voice
from satchel.worker.worker import Worker

logger = logging.getLogger("satchel.worker")

OUR_FILES: Final = str(Path(__file__).resolve().parents[1])
"""Where Satchel's own code is."""

SEAL_THREADS: Final = 2
"""Threads that hash and compress large states; the work is the processor's, not the disk's."""


class Runtime:
    """The attempts and warm sessions of one worker process.

    *send* takes frames from any thread, in order, and never blocks. *deps* are the
    values of the workers' lifespans by agent. *raised* hears of every exception of a
    handler, for those who may see more than its class. Made and used on one loop.
    """

    def __init__(  # noqa: PLR0913  # a process has that many parts; each has a default
        self,
        workers: Sequence[Worker[Any]],
        *,
        send: Callable[[WorkerFrame], None],
        deps: Mapping[str, Any] | None = None,
        slots: int = SLOTS_DEFAULT,
        warm_bytes_max: int = WARM_BYTES_MAX,
        cancel_grace_s: float = CANCEL_GRACE_S,
        build: str = "",
        clock: Clock | None = None,
        threads: Callable[[int, str], Executor] = ThreadPoolExecutor,
        raised: Callable[[AttemptName, BaseException], None] | None = None,
    ) -> None:
        self.worker_id = _worker_id()
        self.slots = slots
        self._workers = _by_name(workers)
        self._deps = deps or {}
        self._send = send
        self._build = build
        self._clock = clock or Clock()
        self._cancel_grace_s = cancel_grace_s
        self._raised = raised
        self._tenant: Tenant = DEFAULT_TENANT
        self._attempts: dict[SessionId, Attempt] = {}
        self._driven: dict[asyncio.Task[None], Attempt] = {}
        self._copies: WarmCache[Copy] = WarmCache(warm_bytes_max, evicted=self._evicted)
        self._handler_pool = threads(slots, "satchel-handler")
        self._pools = {
            worker.name: None if is_async(worker.handler) else self._handler_pool for worker in self._workers.values()
        }
        """Where each agent's handler runs; None: on the loop."""
        self._state_pool = threads(SEAL_THREADS, "satchel-state")
        self._is_linked = False
        self._is_stopped = False

    # --- the link ----------------------------------------------------------------------------

    def registration(self) -> Register:
        """Return what a new link begins with. From here to ``Registered`` nothing is sent, only kept."""
        self.link_lost()
        held = tuple(
            HeldState(session_id=session_id, name=copy.session.name, state_bytes=copy.state_bytes)
            for session_id, copy in self._copies
        )
        return Register(
            worker_id=self.worker_id,
            protocol_version=PROTOCOL_VERSION,
            build=self._build,
            slots=self.slots,
            agents=tuple(worker.spec for worker in self._workers.values()),
            held=held,
            attempts=tuple(attempt.name for attempt in self._attempts.values() if not attempt.is_stopping),
        )

    def link_lost(self) -> None:
        """Hear that nothing reaches the hub. Idempotent."""
        self._is_linked = False
        for attempt in self._attempts.values():
            attempt.events.mute()

    def receive(self, frame: HubFrame) -> None:
        """Take one frame of the hub's. What is stale or repeated changes nothing."""
        if self._is_stopped:
            return
        match frame:
            case Request():
                self._begin(frame)
            case Committed():
                self._committed(frame)
            case Cancel():
                self._cancel(frame)
            case NeedSnapshot():
                self._need_snapshot(frame)
            case Release():
                if frame.session_id not in self._attempts:
                    self._copies.drop(frame.session_id)
            case Registered():
                self._registered(frame)
            case Refused() | Ping() | Pong():
                pass  # the link's own
            case _:
                assert_never(frame)

    def _registered(self, frame: Registered) -> None:
        self._tenant = Tenant(frame.tenant)
        self._is_linked = True
        for name in frame.adopted:  # the hub cancels the others
            attempt = self._current(name)
            if attempt is None:  # it ended since it was registered, and its failure was not said
                self._say(Failure(attempt=name, code=FailureCode.SESSION_STATE_NOT_FOUND))
                continue
            attempt.events.send_again()
            if attempt.outcome is not None:
                self._report(attempt, attempt.outcome)

    def _say(self, frame: WorkerFrame) -> None:
        if self._is_linked:
            self._send(frame)

    def _evicted(self, session_id: SessionId) -> None:
        self._say(Released(session_id))

    # --- what the hub asks -------------------------------------------------------------------

    def _begin(self, request: Request) -> None:
        name = request.attempt
        worker = self._workers.get(request.agent)
        if worker is None:
            message = f"This worker does not serve agent {request.agent!r}."
            self._say(Failure(attempt=name, code=FailureCode.INTERNAL_ERROR, message=message))
            return
        current, copy = self._attempts.get(name.session_id), self._copies.get(name.session_id)
        epoch_seen = max(current.name.epoch if current else -1, copy.epoch if copy else -1)
        if name.epoch <= epoch_seen:
            logger.warning("ignored a stale request", extra=_facts(name))
            if name.epoch < epoch_seen:
                self._say(Failure(attempt=name, code=FailureCode.CANCELLED))
            return
        if current is not None:
            current.stop(FailureCode.CANCELLED)
        attempt = Attempt(request, worker, AttemptEvents(name, self._send), older=current)
        self._attempts[name.session_id] = attempt
        self._copies.occupy(name.session_id)
        self._drive(attempt, self._run(attempt))

    def _committed(self, frame: Committed) -> None:
        attempt = self._current(frame.attempt)
        if attempt is None or attempt.copy is None or not isinstance(attempt.outcome, Result):
            return
        try:
            attempt.copy.session.commit()
        except Exception:  # whatever it was, the copy has no name any more; the hub has the version
            logger.exception("a committed turn could not be committed here", extra=_facts(attempt.name))
            self._discard(attempt.session_id)
        self._forget(attempt)

    def _cancel(self, frame: Cancel) -> None:
        attempt = self._current(frame.attempt)
        if attempt is None:
            return
        if attempt.outcome is None:
            attempt.stop(FailureCode.CANCELLED)
            return
        self._roll_back(attempt)
        self._forget(attempt)
        self._say(Failure(attempt=attempt.name, code=FailureCode.CANCELLED))

    def _need_snapshot(self, frame: NeedSnapshot) -> None:
        attempt = self._current(frame.attempt)
        if attempt is not None and isinstance(attempt.outcome, Result):
            attempt.outcome = None
            attempt.has_released.clear()
            self._drive(attempt, self._snapshot_again(attempt))

    def _current(self, name: AttemptName) -> Attempt | None:
        attempt = self._attempts.get(name.session_id)
        return attempt if attempt is not None and attempt.name == name else None

    # --- an attempt's life -------------------------------------------------------------------

    def _drive(self, attempt: Attempt, steps: Coroutine[Any, Any, Result]) -> None:
        async def drive() -> None:
            try:
                outcome: Result | Failure = await steps
            except Exception as error:  # noqa: BLE001  # whatever it is, the attempt ends and the process goes on
                outcome = self._failed(attempt, error)
            attempt.has_released.set()
            self._end(attempt, outcome)

        task = asyncio.create_task(drive(), name=f"satchel attempt {attempt.name.session_id}")
        attempt.task = task
        self._driven[task] = attempt
        task.add_done_callback(self._driven.pop)

    async def _run(self, attempt: Attempt) -> Result:
        """Bring an attempt from its request to a pending result."""
        if attempt.older is not None:
            await attempt.older.has_released.wait()
            attempt.older = None
        attempt.copy = copy = await self._resolved(attempt)
        attempt.drop_chain()
        attempt.check_stop()
        request, session = attempt.request, copy.session
        copy.epoch = request.attempt.epoch
        session.begin(
            version=Version(request.base.version + 1),
            epoch=request.attempt.epoch,
            message_id=request.attempt.message_id,
            schema=attempt.worker.schema,
        )
        await self._handle(attempt, session)
        recorded = await self._finish(attempt, session)
        attempt.recorded = msgspec.structs.replace(recorded, raw=b"")
        attempt.check_stop()
        return await self._pending(attempt, session, recorded.kind, recorded.raw)

    async def _snapshot_again(self, attempt: Attempt) -> Result:
        """Make a pending result anew, as a snapshot."""
        assert attempt.copy is not None, "a pending attempt has its copy"
        session = attempt.copy.session
        return await self._pending(attempt, session, PayloadKind.SNAPSHOT, await self._image(session))

    async def _image(self, session: OpenSession) -> bytes:
        return await by_size(self._state_pool, session.state_bytes, session.pending_snapshot)

    async def _resolved(self, attempt: Attempt) -> Copy:
        """Return the session's copy at exactly the request's base.

        Raises ``StateNotFound``; ``InternalError`` if the worker does not serve its schema.
        """
        session_id = attempt.session_id
        try:
            copy = self._copies.get(session_id)
            step = _settle(attempt.request, copy)
            if step is not Step.NOT_FOUND:
                return await self._brought(attempt, copy, step)
        except StateError as error:
            logger.error(  # noqa: TRY400  # a state's damage is named; a traceback adds nothing
                "a state could not be opened",
                extra={**_facts(attempt.name), "error": f"{type(error).__name__}: {error}"},
            )
            self._discard(session_id)
            raise StateNotFound from error
        raise StateNotFound

    async def _brought(self, attempt: Attempt, copy: Copy | None, step: Step) -> Copy:
        """Take *step* to the request's base. Raises what opening a state raises."""
        request = attempt.request
        _check_schema(request, attempt.worker)
        if step is Step.NOTHING and copy is not None:
            return copy
        if step is Step.CATCH_UP and copy is not None:
            await self._catch_up(copy.session, request)
            return copy
        copy = Copy(await self._opened(request, attempt.worker), request.agent)
        self._copies.put(attempt.session_id, copy)
        return copy

    async def _catch_up(self, session: OpenSession, request: Request) -> None:
        schema = _named_schema(request)
        await by_size(
            self._state_pool,
            _raw_size(request.chain),
            lambda: session.catch_up(request.chain, base=request.base, schema=schema, digest=request.digest),
        )

    async def _opened(self, request: Request, worker: Worker[Any]) -> OpenSession:
        session_id = request.attempt.session_id
        if not request.chain:
            return OpenSession.empty(session_id, worker.schema, name=request.base)
        schema = _named_schema(request)
        return await by_size(
            self._state_pool,
            _raw_size(request.chain),
            lambda: OpenSession.from_chain(
                session_id, request.chain, base=request.base, schema=schema, digest=request.digest
            ),
        )

    async def _handle(self, attempt: Attempt, session: OpenSession) -> None:
        """Run the handler. Raises ``HandlerRaised``; ``Stopped`` once a stopped one has ended."""
        voice, turn = self._turn(attempt, session)
        voice.hear(turn.message_id, turn.text, attempt.request.accepted_at_ms)
        since = self._clock.stopwatch_s()
        work = asyncio.create_task(
            call_handler(attempt.worker.handler, turn, voice, pool=self._pools[attempt.worker.name]),
            name=f"{attempt.worker.handler_name} in session {attempt.session_id}",
        )
        try:
            await either(work, attempt.stopping)
            if not work.done():
                await self._stop_handler(attempt, work)
        finally:
            attempt.handler_ms = 1000 * (self._clock.stopwatch_s() - since)
            attempt.events.close()
        error = asyncio.CancelledError() if work.cancelled() else work.exception()
        attempt.check_stop()
        if error is not None:
            raise HandlerRaised(error)

    async def _stop_handler(self, attempt: Attempt, work: "asyncio.Task[None]") -> None:
        """Cancel a handler; one that does not stop in time loses its copy, and is waited for apart."""
        work.cancel()
        await asyncio.wait({work}, timeout=self._cancel_grace_s)
        if not work.done():
            logger.error(
                "the handler does not stop: its copy of the session is dropped",
                extra={**_facts(attempt.name), "handler": attempt.worker.handler_name},
            )
            if self._copies.get(attempt.session_id) is attempt.copy:
                self._copies.remove(attempt.session_id)
            attempt.events.close()
            attempt.has_released.set()
            await asyncio.wait({work})

    def _turn(self, attempt: Attempt, session: OpenSession) -> tuple[Voice, Turn[Any]]:
        request, worker = attempt.request, attempt.worker
        voice = Voice(
            attempt.name,
            events=attempt.events,
            history=session.history if worker.records_history else None,
            handler=worker.handler_name,
            clock=self._clock,
        )
        facts = TurnFacts(
            tenant=self._tenant,
            session_id=attempt.session_id,
            message_id=request.attempt.message_id,
            agent=request.agent,
            text=request.text,
            metadata=json.loads(request.metadata) if request.metadata else {},
            attempt=request.attempt_number,
            version=Version(request.base.version + 1),
        )
        turn: Turn[Any] = Turn(
            facts,
            state=session.state,
            history=session.history,
            deps=self._deps.get(worker.name),
            voice=voice,
            is_cancelled=attempt.stopping.done,
        )
        return voice, turn

    async def _finish(self, attempt: Attempt, session: OpenSession) -> Recorded:
        """End the recording. What is wrong with what the handler left is the handler's failure."""
        request = attempt.request
        scans_all = request.wants_digest or request.wants_snapshot or session.must_be_whole
        try:
            return await by_size(
                self._state_pool,
                session.state_bytes if scans_all else 0,
                lambda: session.finish(wants_digest=request.wants_digest, wants_snapshot=request.wants_snapshot),
            )
        except SatchelError as error:
            raise HandlerRaised(error) from error

    async def _pending(self, attempt: Attempt, session: OpenSession, kind: PayloadKind, raw: bytes) -> Result:
        """Seal and name the finished turn; a delta over the request's bound becomes a snapshot.

        Raises ``StateTooLarge``, ``Stopped``.
        """
        request, recorded = attempt.request, attempt.recorded
        assert recorded is not None, "a pending attempt was recorded"
        payload, name = await self._sealed(request.base, kind, raw)
        if kind is PayloadKind.DELTA and payload.size > request.delta_bytes_max:
            attempt.check_stop()
            payload, name = await self._sealed(request.base, PayloadKind.SNAPSHOT, await self._image(session))
        if payload.kind is PayloadKind.SNAPSHOT:
            _check_snapshot(payload)
        attempt.check_stop()
        session.set_pending(name)
        return Result(
            attempt=attempt.name,
            name=name,
            base=request.base,
            payload=payload,
            schema=None if recorded.schema == request.schema else recorded.schema,
            state_bytes=recorded.state_bytes,
            digest=recorded.digest,
            changed_rows=recorded.changed_rows,
            handler_ms=attempt.handler_ms,
            events=len(attempt.events),
        )

    async def _sealed(self, base: StateName, kind: PayloadKind, raw: bytes) -> tuple[Payload, StateName]:
        version = Version(base.version + 1)
        return await by_size(
            self._state_pool,
            len(raw),
            lambda: (seal(kind, raw), StateName(version, next_state_id(base.state_id, version, kind, raw))),
        )

    # --- an attempt's end --------------------------------------------------------------------

    def _failed(self, attempt: Attempt, error: Exception) -> Failure:
        """Undo the attempt, log why, and return what the hub is told."""
        self._roll_back(attempt)
        failure = attempt.failure(error)
        if isinstance(error, HandlerRaised):
            self._log_raised(attempt, failure, error.cause)
        elif failure.code is FailureCode.INTERNAL_ERROR:
            logger.error("an attempt failed in the worker", exc_info=error, extra=_facts(attempt.name))
            if not isinstance(error, SatchelError):
                self._discard(attempt.session_id)
        held = self._copies.get(attempt.session_id)
        if failure.code is FailureCode.SESSION_STATE_NOT_FOUND and held is not None:
            return msgspec.structs.replace(failure, held=held.session.name)
        return failure

    def _log_raised(self, attempt: Attempt, failure: Failure, error: BaseException) -> None:
        facts = {**_facts(attempt.name), "handler": attempt.worker.handler_name}
        if failure.code is FailureCode.TURN_REFUSED:
            logger.info("the handler refused the turn", extra=facts)
        else:
            logger.error("the handler raised", exc_info=(type(error), error, _users_frames(error)), extra=facts)
        if self._raised is not None:
            self._raised(attempt.name, error)

    def _roll_back(self, attempt: Attempt) -> None:
        """Undo what an attempt did to its copy; close the copy if that is no longer the session's, or broken."""
        copy = attempt.copy
        if copy is None:
            return
        if self._copies.get(attempt.session_id) is not copy:
            copy.close()
            return
        try:
            copy.session.rollback()
            is_sound = not copy.session.is_broken
        except Exception:  # whatever it was, the copy cannot be trusted
            logger.exception("a turn could not be rolled back", extra=_facts(attempt.name))
            is_sound = False
        if not is_sound:
            self._discard(attempt.session_id)

    def _end(self, attempt: Attempt, outcome: Result | Failure) -> None:
        """Keep what the hub has yet to confirm; forget the rest."""
        attempt.outcome = outcome
        is_open = isinstance(outcome, Result) or (outcome.code in VERDICTS and not self._is_linked)
        if not is_open:
            self._forget(attempt)
        self._report(attempt, outcome)

    def _report(self, attempt: Attempt, outcome: Result | Failure) -> None:
        self._say(outcome)
        if self._is_linked and isinstance(outcome, Failure):
            self._forget(attempt)

    def _forget(self, attempt: Attempt) -> None:
        """Let go of an attempt that nobody will ask for; its session is idle unless a newer one came."""
        if self._attempts.get(attempt.session_id) is attempt:
            del self._attempts[attempt.session_id]
            self._copies.vacate(attempt.session_id)

    def _discard(self, session_id: SessionId) -> None:
        """Close a copy that cannot be used, and say so: nothing of it must be taken for warm."""
        if self._copies.drop(session_id):
            self._say(Released(session_id))

    # --- the process -------------------------------------------------------------------------

    @property
    def running(self) -> list[Attempt]:
        """Attempts whose handler or result is not done."""
        return [attempt for task, attempt in self._driven.items() if not task.done()]

    async def stop(self, *, grace_s: float) -> list[str]:
        """Give running attempts *grace_s*, then give them up (PROCESS_CLOSED), and close every copy.

        Returns the names of handlers that run on all the same: only the end of the
        process ends them. Afterwards the runtime takes no frame.
        """
        if self.running:
            await asyncio.wait([task for task in self._driven if not task.done()], timeout=grace_s)
        self._is_stopped = True
        for attempt in self.running:
            attempt.stop(FailureCode.PROCESS_CLOSED)
        if self.running:
            await asyncio.wait([task for task in self._driven if not task.done()], timeout=self._cancel_grace_s)
        stuck = self.running
        in_use = {id(attempt.copy) for attempt in stuck}
        for session_id, copy in self._copies:
            if id(copy) not in in_use:
                self._copies.drop(session_id)
        self._handler_pool.shutdown(wait=False, cancel_futures=True)
        self._state_pool.shutdown(wait=not stuck)
        return [attempt.worker.handler_name for attempt in stuck]


def _by_name(workers: Sequence[Worker[Any]]) -> dict[str, Worker[Any]]:
    named: dict[str, Worker[Any]] = {}
    for worker in workers:
        _ = worker.handler
        if worker.name in named:
            raise InvalidRequest(f"Two workers are named {worker.name!r}.", hint="One Worker is one agent.")
        named[worker.name] = worker
    return named


def _settle(request: Request, copy: Copy | None) -> Step:
    """Commit or roll back what is pending, as the request says; return how to get to its base."""
    session = copy.session if copy is not None else None
    resolution, step = resolve(
        request,
        committed=session.name if session is not None else None,
        pending=session.pending if session is not None else None,
    )
    if session is not None and session.pending is not None:
        if resolution is Resolution.COMMIT:
            session.commit()
        else:
            session.rollback()
    return step


def _check_schema(request: Request, worker: Worker[Any]) -> None:
    if request.schema is not None and not worker.spec.schema_min <= request.schema.number <= worker.spec.schema.number:
        raise InternalError(
            f"The session has schema number {request.schema.number}; this worker serves "
            f"{worker.spec.schema_min} to {worker.spec.schema.number} of agent {worker.name!r}."
        )


def _named_schema(request: Request) -> SchemaName:
    if request.schema is None:
        raise InternalError("A request with a chain does not name its schema.")
    return request.schema


def _check_snapshot(payload: Payload) -> None:
    if payload.raw_size > STATE_BYTES_MAX or payload.size > CHAIN_BYTES_MAX:
        raise StateTooLarge(
            f"The session's state has {payload.raw_size} bytes; a state has at most {STATE_BYTES_MAX}.",
            state_bytes=payload.raw_size,
            state_bytes_max=STATE_BYTES_MAX,
        )


def _raw_size(chain: Sequence[Link]) -> int:
    return sum(link.payload.raw_size for link in chain)


def _facts(name: AttemptName) -> dict[str, Any]:
    return {"session_id": name.session_id, "message_id": name.message_id, "epoch": name.epoch}


def _users_frames(error: BaseException) -> TracebackType | None:
    """Return an exception's traceback from the first frame that is not ours: where its author looks."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(OUR_FILES):
        frames = frames.tb_next
    return frames or error.__traceback__


def _worker_id() -> WorkerId:
    """Return an ID that a person can trace to a process and that no other process has had."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64]
    return WorkerId(f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
