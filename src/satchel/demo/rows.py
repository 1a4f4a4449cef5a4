"""The digest that worker and audit compare: each computes it from rows that it read its own way (pure)."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Final

DIGEST_HEX: Final = 16
"""Hex digits of a digest that a person can compare by eye, too."""


def rows_digest(**tables: Iterable[Iterable[Any]]) -> str:
    """Return the digest of *tables*, each a list of rows in an order that both sides know."""
    text = json.dumps({name: [list(row) for row in rows] for name, rows in tables.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_HEX]
