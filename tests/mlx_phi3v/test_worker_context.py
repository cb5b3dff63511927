"""Worker processes: a pool breaks where one dies, at whatever moment."""

from __future__ import annotations

import os
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any

import pytest

from mlx_phi3v.worker_context import WorkerPool, begin_worker


def die_amid_the_answer() -> bytes:
    def half(self: Any, data: Any, write: Any = os.write) -> None:
        os.write(self._handle, bytes(data)[: len(data) // 2])
        os._exit(9)

    Connection._send = half  # type: ignore[attr-defined]
    return b"x" * 1000


@pytest.mark.parametrize("processes", [1, 3])
def test_a_worker_that_dies_amid_its_answer_breaks_the_pool(processes: int) -> None:
    with WorkerPool(processes, begin_worker) as pool:
        futures = [pool.submit(die_amid_the_answer) for _ in range(processes)]
        for future in futures:  # the time only ends a test that would hang
            with pytest.raises(BrokenProcessPool):
                future.result(timeout=300)


def test_a_pool_that_is_not_full_ends() -> None:
    with WorkerPool(4, begin_worker) as pool:
        assert pool.submit(os.getpid).result(timeout=300) != os.getpid()
