"""What MLX may hold on to on Metal: memory that stays resident, and freed buffers that wait for the next step."""

from __future__ import annotations

from typing import Any

import mlx.core as mx


def set_limits(planned: int | None, mlx: Any = mx) -> tuple[int, int] | None:
    """Before a training on Metal: the wired and the cache limit that were set, in bytes; None elsewhere, where there are none.

    planned: bytes that the run is to stay within; None where nobody planned. The wired limit is that, at most what Metal
    recommends: macOS then leaves the weights resident between steps. Freed buffers may fill what the model, its adapter and
    its moments leave of it; MLX's own limit is 1.5 times what is recommended, at which macOS swaps.
    mlx: what stands in for `mlx.core` in a test.
    """
    if not mlx.metal.is_available() or mlx.default_device() == mlx.cpu:
        return None
    recommended = int(mlx.device_info()["max_recommended_working_set_size"])
    wired = min(planned or recommended, recommended)
    cache = max(0, wired - int(mlx.get_active_memory()))
    mlx.set_wired_limit(wired)
    mlx.set_cache_limit(cache)
    return wired, cache
