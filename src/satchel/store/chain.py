"""Stored chains with their bytes: what is sent to a worker and rebuilt at the hub."""

from collections.abc import Sequence

import msgspec

from satchel.model import Link, Payload, SessionKey, Version
from satchel.store.base import ChainLink, Store, StoredPayload


async def load_chain(store: Store, key: SessionKey, version: Version) -> tuple[Link, ...]:
    """Return the snapshot nearest below or at *version* and the deltas after it, with their bytes.

    Raises ``VersionNotFound``, ``VersionExpired``, ``CorruptPayload`` (an object is damaged).
    """
    return await load_links(store, await store.log.chain(key, version))


async def load_deltas(store: Store, key: SessionKey, after: Version, upto: Version) -> tuple[Link, ...] | None:
    """Return the deltas ``after+1..upto`` with their bytes; None if one is not a delta or not kept."""
    links = await store.log.deltas(key, after, upto)
    return None if links is None else await load_links(store, links)


async def load_links(store: Store, links: Sequence[ChainLink]) -> tuple[Link, ...]:
    """Return stored links with the bytes of their objects, each checked against its name."""
    return tuple([Link(name=link.name, payload=await _payload(store, link.stored)) for link in links])


async def _payload(store: Store, stored: StoredPayload) -> Payload:
    if stored.object is None:
        return stored.payload
    return msgspec.structs.replace(stored.payload, data=await store.objects.get(stored.object))
