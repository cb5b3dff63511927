"""A checkpoint's `config.json` and `preprocessor_config.json` as frozen dataclasses.

The defaults are those of Phi-3-vision-128k-instruct; names are the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from .config_shapes import (
    ClipShape,
    ConfigShape,
    EmbeddingShape,
    ProcessorShape,
    QuantizationShape,
    require_published,
    rope_values,
)
from .documents import check_shape, read_as, read_json, shown
from .errors import UserError
from .misplaced import MODEL_FILE, hint

CROP_SIZE = 336  # pixels; the side of one crop, fixed by the published image processor
CROPS_AT_ONCE = 5  # crops that go through a frozen tower together: more take memory and save no time (on a CPU)
LABELS_AT_ONCE = 256  # positions whose logits are in memory together: 33 MB of them in fp32 at 32,064 words
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, RGB
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionArgs:
    """The CLIP tower (`img_processor.clip` in `config.json`; ViT-L/14 at 336 pixels where it is absent)."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = CROP_SIZE
    patch_size: int = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @property
    def grid(self) -> int:
        """Patches along one side of a crop (24 in ViT-L/14)."""
        return self.image_size // self.patch_size

    @property
    def merged_grid(self) -> int:
        """Features along one side of a crop after the 2x2 merge (12 in ViT-L/14)."""
        return self.grid // 2

    @property
    def used_layers(self) -> int:
        """Layers that are run: the features are `hidden_states[-2]`, so the last one is not."""
        return self.num_hidden_layers - 1


@dataclass(frozen=True)
class Quantization:
    """Affine group quantisation of the language model, as MLX writes it."""

    group_size: int
    bits: int


@dataclass(frozen=True)
class ModelArgs:
    """Phi-3-V as `config.json` describes it."""

    vocab_size: int = 32064
    hidden_size: int = 3072
    intermediate_size: int = 8192
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    max_position_embeddings: int = 131072
    original_max_position_embeddings: int = 4096
    rope_theta: float = 10000.0
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    hd_transform_order: str = "sub_glb"
    num_crops: int = 16
    vision: VisionArgs = field(default_factory=VisionArgs)
    quantization: Quantization | None = None

    @property
    def head_dim(self) -> int:
        """Width of one attention head (96 in Phi-3-mini)."""
        return self.hidden_size // self.num_attention_heads

    @property
    def qkv_size(self) -> int:
        """Rows of the fused `qkv_proj`: queries, then keys, then values."""
        return (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim


def _given(part: msgspec.Struct, cls: type) -> dict[str, Any]:
    """The values of `part` that are fields of `cls` and are given; null means the default."""
    names = {item.name for item in fields(cls)} & set(part.__struct_fields__)
    values = {name: getattr(part, name) for name in names}
    return {name: value for name, value in values.items() if value is not None and not isinstance(value, msgspec.Struct)}


def load_model_config(folder: Path | str) -> ModelArgs:
    """Read `config.json` (and `num_crops` from `preprocessor_config.json`) of a checkpoint folder.

    Raises UserError if the folder is not a Phi-3-V checkpoint, is of a variant that was never published, or of a size
    that cannot be.
    """
    folder = Path(folder)
    path = folder / "config.json"
    raw = _read_config(folder, path)
    require_published(raw, path)
    values = _given(raw, ModelArgs)
    values.setdefault("num_key_value_heads", values.get("num_attention_heads", ModelArgs.num_attention_heads))
    positions = ("max_position_embeddings", "original_max_position_embeddings")
    values |= rope_values(raw, path, *(values.get(name, getattr(ModelArgs, name)) for name in positions))
    values["hd_transform_order"] = _hd_transform_order(raw.embd_layer or EmbeddingShape(), path)
    values["vision"] = VisionArgs(**_given((raw.img_processor and raw.img_processor.clip) or ClipShape(), VisionArgs))
    values["quantization"] = _quantization(raw.quantization, path)
    values |= _num_crops(folder / "preprocessor_config.json")
    config = ModelArgs(**values)
    _check(config, path)
    if raw.sliding_window is not None and raw.sliding_window < config.max_position_embeddings:
        raise UserError(
            f"{path}: sliding_window is {raw.sliding_window}; it must not be below max_position_embeddings "
            f"({config.max_position_embeddings}), as in the published models: attention over a window is not supported"
        )
    return config


def _read_config(folder: Path, path: Path) -> ConfigShape:
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; give a checkpoint folder or a hub id such as microsoft/Phi-3-vision-128k-instruct"
        )
    if not path.exists():
        raise UserError(
            f"{folder} is not a checkpoint: it has no config.json{hint(folder, MODEL_FILE) or '; give one that has'}"
        )
    raw = read_json(path, "model configuration")
    if not isinstance(raw, dict) or raw.get("model_type") != "phi3_v":
        kind = raw.get("model_type") if isinstance(raw, dict) else None
        raise UserError(f"{path} is for model type {kind!r}; this tool needs Phi-3-vision or Phi-3.5-vision ('phi3_v')")
    return check_shape(raw, ConfigShape, path)


