"""Where an adapter is, and in which of two forms: PEFT's files, or those of mlx-lm and mlx-vlm."""

from __future__ import annotations

import re
from pathlib import Path

from .adapter_config import CONFIG_FILE
from .checkpoint.fingerprint import SOURCE_FILE
from .documents import read_json
from .errors import UserError
from .hub.download import download
from .hub.hub_errors import is_hub_id
from .misplaced import hint

WEIGHTS_FILE = "adapter_model.safetensors"
SETTINGS_FILE = "settings.json"  # of a training
MLX_WEIGHTS_FILES = ("adapters.safetensors", "weights.safetensors")  # the second as mlx-vlm reads it too
_HUB_FILES = [CONFIG_FILE, WEIGHTS_FILE, *MLX_WEIGHTS_FILES, "task.json", "training.json", "LICENSE*"]
# How files of weights end, in the formats that trainers use.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".npz", ".npy", ".pkl", ".ckpt", ".h5", ".msgpack", ".gguf")
# What trainers write beside an adapter that is no part of it: their own state, the base model, other copies.
_BESIDE = re.compile(
    r"(\d*_?adapter|model|optimizer|scheduler|scaler|rng_state|training_args|trainer|pytorch_model|consolidated).*"
)


def training_folder(adapter: Path) -> Path | None:
    """The folder that a training left its settings in: of the adapter or above it. None where there is none."""
    return next((place for place in (adapter, adapter.parent) if (place / SETTINGS_FILE).is_file()), None)


def resolve_adapter(path: Path | str, *, hub: bool = True) -> Path:
    """The adapter folder of `path`: itself, the best (else last) checkpoint of a training run, or a hub id's, downloaded once.

    hub: whether to ask the hub for what is no folder here. Raises UserError if there is none.
    """
    name, path = str(path), Path(path).expanduser()
    if path.is_file() and path.name in (CONFIG_FILE, WEIGHTS_FILE, *MLX_WEIGHTS_FILES):
        path = path.parent  # as tools that take a file name it
    for folder in (path, path / "best", path / "last"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    if not hub or path.exists() or not is_hub_id(name):
        raise UserError(
            f"--adapter {path} is neither an adapter nor a training run: it has no {CONFIG_FILE}"
            f"{hint(path, CONFIG_FILE) or '; give a folder with one'}"
        )
    missing = f"--adapter {name} is neither an adapter nor a training run (there is no such folder)"
    folder = download(name, _HUB_FILES, missing)
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"--adapter {name}: that repository of the hub has no {CONFIG_FILE}; give one with an adapter")
    return folder


def weights_path(folder: Path) -> Path:
    """The file of an adapter's tensors: PEFT's, else that of mlx-lm and mlx-vlm; PEFT's name where there is neither."""
    names = (WEIGHTS_FILE, *MLX_WEIGHTS_FILES)
    return next((folder / name for name in names if (folder / name).exists()), folder / WEIGHTS_FILE)


def checked_weights_path(folder: Path) -> Path:
    """`weights_path`; UserError where it is pickled or missing, or where other trained weights lie beside it."""
    path = weights_path(folder)
    pickled = folder / "adapter_model.bin"
    if not path.exists() and pickled.exists():
        raise UserError(
            f"{pickled} is pickled, which can run code, and is not read; load the adapter with peft and save it again with "
            "save_pretrained(folder, safe_serialization=True)"
        )
    if not path.is_file():
        raise UserError(f"{path} is {'no file' if path.exists() else 'missing'}; copy the adapter again")
    for other in sorted(folder.iterdir()):
        weights = other.suffix in _WEIGHTS
        if weights and other != path and not _BESIDE.fullmatch(other.name):
            raise UserError(
                f"{other} lies beside the adapter and is not understood: weights trained in full belong into {path.name}, "
                "with modules_to_save; move the file elsewhere to leave it out"
            )
    return path


def weights_name(model: Path) -> str:
    """What a checkpoint folder says of where its weights come from: the source of its conversion, and their published name."""
    names = []
    for file, key in ((SOURCE_FILE, "source"), ("config.json", "_name_or_path")):
        raw = read_json(model / file, "record") if (model / file).is_file() else {}
        names.append(str(raw.get(key) or "") if isinstance(raw, dict) else "")
    return " ".join(filter(None, names))
