"""Element-wise work on a CPU in chunks: MLX runs a stream on one thread, so the chunks take turns on one stream per core.

A chunk is small enough for the caches: a chain of operations on it then costs less than on the whole, even on one stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import mlx.core as mx

from .shared import cores

CHUNK = 2**19  # numbers: 2 MiB, about what a core keeps close
_MOST = 4  # streams; the matrix products use all cores anyway


@cache
def cpu_streams() -> tuple[mx.Stream, ...]:
    """One stream per core this process may use (OMP_NUM_THREADS is heeded), on a CPU."""
    if cores() == 1:
        return (mx.default_stream(mx.cpu),)
    return tuple(mx.new_stream(mx.cpu) for _ in range(min(cores(), _MOST)))


def map_chunks(function: Callable[..., tuple[mx.array, ...]], *arrays: mx.array) -> tuple[mx.array, ...]:
    """`function(*arrays)`, for a function that is element-wise along the arrays' first axis, which all have in common.

    A gradient through it would be slow (one whole array of zeros a chunk): use it inside an `mx.custom_function`.
    """
    rows = len(arrays[0])
    chunks = min(rows, math.ceil(max(array.size for array in arrays) / CHUNK))
    if chunks < 2:
        return function(*arrays)
    done = []
    streams = cpu_streams()
    for i in range(chunks):
        with mx.stream(streams[i % len(streams)]):
            done.append(function(*(array[i * rows // chunks : (i + 1) * rows // chunks] for array in arrays)))
    return tuple(mx.concatenate(list(outputs)) for outputs in zip(*done))
