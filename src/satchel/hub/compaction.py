"""Folds old deltas into a newer snapshot, in a helper process, never in the path of a turn.

It changes no version's content: it rebuilds a committed version, compares the
digest that its worker sent, writes the snapshot, and publishes it. Only then may
retention take the old chain.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from satchel.errors import VersionExpired
from satchel.limits import CHAIN_BYTES_MAX, COMPACT_DELTAS_MIN, COMPACT_WEIGHT
from satchel.model import PayloadKind, SessionKey, Version
from satchel.state.payload import seal
from satchel.state.rebuild import RebuildJob, Rebuilt, rebuild
from satchel.store.base import PublishedSnapshot, Session, Store, StoredPayload
from satchel.store.chain import read_chain


def is_due(session: Session, *, deltas_min: int = COMPACT_DELTAS_MIN) -> bool:
    """Tell whether a session's deltas outgrew its snapshot; fewer than *deltas_min* did not.

    ==========================================================  ======
    no delta                                                    no
    deltas fill half of the room a chain has behind a snapshot  yes
    too few deltas                                              no
    deltas weigh COMPACT_WEIGHT of the compressed snapshot      yes
    ==========================================================  ======

    Each rule is a share of what a snapshot leaves or weighs, so that what compaction
    writes stays in proportion to what turns wrote.
    """
    if session.chain_deltas == 0:
        return False
    delta_bytes = session.chain_bytes - session.snapshot_bytes
    if 2 * delta_bytes >= CHAIN_BYTES_MAX - session.snapshot_bytes:
        return True
    return session.chain_deltas >= deltas_min and delta_bytes >= COMPACT_WEIGHT * session.snapshot_bytes


async def compact(
    store: Store,
    key: SessionKey,
    version: Version,
    *,
    rebuild: Callable[[RebuildJob], Awaitable[Rebuilt]] = rebuild,
) -> bool:
    """Rebuild *version* and publish it as the snapshot that later deltas stand on.

    False, and nothing changed, if a snapshot at or after it exists or it is no longer kept.
    Raises ``CorruptState``, ``CorruptPayload`` or ``ApplyConflict`` if the stored chain does
    not give the rows that were committed: nothing was published, and the chain is not to be used.
    """
    try:
        stored, links = await read_chain(store, key, version)
    except VersionExpired:
        return False
    if len(links) == 1:
        return False
    target = stored[-1]
    rebuilt = await rebuild(
        RebuildJob(
            session_id=key.session_id,
            links=links,
            base=target.name,
            schema=target.schema,
            digest=target.digest,
        )
    )
    payload = await asyncio.to_thread(seal, PayloadKind.SNAPSHOT, rebuilt.image)
    snapshot = StoredPayload(
        payload=msgspec.structs.replace(payload, data=b""), object=await store.objects.put(key, payload.data)
    )
    return await store.log.publish(
        PublishedSnapshot(key=key, name=target.name, payload=snapshot, digest=rebuilt.digest)
    )
