"""LoRA adapters in PEFT's file format, read and written by both backends.

Keys are PEFT's: `base_model.model.<module>.lora_A.weight` [r, in], `.lora_B.weight` [out, r], and
`base_model.model.<module>.weight` for a module trained in full. Values are fp32 numpy arrays.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .adapter_config import CONFIG_FILE, also_saving, config_values, peft_config
from .adapter_files import WEIGHTS_FILE, checked_weights_path, resolve_adapter, weights_name, weights_path
from .adapter_keys import StoredTensor, peft_keys
from .adapter_layout import (
    GROUPS,
    LANGUAGE,
    LM_HEAD,
    PREFIX,
    PROJECTOR,
    SEPARATORS,
    VISION,
    AdapterArgs,
    AdapterShapes,
    adapter_shapes,
    saved_key,
)
from .adapter_mlx import is_mlx_config, read_mlx_config
from .adapter_patterns import Patterns, uniform
from .checkpoint.floats import KINDS, read_floats
from .checkpoint.headers import read_header, read_metadata
from .config import ModelArgs
from .documents import plain, read_json, shown
from .errors import UserError
from .files import write_json, write_tensors
from .progress import note

__all__ = [
    "CONFIG_FILE",
    "GROUPS",
    "LANGUAGE",
    "LM_HEAD",
    "PREFIX",
    "PROJECTOR",
    "SEPARATORS",
    "VISION",
    "WEIGHTS_FILE",
    "AdapterArgs",
    "AdapterShapes",
    "adapter_shapes",
    "init_adapter",
    "load_adapter",
    "resolve_adapter",
    "save_adapter",
    "saved_key",
    "weights_name",
    "weights_path",
]

# What peft stores beside LoRA on request, without a word in the configuration.
_EMBEDDINGS = ("model.embed_tokens", "lm_head")


def init_adapter(config: ModelArgs, adapter: AdapterArgs, seed: int) -> dict[str, np.ndarray]:
    """Fresh LoRA tensors, the same on both backends: A uniform in +-1/sqrt(in) (PEFT's Kaiming rule), B zero.

    Fully trained tensors are not in it: they start from the checkpoint.
    """
    tensors: dict[str, np.ndarray] = {}
    for module, (rows, columns) in adapter_shapes(config, adapter).lora.items():
        random = np.random.Generator(np.random.PCG64([seed, zlib.crc32(module.encode())]))
        bound = 1 / math.sqrt(columns)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = random.uniform(-bound, bound, (adapter.r, columns)).astype(np.float32)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = np.zeros((rows, adapter.r), np.float32)
    return tensors


def save_adapter(folder: Path, adapter: AdapterArgs, tensors: dict[str, np.ndarray], fingerprint: str) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, as `peft.PeftModel` reads them."""
    ordered = {key: np.ascontiguousarray(tensors[key], np.float32) for key in sorted(tensors)}
    write_tensors(folder / WEIGHTS_FILE, ordered, {"format": "pt", "base_fingerprint": fingerprint})
    write_json(folder / CONFIG_FILE, config_values(adapter))


def load_adapter(
    path: Path | str, config: ModelArgs, fingerprint: str, model: str | None = None
) -> tuple[AdapterArgs, dict[str, np.ndarray]]:
    """Read an adapter, of PEFT's form or of mlx's, and check it against the base model.

    Embeddings and an lm_head that peft stored beside LoRA are taken over, as modules trained in full. Ranks and alphas of
    single modules become one, see `adapter_patterns`. model: the name of the base model's weights, as far as it is known.
    An adapter that changes nothing, or that does not say which weights it belongs to, is reported in one line.

    Raises UserError if it is corrupt, of an unsupported kind, trained on another base model, holds NaN or infinite
    numbers, if a tensor does not fit, or if other trained weights lie beside it, which would be left out.
    """
    opened = open_adapter(path, config, fingerprint, model)
    tensors = {key: _read_tensor(key, item) for key, item in opened.stored.items()}
    adapter, tensors = uniform(opened.adapter, tensors, opened.patterns)
    if not any(value.any() for key, value in tensors.items() if not key.endswith(".lora_A.weight")):
        note(f"adapter {opened.folder} changes nothing: every lora_B is zero, as before the first step of a training")
    if model is not None and "base_fingerprint" not in read_metadata(weights_path(opened.folder)):
        named = shown(adapter.base_model_name_or_path or "no model")
        note(f"adapter {opened.folder} does not say which weights it was trained on (it names {named}): check it")
    return adapter, tensors


@dataclass(frozen=True)
class OpenAdapter:
    """An adapter that fits its base model: its configuration, also as the JSON says it, and its tensors in their file."""

    folder: Path
    raw: dict[str, Any]
    adapter: AdapterArgs
    patterns: Patterns
    stored: dict[str, StoredTensor]


def open_adapter(path: Path | str, config: ModelArgs, fingerprint: str, model: str | None = None) -> OpenAdapter:
    """Open an adapter without reading its tensors; see `load_adapter`."""
    folder = resolve_adapter(path)
    where = folder / CONFIG_FILE
    raw = read_json(where, "adapter configuration")
    of_mlx = is_mlx_config(raw)
    of_peft = None if of_mlx else peft_config(raw, where)  # before its weights: a wrong kind is named as such
    weights = checked_weights_path(folder)
    stored = peft_keys(read_header(weights), config, weights)
    adapter, patterns = of_peft or (read_mlx_config(raw, stored, where), Patterns())
    _check_base(folder, weights, adapter, fingerprint, model)
    try:
        kept = adapter_shapes(config, adapter).tensors
        beside = [name for name in _EMBEDDINGS if f"{PREFIX}{name}.weight" in stored and f"{PREFIX}{name}.weight" not in kept]
        adapter = also_saving(adapter, beside)
        expected = _expected(config, adapter, patterns, stored)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    _check_fit(folder, stored, expected)
    return OpenAdapter(folder, raw, adapter, patterns, stored)


def _expected(
    config: ModelArgs, adapter: AdapterArgs, patterns: Patterns, stored: dict[str, StoredTensor]
) -> dict[str, tuple[int, ...]]:
    """The shapes of an adapter's tensors; of the ranks of single modules they may have each that the configuration names."""
    shapes = adapter_shapes(config, adapter)
    tensors, modules = dict(shapes.tensors), tuple(shapes.lora)
    patterns.alphas(modules, adapter)  # they are expressions too
    for module, r in patterns.ranks(modules, adapter).items():
        down, up = f"{PREFIX}{module}.lora_A.weight", f"{PREFIX}{module}.lora_B.weight"
        its = stored[down].shape[0] if down in stored and stored[down].shape else 0
        rank = its if its in patterns.rank.values() else r
        rows, columns = shapes.lora[module]
        tensors |= {down: (rank, columns), up: (rows, rank)}
    return tensors


def _check_base(folder: Path, weights: Path, adapter: AdapterArgs, fingerprint: str, model: str | None) -> None:
    """Raise UserError for an adapter of other weights, as far as it says of which."""
    made_for, named = read_metadata(weights).get("base_fingerprint"), adapter.base_model_name_or_path
    if made_for and made_for != fingerprint:
        raise UserError(
            f"adapter {folder} was trained on another base model ({named or 'unknown'}, fingerprint "
            f"{shown(made_for[:12])}, this model has {fingerprint[:12]}); give the --model it was trained on"
        )
    theirs, ours = _family(named), _family(model or "")
    if made_for is None and theirs and ours and theirs != ours:
        raise UserError(
            f"adapter {folder} was trained on {shown(named)}, and this model is {ours}; give the --model it was trained on"
        )


def _family(name: str) -> str:
    """Which of the published models a name means, as far as one can tell."""
    found = re.search(r"phi-?3(\.5|-5)?-?v", name.lower())
    return "" if found is None else "Phi-3.5-vision" if found[1] else "Phi-3-vision"


def _read_tensor(key: str, stored: StoredTensor) -> np.ndarray:
    """One tensor as fp32, whatever its stored dtype. Raises UserError for another dtype, and for numbers not finite."""
    info = stored.info
    if info.dtype not in KINDS:
        raise UserError(f"{info.file}: {key} is of dtype {info.dtype}; it must be one of {', '.join(KINDS)}")
    array = read_floats(info)
    if not np.isfinite(array).all():
        raise UserError(f"{info.file}: {key} holds NaN or infinite numbers; the training diverged, or the file is corrupt")
    return np.ascontiguousarray(array.T) if stored.transposed else array


def _check_fit(folder: Path, infos: dict[str, StoredTensor], expected: dict[str, tuple[int, ...]]) -> None:
    """Raise UserError where a tensor is missing, extra or of another shape."""
    problems = [f"missing {key}" for key in expected if key not in infos]
    problems += [f"extra {plain(key)}" for key in infos if key not in expected]
    problems += [
        f"{key} is {list(infos[key].shape)}, the model asks for {list(shape)}"
        for key, shape in expected.items()
        if key in infos and infos[key].shape != shape
    ]
    if problems:
        raise UserError(
            f"adapter {folder} does not fit this model: {'; '.join(problems[:5])} ({len(problems)} in all); "
            "is it for another base model?"
        )
