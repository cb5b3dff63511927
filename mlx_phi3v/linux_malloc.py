"""Linux only: keep freed memory in the process. A Mac never enters this module.

The arrays of a step are tens of megabytes each. By default glibc gets each one from the kernel and returns it, so its pages
are mapped and zeroed every time, which took most of the time of element-wise work. To see the difference, compare
`MLX_PHI3V_MALLOC=system python scripts/bench/bench.py train`.
"""

from __future__ import annotations

import ctypes
import os

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Change glibc's settings; whether it took them. $MLX_PHI3V_MALLOC=system or a MALLOC_ variable leaves them alone."""
    if os.environ.get("MLX_PHI3V_MALLOC") == "system" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    # Nothing from mmap, one heap for all threads, never trimmed, and grown by 64 MiB.
    settings = ((_M_MMAP_MAX, 0), (_M_ARENA_MAX, 1), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 1 << 26))
    return all([mallopt(name, value) == 1 for name, value in settings])
