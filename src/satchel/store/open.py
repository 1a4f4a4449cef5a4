"""Opens a store by its path or URL."""

from pathlib import Path

from satchel.clock import Clock
from satchel.errors import InvalidRequest, NotSupported, StoreUnavailable
from satchel.store.base import Store
from satchel.store.files import StoreLock
from satchel.store.sqlite import SqliteStore


async def open_store(url: str, *, holder: str = "") -> Store:
    """Open the store at *url*, creating it and its directories if it is new.

    *url* is a path, ``sqlite:///relative`` or ``sqlite:////absolute``. *holder* is the
    URL that this process serves: a second opener is told. Close the store after use.

    Raises ``StoreInUse``, ``StoreFormatUnknown``, ``StoreUnavailable``, ``NotSupported``,
    ``InvalidRequest``.
    """
    path = store_path(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = StoreLock.take(path, holder=holder)
    except OSError as error:
        raise StoreUnavailable(
            f"{path} cannot be opened: {error.strerror}.", hint="Check the path and its permissions.", path=str(path)
        ) from error
    store = SqliteStore(path, lock, now_ms=Clock().now_ms)
    await store.open()
    return store


def store_path(url: str) -> Path:
    """Return the absolute path of the log file that *url* names."""
    scheme, is_url, rest = url.partition("://")
    if not is_url:
        # Absolute, so that no path means something else to SQLite, as ":memory:" would.
        return _file(url)
    if scheme == "sqlite" and rest.startswith("/"):
        return _file(rest[1:])
    if scheme in {"postgresql", "postgres"}:
        raise NotSupported(
            "This release keeps its store in SQLite files.", hint="Give a path, such as satchel.db.", scheme=scheme
        )
    raise InvalidRequest(
        "The store's URL is not understood.",
        hint="Give a path, sqlite:///relative.db or sqlite:////absolute.db.",
        field="store",
    )


def _file(path: str) -> Path:
    if not path or path.endswith("/"):
        raise InvalidRequest("The store's path names no file.", hint="Give a path, such as satchel.db.", field="store")
    return Path(path).absolute()
