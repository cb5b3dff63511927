"""CPU streams: MLX runs element-wise work of one stream on one thread, so crops are spread over as many as there are cores.

On Metal or CUDA everything stays on the default stream.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

import mlx.core as mx

_MOST = 4  # beyond it the matrix products, which use all cores anyway, gain nothing


@cache
def cpu_streams() -> tuple[mx.Stream, ...]:
    """One stream per core this process may use (OMP_NUM_THREADS is heeded); none on an accelerator."""
    if mx.default_device() != mx.cpu:
        return ()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(wanted) if wanted.isdigit() else os.cpu_count() or 1
    return tuple(mx.new_stream(mx.cpu) for _ in range(min(cores, _MOST))) if cores > 1 else ()


def spread(function: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
    """`function(x)`, for a function that treats the first axis element by element, its parts on several streams."""
    streams = cpu_streams()[: len(x)]
    if len(streams) < 2:
        return function(x)
    parts = []
    for i, stream in enumerate(streams):
        with mx.stream(stream):
            parts.append(function(x[i * len(x) // len(streams) : (i + 1) * len(x) // len(streams)]))
    return mx.concatenate(parts)
