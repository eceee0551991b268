"""Says which BLAS multiplies in this process: on a CPU it decides the speed.

MLX's wheel for the Linux CPU brings the reference BLAS. Whoever starts the worker may preload a distribution's
OpenBLAS, whose functions then come first; that they do can only be seen from inside.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path


def running() -> str:
    """Return the BLAS that MLX calls here: its name, its version where it tells one, and where it comes from.

    MLX must have been imported.
    """
    if platform.system() == "Darwin":
        return "Accelerate (system)"
    everywhere = ctypes.CDLL(None)  # the program and what was preloaded; what MLX brings is not in it
    if hasattr(everywhere, "cblas_sgemm"):
        return f"{_openblas(everywhere) or 'unknown'} (preloaded)"
    return "reference (wheel)" if "/mlx_cpu.libs/libblas-" in _mapped() else "unknown"


def _openblas(library: ctypes.CDLL) -> str | None:
    """Return OpenBLAS's name and version, None for another library."""
    try:
        describe = library.openblas_get_config
    except AttributeError:
        return None
    describe.restype = ctypes.c_char_p
    return " ".join((describe() or b"OpenBLAS").decode("ascii", "replace").split()[:2])


def _mapped() -> str:
    try:
        return Path("/proc/self/maps").read_text()
    except OSError:
        return ""
