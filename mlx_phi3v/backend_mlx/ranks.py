"""What the ranks of a training send each other: sums over all of them."""

from __future__ import annotations

import os
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import UserError
from ..ranks import ALONE, LOST, TIMEOUT, meeting


class Ranks:
    """The processes that `mlx.launch` started together; this one alone without it.

    Raises UserError where they cannot meet.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        """timeout: seconds to wait for ranks that have not started, see `ranks.meeting`."""
        try:
            with meeting(timeout) if "MLX_RANK" in os.environ else ALONE:
                self.group = mx.distributed.init()
        except RuntimeError as error:
            raise UserError(
                f"MLX's ranks cannot meet ({str(error).splitlines()[0]}); start them with mlx.launch, or unset MLX_RANK and "
                "MLX_HOSTFILE"
            ) from None
        self.rank, self.count = self.group.rank(), self.group.size()

    def sum_arrays(self, values: np.ndarray) -> np.ndarray:
        """Sum of `values` over all ranks, of the same shape."""
        return np.array(self._sum(mx.array(values))) if self.count > 1 else values

    def sum_gradients(self, grads: Any, dtype: str) -> Any:
        """Sum of a tree of gradients over all ranks, as one flat buffer of `dtype`: one message a step, not one a tensor."""
        if self.count == 1:
            return grads
        names, arrays = zip(*tree_flatten(grads))
        flat = self._sum(mx.concatenate([array.reshape(-1) for array in arrays]).astype(getattr(mx, dtype)))
        ends = np.cumsum([array.size for array in arrays])[:-1].tolist()
        parts = mx.split(flat, ends)
        summed = [part.astype(array.dtype).reshape(array.shape) for part, array in zip(parts, arrays)]
        return tree_unflatten(list(zip(names, summed)))

    def _sum(self, array: mx.array) -> mx.array:
        """Computed before and after it is sent: Metal ends a process whose GPU waits for another rank for some seconds
        (github.com/ml-explore/mlx-examples/issues/1185), so the GPU has nothing to wait for meanwhile."""
        mx.eval(array)
        try:
            summed = mx.distributed.all_sum(array, group=self.group, stream=mx.cpu if mx.metal.is_available() else None)
            mx.eval(summed)
        except RuntimeError as error:
            raise UserError(f"{LOST} ({error})") from None
        return summed
