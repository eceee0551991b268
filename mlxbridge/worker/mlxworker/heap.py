"""What this process takes outside of MLX, as the system counts it; and how what was freed goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx

# No code that touches what it takes does that at more bytes a second of its thread's time.
_FASTEST = 8e9


@dataclass
class Growth:
    """What a piece of work has left behind, in bytes."""

    nbytes: int = 0


@contextlib.contextmanager
def measured() -> Iterator[Growth]:
    """Measure what this thread takes in a block and does not give back.

    Other threads take memory meanwhile: what MLX took is known, and no more counts than this thread had time for.
    """
    growth = Growth()
    before, of_mlx, started = _taken(), _taken_by_mlx(), time.thread_time()
    try:
        yield growth
    finally:
        most = int((time.thread_time() - started) * _FASTEST)
        others = max(_taken_by_mlx() - of_mlx, 0)
        growth.nbytes = min(max(_taken() - before - others, 0), most)


def give_back() -> None:
    """Return to the system what was freed. It takes milliseconds, and other threads wait that allocate meanwhile."""
    if sys.platform == "darwin":
        _LIBC.malloc_zone_pressure_relief(None, ctypes.c_size_t(0))
    elif hasattr(_LIBC, "malloc_trim"):  # of the GNU library
        _LIBC.malloc_trim(ctypes.c_size_t(0))


def _taken_by_mlx() -> int:
    return mx.get_active_memory() + mx.get_cache_memory()


class _Statistics(ctypes.Structure):
    _fields_ = (
        ("blocks_in_use", ctypes.c_uint),
        ("size_in_use", ctypes.c_size_t),
        ("max_size_in_use", ctypes.c_size_t),
        ("size_allocated", ctypes.c_size_t),
    )


_LIBC = ctypes.CDLL(None)

if sys.platform == "darwin":

    def _taken() -> int:
        """Return the bytes in use in all zones: on a GPU the arrays of MLX are in none."""
        found = _Statistics()
        _LIBC.malloc_zone_statistics(None, ctypes.byref(found))
        return int(found.size_in_use)

else:
    _PAGE = os.sysconf("SC_PAGE_SIZE")
    _STATM = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def _taken() -> int:
        """Return the bytes that are resident: to ask the allocator takes longer than a step."""
        return int(os.pread(_STATM, 128, 0).split()[1]) * _PAGE
