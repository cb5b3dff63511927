"""Seconds of a call that is repeated."""

from __future__ import annotations

import time
from collections.abc import Callable

clock: Callable[[], float] = time.perf_counter  # where other work takes the processor, its own seconds say more


def fastest(call: Callable[[], object], times: int, *, most: float = float("inf"), warm: bool = True) -> float:
    """Seconds of the fastest of `times` calls; fewer where they take more than `most` seconds in all.

    warm: a first call, which does not count, as it also makes what later ones use again.
    """
    if warm:
        call()
    seconds: list[float] = []
    while len(seconds) < times and sum(seconds) < most:
        began = clock()
        call()
        seconds.append(clock() - began)
    return min(seconds)
