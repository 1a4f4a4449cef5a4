"""A session's SQLite database, wherever it is open: recorded live, sent as deltas and snapshots."""

import apsw

_SQLITE_MIN = (3, 54)
"""Older releases crash on hostile changesets and abort on swaps of unique values."""

if tuple(int(part) for part in apsw.sqlite_lib_version().split(".")[:2]) < _SQLITE_MIN or not hasattr(apsw, "Session"):
    raise ImportError(
        f"Satchel needs apsw with SQLite 3.54 or later and its session extension; "
        f"this apsw brings SQLite {apsw.sqlite_lib_version()}. Install apsw>=3.54.1.0 from PyPI."
    )
