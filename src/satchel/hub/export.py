"""A retained version as a plain SQLite file, rebuilt in a helper process."""

from collections.abc import Awaitable, Callable

from satchel.errors import VersionNotFound
from satchel.model import SessionKey, Version
from satchel.state.rebuild import RebuildJob, Rebuilt, rebuild
from satchel.store.base import Store
from satchel.store.chain import read_chain


async def snapshot_file(
    store: Store, key: SessionKey, version: Version, *, rebuild: Callable[[RebuildJob], Awaitable[Rebuilt]] = rebuild
) -> bytes:
    """Return the database of *version*, vacuumed. Raises ``VersionNotFound``, ``VersionExpired``, ``StateError``."""
    await store.log.session(key)
    if version == 0:
        raise VersionNotFound("Version 0 is the empty session: it has no file.")
    stored, links = await read_chain(store, key, version)
    last = stored[-1]
    rebuilt = await rebuild(
        RebuildJob(session_id=key.session_id, links=links, base=last.name, schema=last.schema, digest=last.digest)
    )
    return rebuilt.image
