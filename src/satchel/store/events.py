"""A committed turn's events, wherever they rest."""

from satchel.errors import AnswerExpired
from satchel.store.base import Store, Turn


async def load_events(store: Store, turn: Turn) -> bytes:
    """Return a committed turn's events as JSON lines. Raises ``AnswerExpired``, ``CorruptPayload``."""
    events = await store.log.events(turn.key, turn.message_id)
    if events is None:
        raise AnswerExpired(version=turn.version)
    return events.lines if events.object is None else await store.objects.get(events.object)
