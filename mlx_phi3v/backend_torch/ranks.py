"""What the ranks of a training send each other: sums over all of them."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed

from ..errors import UserError
from ..ranks import ALONE, LOST, TIMEOUT, meeting
from .accelerator import choose_device

_NEVER = datetime.timedelta(days=30)  # `ranks.TimeLimit` ends what takes too long, with a sentence


class Ranks:
    """The processes that torchrun started together; this one alone without it.

    device: alone, that of `accelerator.choose_device`; of several ranks, this rank's own of the machine's GPUs, by LOCAL_RANK,
    or the CPU, as torch.distributed does not know mps. Raises UserError where torchrun's variables are not all set, or to
    what cannot be, where the ranks cannot meet, and where the machine runs more ranks than it has GPUs.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        """timeout: seconds to wait for ranks that have not started, see `ranks.meeting`."""
        launched = _launched()
        self.device = _own_device() if launched else choose_device()
        if launched and not torch.distributed.is_initialized():
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)  # nccl binds a process to the one that is set
            try:
                with ALONE if os.environ["WORLD_SIZE"] == "1" else meeting(timeout):
                    torch.distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo", timeout=_NEVER)
            except (RuntimeError, ValueError) as error:
                raise UserError(
                    f"the ranks cannot meet at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} "
                    f"({str(error).splitlines()[0]}); start them with torchrun"
                ) from None
        self.rank = torch.distributed.get_rank() if launched else 0
        self.count = torch.distributed.get_world_size() if launched else 1

    def sum_arrays(self, values: np.ndarray) -> np.ndarray:
        """Sum of `values` over all ranks, of the same shape."""
        if self.count == 1:
            return values
        tensor = torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
        self._sum(tensor)
        return tensor.cpu().numpy()

    def sum_gradients(self, grads: Iterable[torch.Tensor], dtype: str) -> None:
        """Sum gradients over all ranks, in place, as one flat buffer of `dtype`: one message a step, not one a tensor."""
        if self.count == 1:
            return
        arrays = list(grads)
        flat = torch.cat([array.reshape(-1) for array in arrays]).to(getattr(torch, dtype))
        self._sum(flat)
        for array, part in zip(arrays, flat.split([array.numel() for array in arrays])):
            array.copy_(part.view_as(array))

    def _sum(self, tensor: torch.Tensor) -> None:
        try:
            torch.distributed.all_reduce(tensor)
        except RuntimeError as error:
            raise UserError(f"{LOST} ({error})") from None


def _launched() -> bool:
    """Whether torchrun started this process."""
    if "WORLD_SIZE" not in os.environ or not torch.distributed.is_available():
        return False
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing and os.environ["WORLD_SIZE"] != "1":
        raise UserError(f"WORLD_SIZE is set but not {', '.join(missing)}; start with torchrun, or unset WORLD_SIZE")
    if missing:
        return False
    count = _number("WORLD_SIZE", 1, 1_000_000)
    _number("RANK", 0, count - 1)
    _number("MASTER_PORT", 0, 65_535)
    if "LOCAL_RANK" in os.environ:
        _number("LOCAL_RANK", 0, count - 1)
    return True


def _number(name: str, least: int, most: int) -> int:
    """A variable of torchrun's. Raises UserError where it is no whole number from `least` to `most`."""
    value = os.environ[name]
    if not re.fullmatch(r"[0-9]{1,7}", value) or not least <= int(value) <= most:
        raise UserError(f"{name} is {value!r}; it must be from {least} to {most}: start with torchrun, or unset WORLD_SIZE")
    return int(value)


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    own, count = int(os.environ.get("LOCAL_RANK", os.environ["RANK"])), torch.cuda.device_count()
    if own >= count:
        raise UserError(f"rank {own} of this machine has no GPU of its own, as there are {count}; start {count} ranks on it")
    return torch.device(f"cuda:{own}")
