"""The declared shape of `config.json` and `preprocessor_config.json`, and what their RoPE entries mean.

Every size has a bound, far above the published ones, so that a number nobody can build is a sentence and not a day's loop.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import msgspec

from .documents import check_shape, shown
from .errors import UserError

Layers = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Heads = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Width = Annotated[int, msgspec.Meta(ge=1, le=1 << 18)]
Vocabulary = Annotated[int, msgspec.Meta(ge=1, le=1 << 22)]
Positions = Annotated[int, msgspec.Meta(ge=2, le=1 << 27)]
Pixels = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Crops = Annotated[int, msgspec.Meta(ge=1, le=256)]  # 16 and 4 in the published models
Epsilon = Annotated[float, msgspec.Meta(gt=0, le=1)]
Theta = Annotated[float, msgspec.Meta(ge=1, le=1e12)]
# Frequencies are fp32: outside of these bounds one could become 0 or infinite.
Factors = list[Annotated[float, msgspec.Meta(ge=1e-3, le=1e6)]]


class ClipShape(msgspec.Struct, kw_only=True):
    """`img_processor.clip`; null means the default."""

    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    num_hidden_layers: Layers | None = None
    num_attention_heads: Heads | None = None
    num_channels: Pixels | None = None
    image_size: Pixels | None = None
    patch_size: Pixels | None = None
    hidden_act: str | None = None
    layer_norm_eps: Epsilon | None = None


class TowerShape(msgspec.Struct, kw_only=True):
    """`img_processor`."""

    clip: ClipShape | None = None
    layer_idx: int | None = None
    type_feature: str | None = None


class EmbeddingShape(msgspec.Struct, kw_only=True):
    """`embd_layer`: the projector."""

    use_hd_transform: bool | None = None
    with_learnable_separator: bool | None = None
    projection_cls: str | None = None
    hd_transform_order: str | None = None


class QuantizationShape(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`quantization`, as MLX writes it; a layer of other bits than the rest is not supported."""

    group_size: int | None = None
    bits: int | None = None
    mode: str | None = None


class RopeShape(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`rope_scaling`, or `rope_parameters` as transformers 5 writes it."""

    type: str | None = None
    rope_type: str | None = None
    rope_theta: Theta | None = None
    short_factor: Factors | None = None
    long_factor: Factors | None = None
    original_max_position_embeddings: Positions | None = None
    factor: float | None = None
    attention_factor: float | None = None
    partial_rotary_factor: float | None = None


class ConfigShape(msgspec.Struct, kw_only=True):
    """`config.json`: what is read of it, and what must have its published value where it is there."""

    vocab_size: Vocabulary | None = None
    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    num_hidden_layers: Layers | None = None
    num_attention_heads: Heads | None = None
    num_key_value_heads: Heads | None = None
    max_position_embeddings: Positions | None = None
    original_max_position_embeddings: Positions | None = None
    rope_theta: Theta | None = None
    rms_norm_eps: Epsilon | None = None
    tie_word_embeddings: bool | None = None
    hidden_act: str | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    partial_rotary_factor: float | None = None
    sliding_window: int | None = None
    embd_layer: EmbeddingShape | None = None
    img_processor: TowerShape | None = None
    quantization: QuantizationShape | None = None
    quantization_config: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None


class ProcessorShape(msgspec.Struct, kw_only=True):
    """`preprocessor_config.json`."""

    num_crops: Crops = 16
    image_mean: list[float] | None = None
    image_std: list[float] | None = None


def require_published(raw: ConfigShape, path: Path) -> None:
    """Raise UserError for a key that changes what the model computes and has another value than the published one."""
    tower = raw.img_processor or TowerShape()
    plain: list[tuple[str, Any, Any]] = [
        ("hidden_act", raw.hidden_act, "silu"),
        ("attention_bias", raw.attention_bias, False),
        ("mlp_bias", raw.mlp_bias, False),
        ("tie_word_embeddings", raw.tie_word_embeddings, False),
        ("partial_rotary_factor", raw.partial_rotary_factor, 1.0),
        ("img_processor.layer_idx", tower.layer_idx, -2),
        ("img_processor.type_feature", tower.type_feature, "patch"),
    ]
    for key, value, published in plain:
        if value is not None and value != published:
            raise UserError(f"{path}: {key} is {shown(value)}; it must be {shown(published)}, as in the published model")
    packed = raw.quantization_config
    # mlx-lm and mlx-vlm write their own quantisation under both names.
    same = (
        raw.quantization and packed and all(packed.get(key) == getattr(raw.quantization, key) for key in ("bits", "group_size"))
    )
    if packed and not same:
        method = packed.get("quant_method", "unknown")
        raise UserError(f"{path}: quantization_config ({shown(method)}) is not supported; use the weights as published")


def rope_values(raw: ConfigShape, path: Path, max_positions: int, original: int) -> dict[str, Any]:
    """`rope_theta`, `short_factor`, `long_factor`, `original_max_position_embeddings`, as far as the RoPE entries give them.

    max_positions, original: what the configuration says beside them, or its defaults.
    Raises UserError for a kind of RoPE that is not understood, and for two entries that contradict each other.
    """
    found: dict[str, Any] = {} if raw.rope_theta is None else {"rope_theta": raw.rope_theta}
    if raw.original_max_position_embeddings is not None:
        found["original_max_position_embeddings"] = original
    for name in ("rope_scaling", "rope_parameters"):
        entries = getattr(raw, name)
        if not entries:
            continue
        values = _rope_entry(entries, name, path, max_positions, original)
        for key, value in values.items():
            if found.get(key, value) != value:
                raise UserError(f"{path}: {name} has another {key} than the entries beside it; keep the one that is right")
        found |= values
    return found


def _rope_entry(entries: dict[str, Any], name: str, path: Path, max_positions: int, original: int) -> dict[str, Any]:
    kind = entries.get("rope_type", entries.get("type"))
    if kind not in ("su", "longrope") and not (kind == "default" and name == "rope_parameters"):
        raise UserError(f"{path}: {name} type {shown(kind)} is not 'su' or 'longrope'; only the published RoPE is supported")
    rope = check_shape({name: entries}, dict[str, RopeShape], path)[name]
    values: dict[str, Any] = {}
    for key in ("rope_theta", "original_max_position_embeddings"):
        if getattr(rope, key) is not None:
            values[key] = getattr(rope, key)
    original = values.get("original_max_position_embeddings", original)
    if rope.partial_rotary_factor not in (None, 1.0):
        raise UserError(f"{path}: {name}.partial_rotary_factor is {rope.partial_rotary_factor}; it must be 1.0")
    if kind == "default":
        return values
    for key in ("short_factor", "long_factor"):
        factors = getattr(rope, key)
        if factors is None:
            raise UserError(f"{path}: {name} has no list of numbers {key!r}; use the published config")
        values[key] = tuple(factors)
    ratio = max_positions / original
    scale = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    for key, value, computed in (("factor", rope.factor, ratio), ("attention_factor", rope.attention_factor, scale)):
        if value is not None and not math.isclose(value, computed, rel_tol=1e-6):
            raise UserError(
                f"{path}: {name}.{key} is {value}; it must be {computed:.8g}, as the positions give it, or be left out"
            )
    return values
