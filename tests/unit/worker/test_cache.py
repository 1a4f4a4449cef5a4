"""Warm sessions are bounded in bytes, and only idle ones go."""

from hypothesis import given
from hypothesis import strategies as st

from satchel.worker.cache import WarmCache


class Copy:
    def __init__(self, state_bytes: int) -> None:
        self.state_bytes = state_bytes
        self.is_closed = False

    def close(self):
        self.is_closed = True


def test_the_least_recently_used_idle_copy_goes_first():
    """A session that is talked to stays warm."""
    evicted = []
    cache = WarmCache(20, evicted=evicted.append)
    for name in ("a", "b"):
        cache.put(name, Copy(10))
        cache.vacate(name)
    cache.vacate("a")

    cache.put("c", Copy(10))
    cache.vacate("c")

    assert evicted == ["b"]
    assert [name for name, _ in cache] == ["a", "c"]


def test_exactly_the_bound_is_kept_and_one_byte_more_is_not():
    evicted = []
    cache = WarmCache(10, evicted=evicted.append)
    cache.put("a", Copy(10))
    cache.vacate("a")
    assert evicted == []

    cache.get("a").state_bytes = 11
    cache.vacate("a")

    assert evicted == ["a"]
    assert cache.total_bytes == 0


def test_a_replaced_copy_is_closed_and_a_removed_one_is_not():
    """A copy that a stuck handler still uses is closed by whoever waits for it."""
    cache = WarmCache(100, evicted=lambda _: None)
    first, second = Copy(1), Copy(2)
    cache.put("a", first)
    cache.put("a", second)

    assert cache.remove("a") is second
    assert (first.is_closed, second.is_closed, cache.total_bytes) == (True, False, 0)
    assert cache.drop("a") is False


@given(
    st.lists(st.tuples(st.sampled_from(["put", "occupy", "vacate", "drop"]), st.sampled_from("abc"), st.integers(0, 9)))
)
def test_busy_copies_stay_and_idle_ones_fit_the_bound(steps):
    """The count of bytes must not drift, and no running turn may lose its state."""
    busy = set()
    gone = []
    cache = WarmCache(10, evicted=gone.append)
    for action, name, size in steps:
        match action:
            case "put":
                cache.put(name, Copy(size))
            case "occupy":
                cache.occupy(name)
                busy.add(name)
            case "vacate":
                cache.vacate(name)
                busy.discard(name)
                held = dict(cache)
                assert cache.total_bytes <= 10 or set(held) <= busy
            case "drop":
                cache.drop(name)
        assert cache.total_bytes == sum(copy.state_bytes for _, copy in cache)
        assert not busy & set(gone)
        gone.clear()
