"""A fast BLAS for MLX on a Linux CPU. `python -m bench.blas` prints a library to put into LD_PRELOAD, or nothing.

MLX's wheel for the CPU brings the reference BLAS, which multiplies at a small part of the machine's speed. What is
found here is OpenBLAS: that of the distribution, else the one inside numpy's wheel behind a function of a few lines.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from mlxworker import accelerator

_NAME = "libopenblas.so.0"
_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")
# numpy's OpenBLAS has its own names and wide integers.
_SHIM = """
void scipy_cblas_sgemm64_(int, int, int, long, long, long, float, const float *, long, const float *, long, float,
                          float *, long);
void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b,
                 int ldb, float beta, float *c, int ldc) {
  scipy_cblas_sgemm64_(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
"""


def find() -> Path | None:
    """Return the library to preload, None where there is none or none is needed."""
    if platform.system() != "Linux":
        return None
    return _of_distribution() or _of_numpy()


def loaded() -> str:
    """Return which BLAS this process multiplies with: accelerate, cuda, openblas or reference."""
    if platform.system() == "Darwin":
        return "accelerate"
    if accelerator.has_cuda():
        return "cuda"
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return "unknown"
    preloaded = Path(os.environ.get("LD_PRELOAD") or "/").resolve()
    return "openblas" if "blas" in preloaded.name and str(preloaded) in maps else "reference"


def _of_distribution() -> Path | None:
    for folder in _FOLDERS:
        for file in (Path(folder) / _NAME, *sorted(Path(folder).glob(f"openblas-*/{_NAME}"))):
            if file.exists():
                return file
    return None


def _of_numpy() -> Path | None:
    """Build the shim once, next to the environment's own files."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    spec = importlib.util.find_spec("numpy")
    if compiler is None or spec is None or spec.origin is None:
        return None
    libraries = Path(spec.origin).parents[1] / "numpy.libs"
    inner = next(iter(sorted(libraries.glob("libscipy_openblas64_*.so"))), None)
    if inner is None:
        return None
    out = Path(sys.prefix) / "lib" / f"libmlxblas-{inner.stem.rpartition('-')[2]}.so"
    if not out.exists():
        fresh = out.with_suffix(f".{os.getpid()}")
        command = [compiler, "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", str(fresh), "-x", "none", str(inner)]
        done = subprocess.run([*command, f"-Wl,-rpath,{libraries}"], input=_SHIM, text=True, check=False)
        if done.returncode:
            return None
        fresh.rename(out)
    return out


if __name__ == "__main__":
    print(find() or "", end="")
