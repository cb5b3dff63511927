"""MLX arrays as numpy arrays in the same memory, and numpy's work on them in threads, one for each core.

MLX on a CPU runs an operation on one thread, and its exponential takes one element at a time. numpy's is vectorised, and numpy
lets go of the interpreter while it works. What is done here is computed at once, not when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import count as counter
from threading import Lock
from typing import Any

import mlx.core as mx
import numpy as np
from threadpoolctl import ThreadpoolController

from ...cores import cores as usable_cores
from . import blas

Floats = np.ndarray[Any, np.dtype[np.float32]]
CHUNK = 2**17  # numbers that are worked on together: 512 KiB, which stay in a core's own cache
_ONE_AT_A_TIME = Lock()  # the limit is the process's: two threads that set it and put it back would leave it set
WORTH_IT = 2**14  # numbers from which on numpy's work is faster than MLX's, with what it costs to wait for MLX first


def view(array: mx.array) -> Floats:
    """The numbers of an fp32 array, in its own memory; they are computed first."""
    return np.asarray(array)


def copied(numbers: Floats) -> mx.array:
    """A new array. MLX: of numbers that lie apart in memory it would take the room between them as well."""
    return mx.array(np.ascontiguousarray(numbers))


_plain = ContextVar("plain", default=False)


@contextmanager
def plain() -> Iterator[None]:
    """MLX's own operations alone: what is done here needs numbers, and there are none while `mx.compile` traces a function."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def is_plain() -> bool:
    """Whether this is within `plain`."""
    return _plain.get()


def cut(array: mx.array) -> mx.array:
    """A copy that knows nothing of what it came from, so that all of that is freed; fp32. The array itself within `plain`.

    MLX: what is computed while a gradient is recorded keeps its inputs, and theirs, until the gradient is there.
    """
    return array if is_plain() else mx.array(view(array))


def in_threads(work: Callable[[int], None], count: int, *, products: bool = False) -> None:
    """`work(0)` to `work(count - 1)`, in any order, on all cores; numpy's warnings are off.

    products: `work` multiplies matrices, which then each take one core, so that the threads do not wait for each other.
    """
    numbers = counter()

    def take() -> None:
        with np.errstate(all="ignore"):
            while (number := next(numbers)) < count:
                work(number)

    if products:
        with _ONE_AT_A_TIME, _numpy_blas().limit(limits=1):
            _run(take, min(cores(), count))
    else:
        _run(take, min(cores(), count))


def _run(take: Callable[[], None], threads: int) -> None:
    others = [_pool().submit(take) for _ in range(threads - 1)]
    try:
        take()
    finally:
        for other in others:
            other.result()


@cache
def cores() -> int:
    """The cores that this process may use; OMP_NUM_THREADS is heeded."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(wanted)) if wanted.isdigit() else usable_cores()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, cores() - 1), thread_name_prefix="mlx_phi3v-cpu")


@cache
def _numpy_blas() -> ThreadpoolController:
    """Every BLAS in this process but MLX's own."""
    found = ThreadpoolController()
    return found.select(filepath=[one["filepath"] for one in found.info() if one["filepath"] != blas.loaded])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not live on in a fork


def in_rows(work: Callable[[slice], None], rows: int, width: int) -> None:
    """`work(some rows)` for all rows of that many numbers, in chunks and threads."""
    step = max(1, CHUNK // max(width, 1))
    in_threads(lambda i: work(slice(i * step, (i + 1) * step)), -(-rows // step))
