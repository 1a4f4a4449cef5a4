"""Near-valid bytes: something valid, edited a few times."""

import hypothesis.strategies as st

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**63)
"""At and around the bounds of what is counted and sized."""


def near(valid: list[bytes]) -> st.SearchStrategy[bytes]:
    """Return bytes near *valid* ones, and any at all."""
    return st.one_of(_edited(valid), _edited(valid), _edited(valid), st.binary(max_size=400))


@st.composite
def _edited(draw: st.DrawFn, valid: list[bytes]) -> bytes:
    data = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(0, 4))):
        data = _edit(draw, data, valid)
    return data


def _edit(draw: st.DrawFn, data: bytes, valid: list[bytes]) -> bytes:
    start = draw(st.integers(0, len(data)))
    end = min(len(data), start + draw(st.integers(0, 16)))
    put, after = b"", data[end:]
    match draw(st.integers(0, 6)):
        case 0:
            pass  # cut out
        case 1:
            put = draw(st.binary(max_size=16))
        case 2:
            after = b""
        case 3:
            after = data[start:]  # twice
        case 4:
            other = draw(st.sampled_from(valid))
            after = other[draw(st.integers(0, len(other))) :]
        case 5:
            number, width = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from([1, 2, 4, 8]))
            put, after = (number % 256**width).to_bytes(width, "big"), data[start + width :]
        case _ if start < len(data):
            put, after = bytes([data[start] ^ 1 << draw(st.integers(0, 7))]), data[start + 1 :]
    return data[:start] + put + after
