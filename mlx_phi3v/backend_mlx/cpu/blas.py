"""Linux only: load a fast BLAS before `mlx.core` is imported. A Mac never enters this module.

MLX's CPU wheel ships the reference BLAS (about 2 GFLOP/s). Its `cblas_sgemm` is looked up globally, so a library
that exports the same plain names and is loaded first with RTLD_GLOBAL takes its place.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path

loaded: str | None = None
_WAIT = "OPENBLAS_THREAD_TIMEOUT"
_SHORT = "18"  # 2^18 ticks of the processor's clock, some 0.1 ms, in place of 2^26


def candidates() -> list[str]:
    """Libraries to try, best first: $MLX_PHI3V_BLAS, the one in opencv-python's wheel (mlx-vlm needs it), the system's."""
    found = [os.environ["MLX_PHI3V_BLAS"]] if os.environ.get("MLX_PHI3V_BLAS") else []
    spec = importlib.util.find_spec("cv2")
    if spec and spec.origin:
        site = Path(spec.origin).parent.parent
        found += sorted(str(p) for folder in site.glob("opencv_python*.libs") for p in folder.glob("libopenblas*.so*"))
    found += [name for name in (find_library("openblas"), "libopenblas.so.0") if name]
    return found


def load() -> str | None:
    """Load the first library that exports `cblas_sgemm`; its path, or None with one warning. Idempotent."""
    global loaded
    if loaded or "mlx.core" in sys.modules:
        return loaded
    for path in candidates():
        try:
            with _short_waits():
                if hasattr(ctypes.CDLL(path), "cblas_sgemm"):
                    ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
                    loaded = path
                    return loaded
        except OSError:
            continue
    warnings.warn(
        "no fast BLAS found, MLX will be about 50 times slower: pip install opencv-python, or apt-get install "
        "libopenblas0-pthread, or set MLX_PHI3V_BLAS to a library with cblas_sgemm",
        stacklevel=2,
    )
    return None


@contextmanager
def _short_waits() -> Iterator[None]:
    """OpenBLAS's threads spin after a product, by default for 20 ms, on cores that numpy's work wants. It looks as it loads."""
    if _WAIT in os.environ:  # the user's own
        yield
        return
    os.environ[_WAIT] = _SHORT
    try:
        yield
    finally:
        del os.environ[_WAIT]
