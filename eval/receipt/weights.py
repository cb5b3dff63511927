"""Whether a model's weights are those it was made of, tensor by tensor: the base's, with the adapter merged, rounded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_phi3v.adapters import PREFIX, AdapterArgs, load_adapter, resolve_adapter, saved_key, weights_name
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.checkpoint.floats import read_floats
from mlx_phi3v.checkpoint.headers import TensorInfo, open_checkpoint
from mlx_phi3v.checkpoint.layout import expected_tensors, is_packed
from mlx_phi3v.config import load_model_config

_EPS = float(np.finfo(np.float32).eps)
# Half a step in the last place, as a share of the smallest number that has it; and half of the least number that is held.
_ROUNDING = {"F32": (0.0, 0.0), "F16": (2.0**-11, 2.0**-25), "BF16": (2.0**-8, 2.0**-134)}


@dataclass(frozen=True)
class WeightCheck:
    """How many tensors were compared, and the names of those that are not what they must be."""

    checked: int
    wrong: list[str]


def check_weights(before: Path, adapter: str | None, after: Path) -> WeightCheck:
    """Compare the tensors that neither folder packs: AFTER must be BEFORE, with the adapter's update, rounded to its dtype.

    A sum of `r` products is off by at most r + 2 roundings of fp32, whoever computes it. One tensor is in memory at a time.
    Raises UserError where a checkpoint or the adapter cannot be read, or they do not fit.
    """
    config, after_config = load_model_config(before), load_model_config(after)
    old, new = open_checkpoint(before, config), open_checkpoint(after, after_config)
    args, deltas = AdapterArgs(), dict[str, np.ndarray]()
    if adapter:
        args, deltas = load_adapter(resolve_adapter(adapter), config, base_fingerprint(before), weights_name(before))
    names = [name for name in expected_tensors(config) if not is_packed(name, config) and not is_packed(name, after_config)]
    wrong = [name for name in names if not _is_merged(name, old[name], new[name], args, deltas)]
    return WeightCheck(len(names), wrong)


def _is_merged(name: str, old: TensorInfo, new: TensorInfo, args: AdapterArgs, deltas: Mapping[str, np.ndarray]) -> bool:
    if old.shape != new.shape:
        return False
    wanted, size = read_floats(old), None
    module = name.removesuffix(".weight")
    down, whole = deltas.get(f"{PREFIX}{module}.lora_A.weight"), deltas.get(saved_key(name))
    if down is not None:
        up = deltas[f"{PREFIX}{module}.lora_B.weight"]
        size = np.abs(wanted) + np.float32(args.scale) * (np.abs(up) @ np.abs(down))
        wanted = wanted + np.float32(args.scale) * (up @ down)
    elif whole is not None:
        wanted = whole.astype(np.float32).reshape(new.shape)
    share, least = _ROUNDING[new.dtype]
    bound = np.abs(wanted) * share * (1 + 4 * _EPS) + least
    if size is not None:
        bound = bound + 2 * (args.r + 2) * _EPS * size
    return bool(np.all(np.abs(read_floats(new) - wanted) <= bound))
