"""Stored chains with their bytes: what is sent to a worker and rebuilt at the hub."""

from collections.abc import Sequence

import msgspec

from satchel.errors import CorruptPayload
from satchel.model import Link, Payload, SessionKey, Version
from satchel.state.payload import checksum
from satchel.store.base import ChainLink, Store, StoredPayload


async def load_chain(store: Store, key: SessionKey, version: Version) -> tuple[Link, ...]:
    """Return the snapshot nearest below or at *version* and the deltas after it, with their bytes.

    Raises ``VersionNotFound``, ``VersionExpired``, ``CorruptPayload`` (stored bytes are damaged).
    """
    _stored, links = await read_chain(store, key, version)
    return links


async def read_chain(store: Store, key: SessionKey, version: Version) -> tuple[Sequence[ChainLink], tuple[Link, ...]]:
    """Return what ``load_chain`` does, and the stored links it is made of: their digests and schemas."""
    stored = await store.log.chain(key, version)
    try:
        return stored, await _load(store, stored)
    except CorruptPayload:
        # Compaction may have published a nearer snapshot, and the old one been swept, since the rows were read.
        again = await store.log.chain(key, version)
        if again == stored:
            raise
        return again, await _load(store, again)


async def load_deltas(store: Store, key: SessionKey, after: Version, upto: Version) -> tuple[Link, ...] | None:
    """Return the deltas ``after+1..upto`` with their bytes; None if one is not a delta or not kept."""
    stored = await store.log.deltas(key, after, upto)
    return None if stored is None else await _load(store, stored)


async def _load(store: Store, stored: Sequence[ChainLink]) -> tuple[Link, ...]:
    return tuple([Link(name=link.name, payload=await _payload(store, link.stored)) for link in stored])


async def _payload(store: Store, stored: StoredPayload) -> Payload:
    if stored.object is None:
        if checksum(stored.payload.data) != stored.payload.checksum:
            raise CorruptPayload(f"A stored {stored.payload.kind} does not have its checksum.")
        return stored.payload
    return msgspec.structs.replace(stored.payload, data=await store.objects.get(stored.object))
