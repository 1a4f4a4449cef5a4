"""A hub's settings: small frozen values with units in their names."""

import functools
import ipaddress

import msgspec

from satchel import limits
from satchel.errors import InvalidRequest


class Keys(msgspec.Struct, frozen=True):
    """Secrets that callers and workers present; None: none is asked for."""

    api: str | None = None
    worker: str | None = None

    def __repr__(self) -> str:
        shown = {name: "***" if getattr(self, name) else None for name in ("api", "worker")}
        return f"Keys(api={shown['api']!r}, worker={shown['worker']!r})"


class HubSettings(msgspec.Struct, frozen=True):
    """What a hub does where an agent does not say."""

    worker_wait_s: float = limits.WORKER_WAIT_S
    adopt_s: float = limits.ADOPT_S
    queue_length_max: int = limits.QUEUE_LENGTH_MAX
    retain_versions: int = limits.RETAIN_VERSIONS
    retain_answers: int = limits.RETAIN_ANSWERS
    trim_every_versions: int = limits.TRIM_EVERY_VERSIONS
    compact_deltas_min: int = limits.COMPACT_DELTAS_MIN
    ping_interval_s: float = limits.PING_INTERVAL_S
    keep_alive_s: float = limits.KEEP_ALIVE_S


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Tell whether *host*, a name or address without port, is this machine only."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, keys: Keys) -> None:
    """Refuse to listen beyond loopback without both keys."""
    missing = [
        name for name, key in (("SATCHEL_API_KEY", keys.api), ("SATCHEL_WORKER_KEY", keys.worker)) if key is None
    ]
    if missing and not is_loopback(host):
        raise InvalidRequest(
            f"A hub on {host} can be reached from other machines and has no keys.",
            hint=f"Set {' and '.join(missing)}, or listen on 127.0.0.1.",
        )