def _hd_transform_order(embd: EmbeddingShape, path: Path) -> str:
    """The order of `embd_layer`, which must describe the published projector."""
    if embd.use_hd_transform is False or embd.with_learnable_separator is False:
        raise UserError(
            f"{path}: embd_layer without HD transform or separators is not a published Phi-3-V; use the published config"
        )
    if embd.projection_cls not in (None, "mlp"):
        raise UserError(f"{path}: projection_cls {embd.projection_cls!r} is not supported; the published one is 'mlp'")
    return embd.hd_transform_order or "sub_glb"


def _quantization(raw: QuantizationShape | None, path: Path) -> Quantization | None:
    if raw is None or raw == QuantizationShape():
        return None
    if raw.bits not in (4, 8) or raw.group_size not in (32, 64, 128) or raw.mode not in (None, "affine"):
        raise UserError(
            f"{path}: quantization of {raw.bits} bits in groups of {raw.group_size} (mode {raw.mode or 'affine'}) is not "
            "supported; convert to 4 or 8 bits in groups of 32, 64 or 128, mode affine"
        )
    return Quantization(raw.group_size, raw.bits)


def _num_crops(path: Path) -> dict[str, int]:
    """`num_crops` of the image processor; nothing where the file is not there."""
    if not path.exists():
        return {}
    raw = read_as(path, "image processor configuration", ProcessorShape)
    for key, published in (("image_mean", IMAGE_MEAN), ("image_std", IMAGE_STD)):
        given = getattr(raw, key)
        if given is not None and not (len(given) == 3 and all(abs(a - b) < 1e-6 for a, b in zip(given, published))):
            raise UserError(f"{path}: {key} is {shown(given)}; it must be CLIP's, {list(published)}")
    return {"num_crops": raw.num_crops}


def _check(config: ModelArgs, path: Path) -> None:
    vision = config.vision
    checks = [
        (config.hidden_size % config.num_attention_heads == 0, "hidden_size must be a multiple of num_attention_heads"),
        (
            config.num_attention_heads % config.num_key_value_heads == 0,
            "num_attention_heads must be a multiple of num_key_value_heads",
        ),
        (config.head_dim % 2 == 0, "the head width must be even for RoPE"),
        (vision.num_channels == 3, "num_channels must be 3: crops are RGB"),
        (vision.image_size == CROP_SIZE, f"the tower must read {CROP_SIZE}-pixel crops"),
        (vision.image_size % vision.patch_size == 0, "image_size must be a multiple of patch_size"),
        (vision.grid % 2 == 0, "the patch grid must be even for the 2x2 merge"),
        (vision.hidden_size % vision.num_attention_heads == 0, "the tower's width must be a multiple of its heads"),
        (vision.num_hidden_layers >= 2, "the tower needs two layers or more"),
        (vision.hidden_act == "quick_gelu", "the tower's hidden_act must be quick_gelu"),
        (config.hd_transform_order in ("sub_glb", "glb_sub"), "hd_transform_order must be sub_glb or glb_sub"),
    ]
    half = config.head_dim // 2
    for name, factors in (("short_factor", config.short_factor), ("long_factor", config.long_factor)):
        checks.append((factors is None or len(factors) == half, f"{name} must have {half} entries"))
    for good, message in checks:
        if not good:
            raise UserError(f"{path}: {message}")
