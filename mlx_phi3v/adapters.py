"""LoRA adapters in PEFT's file format, read and written by both backends.

Keys are PEFT's: `base_model.model.<module>.lora_A.weight` [r, in], `.lora_B.weight` [out, r], and
`base_model.model.<module>.weight` for a module trained in full. Values are fp32 numpy arrays.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from .checkpoint.layout import expected_tensors, is_unused
from .config import ModelArgs
from .errors import UserError
from .files import read_json, write_json, write_tensors

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."

# Microsoft's fine-tuning targets for Phi-3-vision, by group.
LANGUAGE = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
VISION = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
PROJECTOR = ("img_projection.0", "img_projection.2")
SEPARATORS = ("glb_GN", "sub_GN")
LM_HEAD = ("lm_head",)


@dataclass(frozen=True)
class AdapterArgs:
    """Which modules are trained, and how: the part of PEFT's LoraConfig that is supported."""

    r: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] | str = (*LANGUAGE, *VISION, *PROJECTOR)
    modules_to_save: tuple[str, ...] = ()
    use_rslora: bool = False
    base_model_name_or_path: str = ""

    @property
    def scale(self) -> float:
        """Factor on the low-rank product: alpha / r (alpha / sqrt(r) with rank-stabilised LoRA)."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def targets(self, module: str) -> bool:
        """Whether `module` gets LoRA, by PEFT's rule: a regular expression, or a list of name endings."""
        if isinstance(self.target_modules, str):
            if self.target_modules == "all-linear":
                return module != "lm_head"
            return re.fullmatch(self.target_modules, module) is not None
        return _ends_with(module, self.target_modules)

    def trains_image_side(self, config: ModelArgs) -> bool:
        """Whether the image side is trained: tower, projector or separators."""
        return any(name.startswith("model.vision_embed_tokens.") for name in adapter_shapes(config, self).modules)


def _ends_with(module: str, endings: tuple[str, ...]) -> bool:
    return any(module == ending or module.endswith("." + ending) for ending in endings)


@dataclass(frozen=True)
class AdapterShapes:
    """Shapes of an adapter's tensors by key, and the names of the modules they change."""

    lora: dict[str, tuple[int, int]]
    saved: dict[str, tuple[int, ...]]
    tensors: dict[str, tuple[int, ...]]

    @property
    def modules(self) -> list[str]:
        """All changed modules."""
        return [*self.lora, *(name.rpartition(".")[0] for name in self.saved)]


def saved_key(tensor: str) -> str:
    """PEFT's key of a fully trained tensor. The separators are bare parameters; as modules they hold a `weight`."""
    return PREFIX + (tensor + ".weight" if tensor.endswith(SEPARATORS) else tensor)


def adapter_shapes(config: ModelArgs, adapter: AdapterArgs) -> AdapterShapes:
    """The tensors of an adapter of this configuration for this model. Raises UserError if no module matches."""
    lora: dict[str, tuple[int, int]] = {}
    saved: dict[str, tuple[int, ...]] = {}
    for name, shape in expected_tensors(config).items():
        if is_unused(name, config):
            continue
        module = name.rpartition(".")[0]
        separator = name.endswith(SEPARATORS)
        if _ends_with(name if separator else module, adapter.modules_to_save):
            saved[name + ".weight" if separator else name] = shape
        elif _is_linear(name, shape) and adapter.targets(module):
            lora[module] = (shape[0], shape[1])
    if not lora and not saved:
        raise UserError(f"no module of the model matches target_modules {adapter.target_modules!r}; nothing would be trained")
    tensors: dict[str, tuple[int, ...]] = {}
    for module, (rows, columns) in lora.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = (adapter.r, columns)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = (rows, adapter.r)
    tensors |= {PREFIX + name: shape for name, shape in saved.items()}
    return AdapterShapes(lora, saved, tensors)


def _is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is the weight of a linear layer; an embedding's weight is a matrix too."""
    module, _, kind = name.rpartition(".")
    return kind == "weight" and len(shape) == 2 and "embed" not in module.rpartition(".")[2]


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
    values: dict[str, Any] = {
        "peft_type": "LORA", "task_type": None, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "use_dora": False, **asdict(adapter),
    }  # fmt: skip
    values["modules_to_save"] = list(adapter.modules_to_save) or None
    ordered = {key: np.ascontiguousarray(tensors[key], np.float32) for key in sorted(tensors)}
    write_tensors(folder / WEIGHTS_FILE, ordered, {"format": "pt", "base_fingerprint": fingerprint})
    write_json(folder / CONFIG_FILE, values)


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


