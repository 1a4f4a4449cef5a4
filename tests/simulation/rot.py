"""Flips a bit in what is stored of a session: what a disk does over the years."""

import contextlib
import random
from pathlib import Path

import apsw

from satchel.state.payload import checksum

_STORED = (
    ("version", "snapshot_version <> version"),
    ("snapshot", "data IS NOT NULL"),
)
"""Where a session's payloads lie in the log, deltas first."""


def rot(path: Path, session: str, chance: random.Random) -> bool:
    """Damage one payload of *session*; False if it has none. Now and then its checksum is damaged to match."""
    table, condition = chance.choice(_STORED)
    with contextlib.closing(apsw.Connection(str(path))) as log:
        rows = list(
            log.execute(
                f"SELECT version, data FROM {table} WHERE session_id = ? AND data IS NOT NULL AND {condition} "
                "ORDER BY version",
                (session,),
            )
        )
        if not rows:
            return False
        version, data = chance.choice(rows)
        damaged = bytearray(data)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        log.execute(
            f"UPDATE {table} SET data = ? WHERE session_id = ? AND version = ?", (bytes(damaged), session, version)
        )
        if table == "version" and chance.random() < 0.5:  # a delta's name follows from its bytes, whatever they claim
            log.execute(
                "UPDATE version SET checksum = ? WHERE session_id = ? AND version = ?",
                (checksum(bytes(damaged)), session, version),
            )
        return True
