"""AdamW in MLX: made, and its moments under PEFT's names. See `backend.Backend.optimizer_tensors`."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten

from ..backend import OptimizerArgs
from . import lora
from .arrays import set_leaf

_MOMENTS = {"exp_avg": "m", "exp_avg_sq": "v"}  # PEFT's and torch's name -> MLX's


def make_optimizer(model: nn.Module, args: OptimizerArgs) -> optim.AdamW:
    """For the parameters that train; the learning rate is set at every step."""
    optimizer = optim.AdamW(
        learning_rate=0.0, betas=list(args.betas), eps=args.eps, weight_decay=args.weight_decay, bias_correction=True
    )
    optimizer.init(model.trainable_parameters())
    mx.eval(optimizer.state)
    return optimizer


def moments(optimizer: optim.AdamW, keys: list[str]) -> dict[str, np.ndarray]:
    """Both moments of the parameters with these PEFT keys, fp32."""
    state = dict(tree_flatten(optimizer.state))
    tensors: dict[str, np.ndarray] = {}
    for ours, theirs in _MOMENTS.items():
        by_name = {name.removesuffix("." + theirs): value for name, value in state.items() if name.endswith("." + theirs)}
        tensors |= {f"{key}.{ours}": value for key, value in lora.from_mlx(by_name, keys).items()}
    return tensors


def set_moments(optimizer: optim.AdamW, tensors: Mapping[str, np.ndarray], step: int) -> None:
    """The inverse of `moments`, after so many steps."""
    by_name = {}
    for ours, theirs in _MOMENTS.items():
        of_one = {key.removesuffix("." + ours): value for key, value in tensors.items() if key.endswith("." + ours)}
        by_name[theirs] = lora.to_mlx(of_one)
    for name, _ in list(tree_flatten(optimizer.state)):
        parameter, _, moment = name.rpartition(".")
        if moment in by_name and parameter in by_name[moment]:
            set_leaf(optimizer.state, name, by_name[moment][parameter])
    optimizer.state["step"] = mx.array(step, mx.uint64)
    mx.eval(optimizer.state)
