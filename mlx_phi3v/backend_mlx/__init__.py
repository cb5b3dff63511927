"""Phi-3-V in MLX. The files mirror `backend_torch`: same files, classes, methods and names, in the same order."""

import sys

if sys.platform == "linux":
    from ..linux_malloc import keep_freed_memory
    from .cpu.blas import load

    load()
    keep_freed_memory()
