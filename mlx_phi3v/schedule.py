"""Learning rate as a pure function of the step, the same on both backends."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "linear", "cosine")


def learning_rate(step: int, *, peak: float, total_steps: int, warmup_steps: int = 0, schedule: str = "linear") -> float:
    """Rate of optimiser step `step` (from 0) of `total_steps`.

    As transformers' get_scheduler: linear warm-up from 0 over `warmup_steps`, then constant, or down to 0 linearly
    or along a half cosine.
    """
    if step < warmup_steps:
        return peak * step / max(1, warmup_steps)
    if schedule == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule == "linear":
        return peak * max(0.0, 1.0 - progress)
    return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
