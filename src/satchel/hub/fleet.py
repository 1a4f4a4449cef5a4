"""Who is connected, what each holds warm, how much room it has, and who waits for room.

Only bookkeeping: the choice is ``router.choose_worker``. Everything here is on the
hub's event loop and lost with the hub; workers announce it again when they register.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import msgspec

from satchel.hub.router import Candidate, choose_worker
from satchel.model import AgentSpec, SchemaName, SessionId, SessionKey, StateName, Tenant, Version, WorkerId
from satchel.protocol.messages import AttemptName, HubFrame, Register
from satchel.store.base import Session


class Held(msgspec.Struct, frozen=True):
    name: StateName
    state_bytes: int
    is_head: bool = False
    """This worker committed it through this hub, and nobody has committed since."""


class Member:
    """One connected worker. *send* queues a frame on its link and never blocks."""

    def __init__(
        self, tenant: Tenant, register: Register, *, send: Callable[[HubFrame], None], connected_at_ms: int
    ) -> None:
        self.tenant = tenant
        self.worker_id: WorkerId = register.worker_id
        self.build = register.build
        self.slots = register.slots
        self.agents: dict[str, AgentSpec] = {spec.name: spec for spec in register.agents}
        self.send = send
        self.connected_at_ms = connected_at_ms
        self.reserved = 0
        self.is_closing = False
        """Its process ends: it gave an attempt up, and takes no other."""
        self.busy: set[AttemptName] = set()
        self.held: dict[SessionId, Held] = {
            held.session_id: Held(name=held.name, state_bytes=held.state_bytes) for held in register.held
        }

    @property
    def free_slots(self) -> int:
        """Slots for another turn; none of a process that ends, whatever is warm there."""
        return 0 if self.is_closing else self.slots - self.reserved - len(self.busy)

    def serves(self, agent: str, schema: SchemaName | None) -> bool:
        """Tell whether it runs an agent's sessions of that schema; None: of a session that has none yet."""
        spec = self.agents.get(agent)
        return spec is not None and (schema is None or spec.schema_min <= schema.number <= spec.schema.number)


class Need(msgspec.Struct, frozen=True):
    """What a turn asks of a worker."""

    key: SessionKey
    agent: str
    head: StateName
    schema: SchemaName | None
    ship_bytes: Mapping[Version | None, int]

    def is_served_by(self, member: Member) -> bool:
        return member.tenant == self.key.tenant and member.serves(self.agent, self.schema)


class Fleet:
    """All workers connected to this hub."""

    def __init__(self) -> None:
        self._members: dict[tuple[Tenant, WorkerId], Member] = {}
        self._waiting: dict[asyncio.Future[Member], Need] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def members(self, tenant: Tenant) -> list[Member]:
        return [member for member in self if member.tenant == tenant]

    def join(self, member: Member) -> Member | None:
        """Add a worker; return the older link of the same process that it replaces."""
        replaced = self._members.pop((member.tenant, member.worker_id), None)
        self._members[(member.tenant, member.worker_id)] = member
        return replaced

    def leave(self, member: Member) -> None:
        """Forget a worker and what it held: stickiness is cleared at once. Idempotent."""
        if self._members.get((member.tenant, member.worker_id)) is member:
            del self._members[(member.tenant, member.worker_id)]

    def is_member(self, member: Member) -> bool:
        return self._members.get((member.tenant, member.worker_id)) is member

    @property
    def has_room(self) -> bool:
        """Whether any worker has a free slot."""
        return any(member.free_slots > 0 for member in self)

    def held_versions(self, key: SessionKey) -> dict[WorkerId, StateName]:
        """Return what each worker holds of a session."""
        return {
            member.worker_id: member.held[key.session_id].name
            for member in self
            if member.tenant == key.tenant and key.session_id in member.held
        }

    def seat_now(self, need: Need) -> Member | None:
        """Reserve a slot as ``seat`` does if one is free; those who wait could not use it."""
        member = self._choose(need)
        if member is not None:
            member.reserved += 1
        return member

    def committed(self, key: SessionKey, head: StateName) -> None:
        """Hear of a session's new head: whoever holds it made it, and so serves its schema."""
        for member in self.members(key.tenant):
            held = member.held.get(key.session_id)
            if held is not None:
                member.held[key.session_id] = msgspec.structs.replace(held, is_head=held.name == head)

    def holds(self, member: Member, session: Session) -> None:
        """Hear that a worker holds this state of a session, unless a later one is known of it."""
        held = member.held.get(session.key.session_id)
        if held is None or held.name.version < session.head.version:
            member.held[session.key.session_id] = Held(name=session.head, state_bytes=session.state_bytes)

    def seat_warm(self, key: SessionKey) -> Member | None:
        """Reserve a slot on the worker that made a session's head, without asking the store for the head.

        None if no such worker is here or it is full. A copy that a worker brought along,
        or that another worker's turn left behind, does not count: the session may have
        a schema since that this worker does not serve.
        """
        for member in self.members(key.tenant):
            held = member.held.get(key.session_id)
            if held is not None and held.is_head and member.free_slots > 0:
                member.reserved += 1
                return member
        return None

    def seat_at(self, member: Member) -> bool:
        """Reserve a slot on a worker that has run the session's last turn, and tell whether it had one."""
        has_room = self.is_member(member) and member.free_slots > 0
        member.reserved += has_room
        return has_room

    async def seat(self, need: Need) -> Member:
        """Reserve a slot on the cheapest worker; wait in order of asking.

        Turn the reservation into a running attempt with ``occupy``, or give it back
        with ``unreserve``. Cancel to stop waiting.
        """
        future: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        self._waiting[future] = need
        self.grant()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # granted and cancelled in one step of the loop
                self.unreserve(future.result())
            raise
        finally:
            self._waiting.pop(future, None)

    def occupy(self, member: Member, attempt: AttemptName) -> None:
        """Turn a reservation into the slot that *attempt* holds until ``vacate``."""
        member.reserved -= 1
        member.busy.add(attempt)

    def unreserve(self, member: Member) -> None:
        """Give a reservation back, and let those who wait have it."""
        member.reserved -= 1
        self.grant()

    def vacate(self, member: Member, attempt: AttemptName) -> None:
        """Free the slot of an attempt whose handler has ended, and let those who wait have it. Idempotent."""
        member.busy.discard(attempt)
        self.grant()

    def grant(self) -> None:
        """Seat all who wait and can be seated; to be called when room or members appear."""
        for future, need in list(self._waiting.items()):
            if not self.has_room:
                return  # a thousand may wait: none of them needs to be looked at
            member = None if future.done() else self._choose(need)
            if member is not None:
                member.reserved += 1
                del self._waiting[future]
                future.set_result(member)

    def _choose(self, need: Need) -> Member | None:
        able = {member.worker_id: member for member in self if need.is_served_by(member)}
        candidates = [
            Candidate(
                worker_id=member.worker_id,
                held=held.name if (held := member.held.get(need.key.session_id)) else None,
                free_slots=member.free_slots,
                warm_sessions=len(member.held),
            )
            for member in able.values()
        ]
        chosen = choose_worker(candidates, head=need.head, ship_bytes=need.ship_bytes)
        return None if chosen is None else able[chosen.worker_id]
