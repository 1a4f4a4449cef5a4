"""Who may call: keys where they are set, and what a web page may not do where they are not (pure).

A hub on loopback without keys is a developer's. Any page in the developer's browser
can reach it, so a request must look like none a page can make: a loopback ``Host``
(DNS rebinding), no foreign ``Origin`` on anything that writes, none on the link.
"""

import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from satchel.errors import PermissionDenied, Unauthenticated
from satchel.hub.settings import Keys, is_loopback
from satchel.model import DEFAULT_TENANT, Tenant


class Gate(msgspec.Struct, frozen=True):
    """The rules of one hub. ``is_mounted``: the app around it looks after callers, hosts and origins."""

    keys: Keys
    is_mounted: bool = False

    def caller(self, headers: Mapping[str, str], *, writes: bool) -> Tenant:
        """Return the caller's tenant. Raises ``Unauthenticated``, ``PermissionDenied``."""
        if self.is_mounted:
            return DEFAULT_TENANT
        if self.keys.api is not None:
            _check_key(headers, self.keys.api)
            return DEFAULT_TENANT
        _check_host(headers)
        if writes:
            _check_origin(headers)
        return DEFAULT_TENANT

    def worker(self, headers: Mapping[str, str]) -> Tenant:
        """Return the tenant whose turns a worker that dials may run. Raises the same."""
        if self.keys.worker is not None:
            _check_key(headers, self.keys.worker)
            return DEFAULT_TENANT
        if self.is_mounted:
            raise PermissionDenied(
                "This hub is mounted in an app and serves no link without a worker key.",
                hint="Give Hub(worker_key=...), and the same key to the worker.",
            )
        _check_host(headers)
        if "origin" in headers:
            raise PermissionDenied("A web page may not open a worker link.")
        return DEFAULT_TENANT


def _check_key(headers: Mapping[str, str], key: str) -> None:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise Unauthenticated


def _check_host(headers: Mapping[str, str]) -> None:
    host = _hostname(f"//{headers.get('host', '')}")
    if host is None or not is_loopback(host):
        raise PermissionDenied(
            "The Host header names another machine, and this hub has no keys.",
            hint="Call it as 127.0.0.1 or localhost, or set SATCHEL_API_KEY and SATCHEL_WORKER_KEY.",
        )


def _check_origin(headers: Mapping[str, str]) -> None:
    origin = headers.get("origin")
    if origin is not None and _netloc(origin) != headers.get("host"):
        raise PermissionDenied(
            "A web page of another origin may not write to this hub.",
            hint="Call it from a server, or set keys and send them.",
        )


def _netloc(url: str) -> str | None:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
