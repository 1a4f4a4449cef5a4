"""What it takes to bring a session's head to a worker: the bytes it would cost each, and the links themselves."""

import msgspec

from satchel.hub.fleet import Fleet, Need
from satchel.model import EMPTY, Link, Start, StateName, Version
from satchel.state.plan import cheapest_plan
from satchel.store.base import Log, Session, Store
from satchel.store.chain import load_chain, load_deltas


class Way(msgspec.Struct, frozen=True):
    """How a worker gets to a session's head, and the links that it needs for that, in order."""

    start: Start
    links: tuple[Link, ...] = ()


async def need_of(session: Session, *, fleet: Fleet, log: Log) -> Need:
    """Return what a session's next turn asks of a worker. Raises what *log* raises."""
    ship_bytes = await _ship_bytes(session, fleet, log)
    return Need(key=session.key, agent=session.agent, head=session.head, schema=session.schema, ship_bytes=ship_bytes)


async def _ship_bytes(session: Session, fleet: Fleet, log: Log) -> dict[Version | None, int]:
    """Return what it costs to bring each held version to the head; None: a cold start."""
    costs: dict[Version | None, int] = {None: session.chain_bytes, session.head.version: 0}
    for held in set(fleet.held_versions(session.key).values()):
        if held.version < session.head.version:
            links = await log.deltas(session.key, held.version, session.head.version)
            if links is not None:
                costs[held.version] = sum(link.stored.size for link in links)
    return costs


async def way_to_head(store: Store, session: Session, held: StateName | None) -> Way:
    """Return the cheapest way to the head for a worker that holds *held*. Raises as ``load_chain`` does."""
    head = session.head
    if head.version == EMPTY:
        return Way(Start.NEW)
    if held == head:
        return Way(Start.WARM)
    if held is not None and held.version < head.version:
        links = await load_deltas(store, session.key, held.version, head.version)
        sizes = {link.name.version: link.payload.size for link in links or ()}
        plan = cheapest_plan(held.version, head.version, cold_bytes=session.chain_bytes, delta_bytes=sizes)
        if links and plan.start is Start.CATCH_UP:
            return Way(Start.CATCH_UP, links)
    return Way(Start.COLD, await load_chain(store, session.key, head.version))
