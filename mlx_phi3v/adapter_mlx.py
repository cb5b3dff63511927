"""The adapter form of mlx-lm and mlx-vlm: `adapters.safetensors` and an `adapter_config.json` with `lora_parameters`.

Keys are `<module>.lora_a` [in, r] and `<module>.lora_b` [r, out], the transposes of PEFT's, and `<module>.weight` of a module
trained in full; `scale` is PEFT's alpha / r. The entry `peft`, which those tools pass over, holds PEFT's configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from .adapter_config import peft_config
from .adapter_layout import PREFIX, AdapterArgs
from .documents import check_shape, shown
from .errors import UserError


class _Parameters(msgspec.Struct, kw_only=True):
    """`lora_parameters`."""

    rank: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    scale: Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    keys: list[str] | None = None


class _MlxShape(msgspec.Struct, kw_only=True):
    """`adapter_config.json` of mlx-lm and mlx-vlm: the entries that are read."""

    lora_parameters: _Parameters
    fine_tune_type: str | None = None
    model: str | None = None
    peft: dict[str, Any] | None = None


def is_mlx_config(raw: Any) -> bool:
    """Whether a configuration is of this form, or of the one that mlx-vlm had before."""
    return isinstance(raw, dict) and "r" not in raw and bool(raw.keys() & {"lora_parameters", "fine_tune_type", "rank"})


def read_mlx_config(raw: dict[str, Any], keys: Iterable[str], path: Path) -> AdapterArgs:
    """What a configuration of this form and the PEFT keys of its tensors say.

    Raises UserError for DoRA, for weights trained in full, for the old form of mlx-vlm, and where no tensor belongs to one
    of `keys`.
    """
    kind = raw.get("fine_tune_type", "lora")
    if kind not in (None, "lora"):
        advice = {"full": "it holds a whole model; fuse it with the tool that made it", "dora": "train it as LoRA"}
        raise UserError(
            f"{path}: fine_tune_type is {shown(kind)}; only lora is supported: {advice.get(str(kind), 'train it again')}"
        )
    if "lora_parameters" not in raw:
        raise UserError(f"{path} has no lora_parameters, as mlx-vlm's old adapters; save it with mlx-vlm 0.7 or newer")
    read = check_shape(raw, _MlxShape, path)
    keys = list(keys)
    modules = sorted({key[len(PREFIX) :].rpartition(".lora_")[0] for key in keys if ".lora_" in key})
    for name in read.lora_parameters.keys or ():
        if not any(module == name or module.endswith("." + name) or name.endswith("." + module) for module in modules):
            raise UserError(f"{path}: keys names {shown(name)}, of which there is no tensor; copy the adapter again")
    parameters = read.lora_parameters
    saved = sorted({_saved_module(key) for key in keys if ".lora_" not in key})
    plain = AdapterArgs(
        r=parameters.rank,
        lora_alpha=parameters.scale * parameters.rank,
        lora_dropout=parameters.dropout or 0.0,
        target_modules=tuple(modules),
        modules_to_save=tuple(saved),
        base_model_name_or_path=read.model or "",
    )
    kept = peft_record(raw, path)
    return kept if kept and kept.r == plain.r and kept.scale == parameters.scale else plain


def peft_record(raw: Mapping[str, Any], path: Path) -> AdapterArgs | None:
    """PEFT's configuration in one of this form. Raises UserError as `peft_config`."""
    return peft_config(raw["peft"], path)[0] if raw.get("peft") else None


def _saved_module(key: str) -> str:
    return key[len(PREFIX) :].rpartition(".")[0]


def mlx_config(adapter: AdapterArgs, keys: Iterable[str], peft: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON form, as `mlx_vlm.load(..., adapter_path=...)` reads it. keys: PEFT's; peft: its configuration."""
    down = [key for key in keys if key.endswith(".lora_A.weight")]
    return {
        "fine_tune_type": "lora",
        "num_layers": -1,  # all: `keys` says which
        "lora_parameters": {
            "rank": adapter.r,
            "scale": adapter.scale,
            "dropout": adapter.lora_dropout,
            "keys": sorted(key[len(PREFIX) : -len(".lora_A.weight")] for key in down),
        },
        "model": adapter.base_model_name_or_path,
        "peft": dict(peft),
    }


def mlx_key(key: str) -> tuple[str, bool]:
    """PEFT's key -> (this form's, whether the tensor is transposed)."""
    name = key.removeprefix(PREFIX)
    for peft, mlx in ((".lora_A.weight", ".lora_a"), (".lora_B.weight", ".lora_b")):
        if name.endswith(peft):
            return name.removesuffix(peft) + mlx, True
    return name, False
