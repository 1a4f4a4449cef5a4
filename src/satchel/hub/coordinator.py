"""Meets all the others: messages come in, runners run them, workers' frames find their runner.

It owns the tasks: one per session with work, and the background ones (compaction,
sweeping). It decides nothing: admission is the store's transaction, the choice of a
worker the router's, the life of a turn the runner's.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from satchel.clock import Clock
from satchel.errors import (
    HubDraining,
    LinkRefused,
    RequestError,
    SatchelError,
    SchemaRefused,
    SessionNotFound,
    StateError,
    StoreUnavailable,
)
from satchel.hub import compaction
from satchel.hub.export import snapshot_file
from satchel.hub.fleet import Fleet, Member, Need
from satchel.hub.runner import EPOCHS_SKIPPED, STORE_RETRY_S, Begun, SessionRunner
from satchel.hub.settings import HubSettings
from satchel.hub.shipping import Way, need_of, way_to_head
from satchel.hub.stream import TurnStream
from satchel.hub.telemetry import Telemetry
from satchel.limits import OBJECT_GRACE_S
from satchel.model import EMPTY, AgentSpec, MessageId, SessionKey, Start, StateName, Tenant, Version, first_state_id
from satchel.protocol.messages import (
    PROTOCOL_VERSION,
    AttemptName,
    Cancel,
    Committed,
    Event,
    Failure,
    FailureCode,
    Frame,
    Pieces,
    Register,
    Release,
    Released,
    Result,
)
from satchel.state.rebuild import Rebuilder, Rebuilds
from satchel.store.base import Admission, NewTurn, Session, Started, Store, Turn
from satchel.store.sweep import sweep

logger = logging.getLogger("satchel.hub")


class Delivery(msgspec.Struct, frozen=True):
    """A message and where its events are: in memory while it is unfinished, else in the store."""

    turn: Turn
    stream: TurnStream | None


class Coordinator:
    """One hub's work on one store. ``open`` before use, ``close`` after."""

    def __init__(
        self,
        store: Store,
        *,
        settings: HubSettings,
        telemetry: Telemetry,
        clock: Clock | None = None,
        rebuilder: Rebuilds | None = None,
    ) -> None:
        self.store = store
        self.fleet = Fleet()
        self.settings = settings
        self.telemetry = telemetry
        self.clock = clock or Clock()
        self._runners: dict[SessionKey, SessionRunner] = {}
        self._ahead: dict[SessionKey, SessionRunner] = {}
        """Whose only turn was dispatched while its start is being written."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._agents: dict[tuple[Tenant, str], AgentSpec] = {}
        self._compacting: set[SessionKey] = set()
        self._damaged: set[SessionKey] = set()
        self._one_compaction = asyncio.Semaphore(1)
        self._rebuilder = rebuilder or Rebuilder()
        self._is_open = False
        telemetry.workers.set_function(lambda: len(list(self.fleet)))
        telemetry.running.set_function(lambda: sum(len(member.busy) for member in self.fleet))
        telemetry.sessions.set_function(lambda: len(self._runners))

    async def open(self) -> None:
        """Take up every unfinished turn of the store, and start the background work."""
        self._is_open = True
        unfinished = await self.store.log.unfinished()
        for tenant in {turn.key.tenant for turn in unfinished}:
            for spec in await self.store.log.agents(tenant):
                self._agents[(tenant, spec.name)] = spec  # max_attempts holds before the workers are back
        for turn in unfinished:
            self._runner(turn.key).enqueue(turn)
        for runner in list(self._runners.values()):
            self._run(runner)
        self._spawn(self._sweep())

    async def close(self) -> None:
        """Stop. Running turns stay in the store and are taken up by the next hub. Idempotent."""
        self._is_open = False
        for runner in self._runners.values():
            for stream in runner.streams.values():
                stream.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._rebuilder.close()

    @property
    def is_open(self) -> bool:
        """Whether it takes messages: it was opened, and does not drain."""
        return self._is_open

    # --- messages ----------------------------------------------------------------------------

    async def send(self, new: NewTurn) -> Delivery:
        """Admit a message and see that it runs. Raises what ``Log.admit`` raises, ``HubDraining``."""
        if not self._is_open:
            raise HubDraining
        try:
            admission, begun = await self._admit(new)
        except asyncio.CancelledError:  # the call goes on without its caller: what it enqueued must run
            self._spawn(self._unheard(lambda: self.send(new)))
            raise
        except StoreUnavailable:  # the caller was told nothing certain: if it was enqueued, it must run
            self._spawn(self._find(new.key, new.message_id))
            raise
        if not self._is_open:
            raise HubDraining  # it is enqueued, and the next hub's
        if admission.is_repeat:
            return await self.deliver(new.key, new.message_id)
        return self._take(admission.turn, begun)

    async def _admit(self, new: NewTurn) -> tuple[Admission, Begun | None]:
        """Admit a message; if its session is idle and a worker has room for it, start it in the same write."""
        if self._is_idle(new.key):
            member = self.fleet.seat_warm(new.key)
            if member is not None:
                return await self._admit_warm(new, member)
            member = await self._seat(new)
            if member is not None and self._is_idle(new.key):
                return await self._admit_seated(new, member)
            if member is not None:
                self.fleet.unreserve(member)
        return await self.store.log.admit(new, queue_length_max=self.settings.queue_length_max), None

    def _is_idle(self, key: SessionKey) -> bool:
        """Tell whether nothing of a session runs here: what was committed of it is durable, and can be read."""
        return key not in self._runners and key not in self._ahead

    async def _admit_warm(self, new: NewTurn, member: Member) -> tuple[Admission, Begun | None]:
        """Admit and start a message for the worker that made its session's head, and send it ahead of the disk."""
        is_ahead = has_left = False

        def decided(admission: Admission) -> None:
            nonlocal is_ahead
            if admission.is_started and not has_left:
                is_ahead = self._dispatch_ahead(Started(admission.turn, admission.session), member)

        try:
            admission = await self.store.log.admit(
                new, queue_length_max=self.settings.queue_length_max, start=True, decided=decided
            )
        except BaseException:
            has_left = True
            if is_ahead:
                self._give_up(new.key, member)
            else:
                self.fleet.unreserve(member)
            raise
        return admission, None if is_ahead else self._begun(admission, member)

    async def _admit_seated(self, new: NewTurn, member: Member) -> tuple[Admission, Begun | None]:
        """Admit and start a message for a worker with room; what it lacks of the state is read during the write."""
        way: asyncio.Task[Way] | None = None
        has_left = False

        def decided(admission: Admission) -> None:
            nonlocal way
            if admission.is_started and not has_left:
                way = self._read_way(admission.session, member)

        try:
            admission = await self.store.log.admit(
                new,
                queue_length_max=self.settings.queue_length_max,
                start=True,
                skip=EPOCHS_SKIPPED,
                decided=decided,
            )
        except BaseException:
            has_left = True
            if way is not None:
                way.cancel()
            self.fleet.unreserve(member)
            raise
        return admission, self._begun(admission, member, way)

    def _begun(self, admission: Admission, member: Member, way: asyncio.Task[Way] | None = None) -> Begun | None:
        """Return what was begun on a worker and is not dispatched yet; if nothing was begun, give its slot back."""
        started = Started(admission.turn, admission.session)
        if not admission.is_started:
            self.fleet.unreserve(member)
            return None
        if way is not None and _is_read(way) and self._dispatch_at_once(started, member, way.result()):
            return None
        return Begun(started, member, way)

    async def _seat(self, new: NewTurn) -> Member | None:
        """Reserve a slot where a message could start at once, if its session is as idle as it seems.

        None if it is not, if no worker has room, or if only the store can tell which agent it is for.
        """
        if not self.fleet.has_room:
            return None
        try:
            session = await self.store.log.session(new.key)
        except SessionNotFound:
            if new.agent is None:
                return None
            head = StateName(EMPTY, first_state_id(new.key))
            return self.fleet.seat_now(Need(new.key, new.agent, head, schema=None, ship_bytes={None: 0}))
        if session.running_message_id is not None or session.waiting:
            return None
        return self.fleet.seat_now(await need_of(session, fleet=self.fleet, log=self.store.log))

    def _read_way(self, session: Session, member: Member) -> asyncio.Task[Way]:
        held = member.held.get(session.key.session_id)
        way = asyncio.create_task(way_to_head(self.store, session, held.name if held is not None else None))
        self._tasks.add(way)
        way.add_done_callback(self._tasks.discard)
        return way

    def _dispatch_ahead(self, started: Started, member: Member) -> bool:
        """Dispatch a turn while its start is being written, unless its worker is warm no more; tell whether it was."""
        held = member.held.get(started.session.key.session_id)
        is_warm = held is not None and held.name == started.session.head
        return is_warm and self._dispatch_at_once(started, member, Way(Start.WARM))

    def _dispatch_at_once(self, started: Started, member: Member, way: Way) -> bool:
        """Dispatch a turn before anybody hears of it, unless its worker cannot run it; tell whether it was."""
        key = started.session.key
        can_run = self.fleet.is_member(member) and member.serves(started.turn.agent, started.session.schema)
        if not can_run or not self._is_idle(key):
            return False
        runner = self._ahead[key] = SessionRunner(key, self)
        runner.dispatch_ahead(started, member, way)
        return True

    def _give_up(self, key: SessionKey, member: Member) -> None:
        """Stop what was dispatched ahead, unless somebody saw that its start is durable.

        Its epoch may be given again: the session's next start must skip it, so the
        worker no longer counts for the one that made the head.
        """
        runner = self._ahead.pop(key, None)
        if runner is None:
            return
        runner.give_up()
        held = member.held.get(key.session_id)
        if held is not None:
            member.held[key.session_id] = msgspec.structs.replace(held, is_head=False)

    async def _unheard(self, call: Callable[[], Awaitable[object]]) -> None:
        """Make a call again whose caller did not wait for its outcome: it changes nothing twice."""
        with contextlib.suppress(SatchelError):
            await call()

    async def _find(self, key: SessionKey, message_id: MessageId) -> None:
        """See that a message runs if the store has it."""
        while True:
            await asyncio.sleep(STORE_RETRY_S)
            try:
                await self.deliver(key, message_id)
            except StoreUnavailable:
                continue
            except SatchelError:  # the store does not have it, or the hub drains
                return
            return

    async def deliver(self, key: SessionKey, message_id: MessageId) -> Delivery:
        """Find a known message's events. Raises ``SessionNotFound``, ``MessageNotFound``, ``HubDraining``."""
        runner = self._runners.get(key)
        stream = runner.streams.get(message_id) if runner is not None else None
        turn = await self.store.log.turn(key, message_id)
        if stream is not None:
            return Delivery(turn=turn, stream=stream)
        if turn.status.is_final:
            return Delivery(turn=turn, stream=None)
        if not self._is_open:
            raise HubDraining
        return self._take(turn)

    async def cancel(self, key: SessionKey, message_id: MessageId) -> Turn:
        """Cancel a message unless it has ended; return it as it stands."""
        try:
            turn = await self.store.log.cancel(key, message_id, now_ms=self.clock.now_ms())
        except asyncio.CancelledError:  # the call goes on without its caller: the handler must hear of it
            self._spawn(self._unheard(lambda: self.cancel(key, message_id)))
            raise
        runner = self._runners.get(key)
        if runner is not None:
            runner.ended(turn)
        return turn

    async def snapshot(self, key: SessionKey, version: Version) -> bytes:
        """Return a retained version as a SQLite file. Raises as ``snapshot_file`` does, and ``HubDraining``."""
        if not self._is_open:
            raise HubDraining
        try:
            return await snapshot_file(self.store, key, version, rebuild=self._rebuilder.rebuild)
        except StateError as error:
            if not self._is_open:  # its helper process was ended with the hub: nothing is known to be damaged
                raise HubDraining from error
            raise

    def _take(self, turn: Turn, begun: Begun | None = None) -> Delivery:
        ahead = self._ahead.pop(turn.key, None)
        if ahead is not None:  # what was read of its session is durable, and so is its start
            self._runners[turn.key] = ahead
            self._run(ahead)
        runner = self._runner(turn.key)
        is_idle = not runner.streams
        stream = runner.enqueue(turn, begun)
        if is_idle:
            self._run(runner)
        return Delivery(turn=turn, stream=stream)

    def _runner(self, key: SessionKey) -> SessionRunner:
        runner = self._runners.get(key)
        if runner is None:
            runner = self._runners[key] = SessionRunner(key, self)
        return runner

    def _run(self, runner: SessionRunner) -> None:
        async def run() -> None:
            try:
                await runner.run()
            finally:
                self._runners.pop(runner.key, None)

        self._spawn(run())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if not self._is_open:
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- workers -----------------------------------------------------------------------------

    async def join(self, member: Member, register: Register) -> tuple[AttemptName, ...]:
        """Take a worker; return the attempts it is to go on with. Raises ``LinkRefused``.

        So that both sides say the same thing, one of another protocol version is
        refused here, with a frame that it can read, and not cut off by the link.
        A schema number that is known with another fingerprint is refused: the agent's
        schema was changed without a migration.
        """
        if register.protocol_version != PROTOCOL_VERSION:
            raise LinkRefused(
                f"The worker speaks protocol {register.protocol_version}, this hub {PROTOCOL_VERSION}.",
                hint="Install the same release of satchel on both.",
            )
        for spec in register.agents:
            try:
                await self.store.log.register_agent(member.tenant, spec)
            except SchemaRefused as error:
                raise LinkRefused(error.message, hint=error.hint) from error
            self._agents[(member.tenant, spec.name)] = spec
        replaced = self.fleet.join(member)
        if replaced is not None:
            self._lose(replaced)
        adopted = []
        for name in register.attempts:
            runner = self._runners.get(SessionKey(member.tenant, name.session_id))
            if runner is not None and runner.adopt(member, name):
                member.busy.add(name)
                adopted.append(name)
        return tuple(adopted)

    async def welcome(self, member: Member, register: Register, adopted: tuple[AttemptName, ...]) -> None:
        """Begin to use a worker that was told that it is registered, and settle the attempts it does not go on with."""
        self.fleet.grant()
        for name in register.attempts:
            if name in adopted:
                continue
            head = await self._committed_head(member.tenant, name)
            if head is not None:
                member.send(Committed(name))
                self.fleet.holds(member, head)
            else:
                member.send(Cancel(name, reason="another attempt or answer took its place"))

    async def _committed_head(self, tenant: Tenant, name: AttemptName) -> Session | None:
        """Return the session if exactly this attempt made its head: the hub died between the commit and saying so."""
        key = SessionKey(tenant, name.session_id)
        try:
            turn, session = await self.store.log.turn(key, name.message_id), await self.store.log.session(key)
        except RequestError:  # this store never heard of it
            return None
        return session if (turn.version, name.epoch) == (session.head.version, session.epoch) else None

    def leave(self, member: Member) -> None:
        """Lose a worker whose link is closed: its attempts run again elsewhere. Idempotent."""
        self.fleet.leave(member)
        self._lose(member)

    def release(self, key: SessionKey) -> None:
        """Have every worker drop its idle copy of a session: its next turn starts cold."""
        for member in self.fleet.members(key.tenant):
            if member.held.pop(key.session_id, None) is not None:
                member.send(Release(key.session_id))

    def _lose(self, member: Member) -> None:
        for runner in (*self._runners.values(), *self._ahead.values()):
            if runner.key.tenant == member.tenant:
                runner.lost(member)

    def receive(self, member: Member, frame: Frame) -> None:
        """Give a worker's frame to the session it speaks of. Raises ``PeerViolation``."""
        match frame:
            case Pieces() | Event():
                self._told(member, frame)
            case Result() | Failure():
                is_taken = self._told(member, frame)
                if not (is_taken and _goes_on(frame)):
                    self.fleet.vacate(member, frame.attempt)
            case Released():
                member.held.pop(frame.session_id, None)
            case _:
                pass  # the link's own frames end at the link

    def _told(self, member: Member, frame: Event | Pieces | Result | Failure) -> bool:
        key = SessionKey(member.tenant, frame.attempt.session_id)
        runner = self._runners.get(key) or self._ahead.get(key)
        return runner is not None and runner.receive(member, frame)

    # --- what a runner asks --------------------------------------------------------------------

    def agent(self, key: SessionKey, name: str) -> AgentSpec | None:
        """Return an agent as last registered with this hub."""
        return self._agents.get((key.tenant, name))

    def wants_digest(self, session: Session) -> bool:
        """Tell whether the next version should come with a digest: it is what compaction compares."""
        return self._is_compaction_due(session)

    def _is_compaction_due(self, session: Session) -> bool:
        is_due = compaction.is_due(session, deltas_min=self.settings.compact_deltas_min)
        return is_due and session.key not in self._compacting

    def wants_snapshot(self, key: SessionKey) -> bool:
        """Tell whether the stored chain is damaged, so that a whole state must replace it."""
        return key in self._damaged

    def damaged(self, key: SessionKey) -> None:
        """Hear that the stored chain is damaged: the next version is to be a whole state."""
        self._damaged.add(key)

    def committed(self, session: Session) -> None:
        """Do what follows a commit and nobody waits for."""
        key = session.key
        self.fleet.committed(key, session.head)
        if session.snapshot_version == session.head.version:
            self._damaged.discard(key)
        if session.digest is not None and self._is_compaction_due(session):
            self._compacting.add(key)
            self._spawn(self._compact(session))
        elif session.head.version % self.settings.trim_every_versions == 0:
            self._spawn(self._trim(key))

    async def _compact(self, session: Session) -> None:
        key = session.key
        try:
            async with self._one_compaction:
                done = await compaction.compact(self.store, key, session.head.version, rebuild=self._rebuilder.rebuild)
            self.telemetry.compactions.labels("done" if done else "not needed").inc()
            await self._trim(key)
        except SatchelError as error:
            self.telemetry.compactions.labels("failed").inc()
            self.damaged(key)
            logger.exception(
                "a chain could not be rebuilt",
                extra={"session_id": key.session_id, "version": session.head.version, "error": str(error)},
            )
        finally:
            self._compacting.discard(key)

    async def _trim(self, key: SessionKey) -> None:
        try:
            await self.store.log.trim(
                key, retain_versions=self.settings.retain_versions, retain_answers=self.settings.retain_answers
            )
        except SatchelError:  # kept a little longer: the next trim deletes it
            logger.exception("retention failed", extra={"session_id": key.session_id})

    async def _sweep(self) -> None:
        while True:
            try:
                await sweep(self.store, now_ms=self.clock.now_ms())
            except SatchelError:  # the next round sweeps it
                logger.exception("sweeping failed")
            await asyncio.sleep(OBJECT_GRACE_S / 4)


def _is_read(way: asyncio.Task[Way]) -> bool:
    """Tell whether the links are there; what kept them from being read is the runner's to meet."""
    return way.done() and not way.cancelled() and way.exception() is None


def _goes_on(frame: Result | Failure) -> bool:
    """Tell whether the attempt keeps its slot: its runner sends the state that was missing."""
    return isinstance(frame, Failure) and frame.code is FailureCode.SESSION_STATE_NOT_FOUND
