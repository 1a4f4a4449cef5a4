"""The store's contracts as test classes: a backend passes by inheriting ``StoreConformance``.

Give it two fixtures: ``opens``, a function that opens the same, at first empty, store
each time it is called, and ``crash``, which kills it in the middle of a call. Needs
pytest, with pytest-asyncio in auto mode.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in ("script", "admission", "turns", "commits", "chains", "objects", "bounds", "reads", "crashes")
    )
)

from satchel.testing.conformance.store import StoreConformance  # noqa: E402  # after its asserts are made to explain

__all__ = ["StoreConformance"]
