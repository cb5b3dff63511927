"""LoRA on the MLX model, with PEFT's names and shapes at its border."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ..adapters import PREFIX, AdapterArgs, adapter_shapes
from ..config import ModelArgs
from . import ops
from .arrays import trains
from .cpu.lora import Mask, lora_linear
from .random_keys import KEYS


class Dropout(nn.Dropout):
    """nn.Dropout with the random keys of `random_keys`."""

    def mask(self, shape: Sequence[int]) -> Mask | None:
        """What the next call keeps; None where it keeps all."""
        if self._p_1 == 1 or not self.training:
            return None
        return Mask(mx.random.bernoulli(self._p_1, shape, key=KEYS.next()), 1 / self._p_1)

    def __call__(self, x: mx.array) -> mx.array:
        mask = self.mask(x.shape)
        return x if mask is None else mask(x)


class LoRALinear(nn.Module):
    """A linear layer (nn.Linear or nn.QuantizedLinear) plus scale * B A dropout(x) (Hu et al., 2021).

    Parameters: lora_a [in, r], lora_b [r, out]; both zero until `set_adapter_tensors`.
    """

    def __init__(self, linear: nn.Module, r: int, dropout: float, scale: float) -> None:
        super().__init__()
        outputs, inputs = linear.weight.shape
        if isinstance(linear, nn.QuantizedLinear):
            inputs = inputs * 32 // linear.bits  # so many are packed in a word of 32 bits
        self.linear = linear
        self.dropout = Dropout(dropout)
        self.scale = scale
        self.input_trains = True  # whether anything before it does
        self.lora_a = mx.zeros((inputs, r))
        self.lora_b = mx.zeros((r, outputs))

    def __call__(self, x: mx.array) -> mx.array:
        """[..., in] -> [..., out] in the dtype of x."""
        if ops.is_ours(x):
            mask = self.dropout.mask(x.shape)
            return lora_linear(self.linear, x, self.lora_a, self.lora_b, self.scale, mask, input_trains=self.input_trains)
        # The scale is applied on the narrow side of the product, which saves a pass over the wide side.
        low = self.scale * (self.dropout(x) @ self.lora_a)
        whole: mx.array = self.linear(x)
        return whole + (low @ self.lora_b).astype(x.dtype)


def add_lora(
    model: nn.Module, config: ModelArgs, adapter: AdapterArgs, tensors: dict[str, np.ndarray], trainable: bool
) -> None:
    """Wrap the adapter's target layers and give them `tensors` (PEFT keys, fp32); all else is frozen."""
    model.freeze()
    shapes = adapter_shapes(config, adapter)
    layers = [
        (name, LoRALinear(model_module(model, name), adapter.r, adapter.lora_dropout, adapter.scale)) for name in shapes.lora
    ]
    # MLX: names with list positions ("layers.0") become nested lists, which update_modules fills in place.
    model.update_modules(tree_unflatten(layers))
    for _, layer in layers:
        layer.freeze()
        if trainable:
            layer.unfreeze(keys=["lora_a", "lora_b"], recurse=False)
    for name in shapes.saved:
        module, _, parameter = name.rpartition(".")
        whole = model_module(model, module)
        whole[parameter] = whole[parameter].astype(mx.float32)
        if trainable:
            whole.unfreeze(keys=[parameter], recurse=False)
    for first in _first_layers(model):
        if isinstance(first, LoRALinear):
            first.input_trains = False
    set_adapter_tensors(model, tensors)


def _first_layers(model: Any) -> list[nn.Module]:
    """The layers before which nothing trains: of the tower, the projector and the decoder, up to the first that trains."""
    image_side, decoder = model.model.vision_embed_tokens, model.model
    tower = image_side.img_processor.vision_model
    first: list[nn.Module] = []
    if not any(map(trains, (tower.embeddings, tower.pre_layrnorm))):
        for layer in tower.encoder.layers[:1]:  # a tower of one layer uses none
            first += layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj
    if not any(map(trains, (tower, image_side.glb_GN, image_side.sub_GN))):
        first.append(image_side.img_projection[0])
    if not any(map(trains, (image_side, decoder.embed_tokens))):
        first.append(decoder.layers[0].self_attn.qkv_proj)
    return first


def model_module(model: nn.Module, name: str) -> nn.Module:
    """The module at a dotted path."""
    module: Any = model
    for key in name.split("."):
        module = module[int(key)] if isinstance(module, list) else module[key]
    return cast(nn.Module, module)


def mlx_name(key: str) -> tuple[str, bool]:
    """PEFT key -> (name of the MLX parameter, whether it is transposed)."""
    name = key.removeprefix(PREFIX)
    for peft, mlx in ((".lora_A.weight", ".lora_a"), (".lora_B.weight", ".lora_b")):
        if name.endswith(peft):
            return name.removesuffix(peft) + mlx, True
    return name, False


def to_mlx(tensors: dict[str, np.ndarray]) -> dict[str, mx.array]:
    """PEFT tensors under the names and in the layout of the MLX parameters."""
    converted = {}
    for key, value in tensors.items():
        name, transposed = mlx_name(key)
        converted[name] = mx.array(np.ascontiguousarray(value.T) if transposed else value)
    return converted


def from_mlx(parameters: dict[str, mx.array], keys: list[str]) -> dict[str, np.ndarray]:
    """The inverse of `to_mlx` for the given PEFT keys: fp32 numpy arrays."""
    tensors = {}
    for key in keys:
        name, transposed = mlx_name(key)
        value = np.array(parameters[name].astype(mx.float32))
        tensors[key] = np.ascontiguousarray(value.T) if transposed else value
    return tensors


def set_adapter_tensors(model: nn.Module, tensors: dict[str, np.ndarray]) -> None:
    """Load PEFT tensors into the wrapped model."""
    model.load_weights(list(to_mlx(tensors).items()), strict=False)
    mx.eval(model.parameters())


def adapter_tensors(model: nn.Module, keys: list[str]) -> dict[str, np.ndarray]:
    """The adapter as PEFT tensors."""
    return from_mlx(dict(tree_flatten(model.parameters())), keys)
