"""The device that torch computes on, and what differs by it."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from ..errors import UserError

DEVICES = ("cuda", "mps", "cpu")  # in this order
VARIABLE = "MLX_PHI3V_TORCH_DEVICE"


def choose_device() -> torch.device:
    """CUDA's first GPU, else a Mac's (mps), else the CPU; or that of MLX_PHI3V_TORCH_DEVICE.

    Raises UserError where the variable names a device that is unknown or not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    asked = os.environ.get(VARIABLE)
    if asked and not there.get(asked, False):
        found = ", ".join(name for name in DEVICES if there[name])
        raise UserError(f"{VARIABLE} is {asked!r}, and torch has {found} here; set it to one of these, or unset it")
    return torch.device(asked or next(name for name in DEVICES if there[name]))


def peak_memory(device: torch.device, before: int) -> int:
    """Most bytes used so far. mps counts what is used now alone, its freed buffers included: `before` is the last answer."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return max(before, int(torch.mps.driver_allocated_memory()))
    # ru_maxrss is in bytes on macOS, in KiB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory(device: torch.device) -> None:
    """Give freed buffers back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def mps_random_numbers() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For `torch.utils.checkpoint`, which replays the random numbers of a CPU and of CUDA alone: the first remembers where
    those of mps stand, the second draws the same again and then goes on where they stood."""
    stood: list[torch.Tensor] = []

    @contextmanager
    def remembering() -> Iterator[None]:
        stood.append(torch.mps.get_rng_state())
        yield

    @contextmanager
    def again() -> Iterator[None]:
        now = torch.mps.get_rng_state()
        torch.mps.set_rng_state(stood[0])
        try:
            yield
        finally:
            torch.mps.set_rng_state(now)

    return remembering(), again()