def _read_tensors(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    """Tensors of an adapter file as fp32, whatever their stored dtype, and the fingerprint of their base model.

    Raises UserError if the file is missing or corrupt.
    """
    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    tensors = {}
    try:
        with safe_open(path, framework="np") as file:
            made_for = (file.metadata() or {}).get("base_fingerprint")
        for key, value in deserialize(path.read_bytes()):
            array = np.frombuffer(value["data"], kinds[value["dtype"]]).reshape(value["shape"])
            # numpy has no bfloat16: it is the upper half of an fp32.
            tensors[key] = (array.astype(np.uint32) << 16).view(np.float32) if value["dtype"] == "BF16" else array
    except (SafetensorError, FileNotFoundError, KeyError) as error:
        raise UserError(f"{path} is missing or corrupt ({error}); copy the adapter again") from None
    return {key: value.astype(np.float32) for key, value in tensors.items()}, made_for


def load_adapter(path: Path | str, config: ModelArgs, fingerprint: str) -> tuple[AdapterArgs, dict[str, np.ndarray]]:
    """Read an adapter and check it against the base model.

    Raises UserError if it is corrupt, of an unsupported kind, trained on another base model, or if a tensor does not fit.
    """
    folder = resolve_adapter(path)
    adapter = _read_config(folder)
    tensors, made_for = _read_tensors(folder / WEIGHTS_FILE)
    if made_for and made_for != fingerprint:
        raise UserError(
            f"adapter {folder} was trained on another base model ({adapter.base_model_name_or_path or 'unknown'}, fingerprint "
            f"{made_for[:12]}, this model has {fingerprint[:12]}); give the --model it was trained on"
        )
    tensors = {k: v for k, v in tensors.items() if not is_unused(k.removeprefix(PREFIX), config)}
    _check_fit(folder, tensors, adapter_shapes(config, adapter).tensors)
    return adapter, tensors


# Options of PEFT that are not supported here, with the value that means "not used".
_UNSUPPORTED: dict[str, Any] = {
    "use_dora": False, "bias": "none", "rank_pattern": {}, "alpha_pattern": {}, "fan_in_fan_out": False, "lora_bias": False,
    "layer_replication": None, "target_parameters": None,
}  # fmt: skip


def _read_config(folder: Path) -> AdapterArgs:
    """Read `adapter_config.json`. Raises UserError if it is not plain LoRA."""
    raw = read_json(folder / CONFIG_FILE, "adapter configuration")
    if isinstance(raw, dict) and raw.get("peft_type", "LORA") != "LORA":
        raise UserError(f"{folder} is a {raw['peft_type']} adapter; only LoRA is supported")
    if not isinstance(raw, dict) or "r" not in raw or "lora_alpha" not in raw:
        raise UserError(
            f"{folder / CONFIG_FILE} is not a LoRA configuration: it has no r or no lora_alpha; copy the adapter again"
        )
    for key, plain in _UNSUPPORTED.items():
        if raw.get(key) not in (plain, None):
            raise UserError(f"{folder}: {key} = {raw[key]!r} is not supported; use an adapter without it")
    if str(raw.get("init_lora_weights")).lower().startswith(("pissa", "olora", "corda", "loftq")):
        raise UserError(
            f"{folder}: init_lora_weights = {raw['init_lora_weights']!r} changes the base model too; save it with peft's "
            "path_initial_model_for_weight_conversion, which turns it into plain LoRA"
        )
    targets = raw.get("target_modules") or ()
    return AdapterArgs(
        r=int(raw["r"]),
        lora_alpha=raw["lora_alpha"],
        lora_dropout=float(raw.get("lora_dropout") or 0.0),
        target_modules=targets if isinstance(targets, str) else tuple(sorted(targets)),
        modules_to_save=tuple(raw.get("modules_to_save") or ()),
        use_rslora=bool(raw.get("use_rslora")),
        base_model_name_or_path=raw.get("base_model_name_or_path") or "",
    )


def _check_fit(folder: Path, tensors: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]]) -> None:
    """Raise UserError where a tensor is missing, extra or of another shape."""
    problems = [f"missing {key}" for key in expected if key not in tensors]
    problems += [f"extra {key}" for key in tensors if key not in expected]
    problems += [
        f"{key} is {list(tensors[key].shape)}, the model asks for {list(shape)}"
        for key, shape in expected.items()
        if key in tensors and tensors[key].shape != shape
    ]
    if problems:
        raise UserError(
            f"adapter {folder} does not fit this model: {'; '.join(problems[:5])} ({len(problems)} in all); "
            "is it for another base model?"
        )
