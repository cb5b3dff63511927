"""The BLAS that is loaded for MLX on Linux: its threads do not keep the cores busy after a product."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, os
from mlx_phi3v.backend_mlx.cpu import blas
path = blas.load()
library = ctypes.CDLL(path) if path else None
print(library.openblas_thread_timeout() if hasattr(library, "openblas_thread_timeout") else "none")
print(os.environ.get("OPENBLAS_THREAD_TIMEOUT"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a Mac has Accelerate")
@pytest.mark.parametrize(("users", "ticks"), [(None, "18"), ("24", "24")])
def test_threads_of_openblas_wait_shortly_unless_the_user_says_how_long(users: str | None, ticks: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"}
    environment |= {} if users is None else {"OPENBLAS_THREAD_TIMEOUT": users}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    found, left = done.stdout.split()
    if found == "none":
        pytest.skip("the BLAS of this machine is not an OpenBLAS that says how long its threads wait")
    assert (found, left) == (ticks, str(users))
