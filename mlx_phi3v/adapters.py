"""LoRA adapters in PEFT's file format, read and written by both backends.

Keys are PEFT's: `base_model.model.<module>.lora_A.weight` [r, in], `.lora_B.weight` [out, r], and
`base_model.model.<module>.weight` for a module trained in full. Values are fp32 numpy arrays.
"""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path

import numpy as np

from .adapter_config import CONFIG_FILE, also_saving, config_values, read_adapter_config
from .adapter_layout import (
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
from .checkpoint.headers import TensorInfo, read_header, read_metadata
from .checkpoint.layout import is_unused
from .config import ModelArgs
from .documents import plain, shown
from .errors import UserError
from .files import write_json, write_tensors

__all__ = [
    "CONFIG_FILE",
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
]

WEIGHTS_FILE = "adapter_model.safetensors"
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


def resolve_adapter(path: Path | str) -> Path:
    """The adapter folder of `path`: itself, or the best (else last) checkpoint of a training run.

    Raises UserError if there is none.
    """
    path = Path(path).expanduser()
    for folder in (path, path / "best", path / "last"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise UserError(
        f"--adapter {path} is neither an adapter nor a training run: it has no {CONFIG_FILE}; give a folder with one"
    )


def load_adapter(path: Path | str, config: ModelArgs, fingerprint: str) -> tuple[AdapterArgs, dict[str, np.ndarray]]:
    """Read an adapter and check it against the base model.

    Embeddings and an lm_head that peft stored beside LoRA are taken over, as modules trained in full.
    Raises UserError if it is corrupt, of an unsupported kind, trained on another base model, holds NaN or infinite
    numbers, if a tensor does not fit, or if other trained weights lie beside it, which would be left out.
    """
    folder = resolve_adapter(path)
    adapter = read_adapter_config(folder)
    weights = _weights_file(folder)
    infos = read_header(weights)
    made_for = read_metadata(weights).get("base_fingerprint")
    if made_for and made_for != fingerprint:
        raise UserError(
            f"adapter {folder} was trained on another base model ({adapter.base_model_name_or_path or 'unknown'}, fingerprint "
            f"{shown(made_for[:12])}, this model has {fingerprint[:12]}); give the --model it was trained on"
        )
    infos = {key: info for key, info in infos.items() if not is_unused(key.removeprefix(PREFIX), config)}
    try:
        kept = adapter_shapes(config, adapter).tensors
        beside = [name for name in _EMBEDDINGS if f"{PREFIX}{name}.weight" in infos and f"{PREFIX}{name}.weight" not in kept]
        adapter = also_saving(adapter, beside)
        expected = adapter_shapes(config, adapter).tensors
    except UserError as error:
        raise UserError(f"{folder / CONFIG_FILE}: {error}") from None
    _check_fit(folder, infos, expected)
    return adapter, {key: _read_tensor(key, info) for key, info in infos.items()}


def _weights_file(folder: Path) -> Path:
    """`adapter_model.safetensors`; UserError where it is pickled instead, or where other trained weights lie beside it."""
    path = folder / WEIGHTS_FILE
    pickled = folder / "adapter_model.bin"
    if not path.exists() and pickled.exists():
        raise UserError(
            f"{pickled} is pickled, which can run code, and is not read; load the adapter with peft and save it again with "
            "save_pretrained(folder, safe_serialization=True)"
        )
    if not path.is_file():
        raise UserError(f"{path} is {'no file' if path.exists() else 'missing'}; copy the adapter again")
    for other in sorted(folder.iterdir()):
        if other.suffix in _WEIGHTS and not _BESIDE.fullmatch(other.name):
            raise UserError(
                f"{other} lies beside the adapter and is not understood: weights trained in full belong into {WEIGHTS_FILE}, "
                "with modules_to_save; move the file elsewhere to leave it out"
            )
    return path


# How files of weights end, in the formats that trainers use.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".npz", ".npy", ".pkl", ".ckpt", ".h5", ".msgpack", ".gguf")
# What trainers write beside an adapter that is no part of it: their own state, the base model, other copies.
_BESIDE = re.compile(r"(adapter|model|optimizer|scheduler|scaler|rng_state|training_args|trainer|pytorch_model|consolidated).*")


def _read_tensor(key: str, info: TensorInfo) -> np.ndarray:
    """One tensor as fp32, whatever its stored dtype. Raises UserError for another dtype, and for numbers not finite."""
    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    if info.dtype not in kinds:
        raise UserError(f"{info.file}: {key} is of dtype {info.dtype}; it must be one of {', '.join(kinds)}")
    with open(info.file, "rb") as file:
        file.seek(info.start)
        stored = np.fromfile(file, kinds[info.dtype], math.prod(info.shape)).reshape(info.shape)
    # numpy has no bfloat16: it is the upper half of an fp32.
    array = (stored.astype(np.uint32) << 16).view(np.float32) if info.dtype == "BF16" else stored
    with np.errstate(over="ignore"):  # of fp64: what fp32 cannot hold is refused below
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{info.file}: {key} holds NaN or infinite numbers; the training diverged, or the file is corrupt")
    return array


def _check_fit(folder: Path, infos: dict[str, TensorInfo], expected: dict[str, tuple[int, ...]]) -> None:
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
