"""Where a process that serves takes memory."""

import subprocess
import sys

import pytest

COUNT_ARENAS = """
import ctypes, threading
from satchel.cli import heap
{settle}
thread = threading.Thread(target=lambda: [bytes(1000) for _ in range(100_000)])
thread.start(), thread.join()
c = ctypes.CDLL(None)
c.fdopen.restype, c.malloc_info.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
c.fflush.argtypes = (ctypes.c_void_p,)
out = c.fdopen(1, b"w")
c.malloc_info(0, out), c.fflush(out)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is asked")
def test_threads_have_no_heap_of_their_own():
    """It grows by the page, each with a call of the system: opening a state there takes several times as long."""
    arenas = [
        subprocess.run(
            [sys.executable, "-c", COUNT_ARENAS.format(settle=settle)], check=True, capture_output=True, text=True
        ).stdout.count("<heap nr=")
        for settle in ("", "heap.settle()")
    ]

    assert arenas == [2, 1]
