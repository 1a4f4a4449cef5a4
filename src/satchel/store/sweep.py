"""Deletes objects that no row names, once nobody can be about to name them."""

from satchel.limits import OBJECT_GRACE_S
from satchel.model import SessionKey
from satchel.store.base import Store


async def sweep(store: Store, *, now_ms: int) -> int:
    """Delete the objects that no row names and no put touched within the grace; return how many.

    An object goes only after the row that named it: the rows are read after the
    object was found untouched, and a put that touches it meanwhile keeps it.
    """
    older_than_ms = now_ms - int(OBJECT_GRACE_S * 1000)
    named: tuple[SessionKey, frozenset[bytes]] | None = None
    deleted = 0
    async for name in store.objects.sweepable(older_than_ms=older_than_ms):
        if named is None or named[0] != name.key:
            named = (name.key, await store.log.named_objects(name.key))
        if name.content_hash not in named[1]:
            deleted += await store.objects.delete(name, older_than_ms=older_than_ms)
    return deleted
