"""Who may call: a web page must not reach a developer's hub."""

import pytest

from satchel.errors import InvalidRequest, PermissionDenied, Unauthenticated
from satchel.hub.auth import Gate
from satchel.hub.settings import Keys, check_exposure

OPEN = Gate(keys=Keys())
KEYED = Gate(keys=Keys(api="caller-secret", worker="worker-secret"))
LOCAL = {"host": "127.0.0.1:8700"}


@pytest.mark.parametrize("host", ["127.0.0.1:8700", "localhost:8700", "[::1]:8700", "127.9.9.9", "app.localhost"])
def test_a_loopback_host_may_call(host):
    assert OPEN.caller({"host": host}, writes=True) == "default"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8700", "127.0.0.1.evil.example", "", "10.0.0.1", "["])
def test_a_host_that_is_not_loopback_is_refused(host):
    """DNS rebinding: the page's own name resolves to 127.0.0.1, and its reads would be same-origin."""
    with pytest.raises(PermissionDenied):
        OPEN.caller({"host": host}, writes=False)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8700", "http://["]
)
def test_a_foreign_origin_may_not_write(origin):
    with pytest.raises(PermissionDenied):
        OPEN.caller({**LOCAL, "origin": origin}, writes=True)


def test_the_hubs_own_origin_may_write():
    assert OPEN.caller({**LOCAL, "origin": "http://127.0.0.1:8700"}, writes=True) == "default"


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:8700"])
def test_no_page_at_all_may_open_the_link(origin):
    """No worker sends Origin, and every browser does."""
    with pytest.raises(PermissionDenied):
        OPEN.worker({**LOCAL, "origin": origin})


def test_each_key_opens_its_own_door():
    assert KEYED.caller({"authorization": "Bearer caller-secret"}, writes=True) == "default"
    assert KEYED.worker({"authorization": "bearer worker-secret"}) == "default"
    with pytest.raises(Unauthenticated):
        KEYED.caller({"authorization": "Bearer worker-secret"}, writes=False)
    with pytest.raises(Unauthenticated):
        KEYED.worker({"authorization": "Bearer caller-secret"})


@pytest.mark.parametrize("header", ["", "caller-secret", "Basic caller-secret", "Bearer", "Bearer caller-secre"])
def test_anything_but_the_key_is_refused(header):
    with pytest.raises(Unauthenticated):
        KEYED.caller({**LOCAL, "authorization": header}, writes=False)


def test_a_mounted_hub_serves_no_link_without_a_worker_key():
    """The app around it looks after its callers, not after workers."""
    mounted = Gate(keys=Keys(), is_mounted=True)

    assert mounted.caller({"host": "shop.example", "origin": "https://shop.example"}, writes=True) == "default"
    with pytest.raises(PermissionDenied):
        mounted.worker(LOCAL)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "hub.example"])
@pytest.mark.parametrize("keys", [Keys(), Keys(api="a"), Keys(worker="w")])
def test_a_hub_beyond_loopback_needs_both_keys(host, keys):
    with pytest.raises(InvalidRequest):
        check_exposure(host, keys)


def test_loopback_needs_none_and_both_open_the_world():
    check_exposure("127.0.0.1", Keys())
    check_exposure("::1", Keys())
    check_exposure("0.0.0.0", Keys(api="a", worker="w"))


def test_keys_do_not_show():
    """Settings end up in logs and tracebacks."""
    assert "secret" not in repr(Keys(api="caller-secret", worker="worker-secret"))
