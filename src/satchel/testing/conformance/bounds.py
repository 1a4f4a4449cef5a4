"""Clauses of what is largest: whatever may enter is kept exactly, at its bound and one past it.

The hub refuses what is beyond its bounds. A store that cuts, folds or refuses anything
near them would do so to somebody's message.
"""

# ruff: noqa: PLR2004  # a clause is made of assertions about small numbers

from satchel.limits import (
    ID_LENGTH_MAX,
    INLINE_BYTES_MAX,
    METADATA_BYTES_MAX,
    TEXT_BYTES_MAX,
    TURN_EVENTS_BYTES_MAX,
)
from satchel.model import DEFAULT_TENANT, MessageId, canonical_json
from satchel.store.base import Store, StoredEvents
from satchel.testing.conformance.script import Script, agent_spec, session_key

ID = ("Aa0._~:@+-" * ID_LENGTH_MAX)[: ID_LENGTH_MAX - 1]


class BoundClauses:
    """Nothing is cut, folded or refused within the bounds."""

    async def test_the_longest_ids_are_told_apart_by_their_last_character(self, store: Store) -> None:
        """Also by its case: a store that folds it mixes two users' sessions."""
        for session_id in (f"{ID}x", f"{ID}X", f"{ID}y", f"{ID}-"):
            script = await Script.begin(store, session_key(session_id))
            await script.admit(f"{ID}x", text=session_id)
            await script.admit(f"{ID}X", text=session_id)

            assert (await script.turn(f"{ID}X")).place == 2
            assert (await script.session()).waiting == 2

        sessions = await store.log.sessions(DEFAULT_TENANT, agent=None, limit=10, after=None)
        assert [session.key.session_id for session in sessions] == sorted([f"{ID}x", f"{ID}X", f"{ID}y", f"{ID}-"])

    async def test_the_longest_agents_names_are_told_apart(self, store: Store) -> None:
        """Their schemas differ."""
        for name in (f"{ID}x", f"{ID}X"):
            await store.log.register_agent(DEFAULT_TENANT, agent_spec(name))

        assert list(await store.log.agents(DEFAULT_TENANT)) == [agent_spec(f"{ID}X"), agent_spec(f"{ID}x")]

    async def test_the_largest_message_is_kept_exactly(self, store: Store) -> None:
        """Text and metadata at their bounds, in bytes of UTF-8 and of JSON, and one past them."""
        script = await Script.begin(store)
        room = METADATA_BYTES_MAX - len(canonical_json({"k": ""}))
        for number, past in enumerate((0, 1)):
            text = "\U0001f600" * (TEXT_BYTES_MAX // 4) + "." * past
            metadata = {"k": "v" * (room + past)}

            await script.admit(f"m{number}", text=text, metadata=metadata)

            turn = await script.turn(f"m{number}")
            assert turn.text == text
            assert turn.metadata == metadata

    async def test_the_largest_inline_bytes_are_kept_exactly(self, store: Store) -> None:
        """A delta and an event list at the bound up to which they rest in the log, and one past it."""
        script = await Script.begin(store)
        await script.commit_turn("m0")
        for number, size in ((1, INLINE_BYTES_MAX), (2, INLINE_BYTES_MAX + 1)):
            raw, lines = b"\0" * (size - 1) + b"d", b"\xff" * (size - 1) + b"\n"
            started = await script.run(f"m{number}")

            await script.commit(script.commit_of(started, raw=raw, events=StoredEvents(lines)))

            assert (await script.chain(number + 1))[-1].stored.payload.data == raw
            assert await script.log.events(script.key, MessageId(f"m{number}")) == StoredEvents(lines)

    async def test_the_largest_object_is_kept_exactly(self, store: Store) -> None:
        """A turn's events at their bound, and one past it."""
        for size in (TURN_EVENTS_BYTES_MAX, TURN_EVENTS_BYTES_MAX + 1):
            data = b"e" * (size - 1) + b"\n"

            assert await store.objects.get(await store.objects.put(session_key(), data)) == data

    async def test_a_page_holds_its_limit_and_no_more(self, store: Store) -> None:
        """At what there is, one below and one above: a cursor is made of the last item."""
        for session_id in ("a", "b", "c"):
            script = await Script.begin(store, session_key(session_id))
            await script.commit_turns(3)

        for limit, length in ((2, 2), (3, 3), (4, 3)):
            turns = await script.log.turns(script.key, limit=limit, before=None)
            versions = await script.log.versions(script.key, limit=limit, before=None)
            sessions = await store.log.sessions(DEFAULT_TENANT, agent=None, limit=limit, after=None)

            assert [turn.message_id for turn in turns] == ["m1", "m2", "m3"][-length:]
            assert [row.message_id for row in versions] == ["m1", "m2", "m3"][-length:]
            assert [session.key.session_id for session in sessions] == ["a", "b", "c"][:length]

    async def test_as_many_answers_are_kept_as_were_asked_for(self, store: Store) -> None:
        """With as many finished turns as are retained none goes; with one more the oldest does."""
        script = await Script.begin(store)
        await script.commit_turns(3)

        for retained, answers in ((4, 3), (3, 3), (2, 2)):
            await script.trim(retain_versions=100, retain_answers=retained)

            turns = await script.log.turns(script.key, limit=10, before=None)
            events = [await script.log.events(script.key, turn.message_id) for turn in turns]
            assert [turn.answer is not None for turn in turns] == [False] * (3 - answers) + [True] * answers
            assert [each is not None for each in events] == [False] * (3 - answers) + [True] * answers
