"""What of a folder belongs on the hub: a model, an adapter, or an exported catalogue, and nothing else that is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..adapter_config import CONFIG_FILE
from ..adapter_files import MLX_WEIGHTS_FILES, WEIGHTS_FILE, resolve_adapter
from ..documents import inside, plain
from ..errors import UserError
from ..redaction import holds_token
from ..trained_task import TASK_FILE

CARD_FILE = "README.md"
EXPORT_FILE = "export.json"  # in a catalogue that data.export wrote
Kind = Literal["model", "adapter", "dataset"]
_TEXT = (".json", ".md", ".py", ".txt", ".jinja", ".jsonl", ".csv")
_MODEL = (".safetensors", ".json", ".md", ".py", ".txt", ".jinja", ".png", ".jpg")
# Of a training, for who asks for it; it also holds the paths that the training was given.
TRAINING_STATE = ("optimizer.safetensors", "state.json")
_BESIDE_ADAPTER = (TASK_FILE, "training.json", "receipt.json", CARD_FILE)
_LICENCES = ("LICENSE", "LICENCE", "NOTICE")
_MOST_TEXT = 64 << 20  # bytes of a text file that are looked through for a token
# What an earlier upload may have left there, and would be read beside the new files: patterns of names.
STALE: dict[Kind, list[str]] = {
    "model": ["model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json"],
    "adapter": [WEIGHTS_FILE, *MLX_WEIGHTS_FILES],
    "dataset": ["data/*.parquet"],
}


@dataclass(frozen=True)
class Contents:
    """What is uploaded. files: name in the repository -> file. left_out: names in the folder that are not uploaded."""

    kind: Kind
    folder: Path
    files: dict[str, Path]
    left_out: list[str]

    @property
    def bytes(self) -> int:
        """The size of the files."""
        return sum(path.stat().st_size for path in self.files.values())


def contents_of(folder: Path, *, training_state: bool = False) -> Contents:
    """What `folder` holds: a model, an adapter or a training run (its best adapter), an exported catalogue.

    training_state: with the optimiser and the position of a training. Raises UserError where it is none of them, where a
    file is a link out of the folder, and where a text file holds a token.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give one with a model, an adapter, a training run or an exported catalogue")
    kind, root = _kind(folder)
    names = sorted(_names(root))
    wanted = [name for name in names if _belongs(name, kind, training_state)]
    if kind == "adapter" and not training_state:
        names = [name for name in names if name not in TRAINING_STATE]  # not worth a word
    files = {name: inside(root, name, root) for name in wanted}
    for name, path in files.items():
        if not path.is_file():  # opening a pipe would wait for ever
            raise UserError(f"{plain(str(path))} is no file; remove it before you upload the folder")
        _refuse_token(name, path)
    return Contents(kind, root, files, [name for name in names if name not in wanted])


def _kind(folder: Path) -> tuple[Kind, Path]:
    if (folder / EXPORT_FILE).is_file():
        return "dataset", folder
    if (folder / "config.json").is_file() and any(folder.glob("model*.safetensors")):
        return "model", folder
    if (folder / "catalogue.json").is_file():
        raise UserError(f"{folder} is a catalogue; upload it with `mlx_phi3v.export_data {folder} --to-hub OWNER/NAME`")
    try:
        return "adapter", resolve_adapter(folder, hub=False)
    except UserError:
        raise UserError(
            f"{folder} holds no model (config.json and model.safetensors), adapter ({CONFIG_FILE}), training run or exported "
            "catalogue; give the folder of one"
        ) from None


def _names(root: Path) -> list[str]:
    """The files below `root`, relative and with /; hidden ones, which are no part of it, left out."""
    found = []
    for parent, folders, names in os.walk(root, onerror=_raised):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        found += [(Path(parent) / name).relative_to(root).as_posix() for name in names if not name.startswith(".")]
    return found


def _raised(error: OSError) -> None:
    """What cannot be listed would be missing on the hub."""
    raise error


def _belongs(name: str, kind: Kind, training_state: bool) -> bool:
    if name.startswith(_LICENCES) and "/" not in name:
        return True
    if kind == "model":
        return name.endswith(_MODEL) and name not in TRAINING_STATE
    if kind == "dataset":
        return name in (CARD_FILE, EXPORT_FILE) or (name.startswith("data/") and name.endswith(".parquet"))
    adapter = (CONFIG_FILE, WEIGHTS_FILE, *MLX_WEIGHTS_FILES, *_BESIDE_ADAPTER)
    return name in adapter or (training_state and name in TRAINING_STATE)


def _refuse_token(name: str, path: Path) -> None:
    if name.endswith(_TEXT) and path.stat().st_size <= _MOST_TEXT and holds_token(path.read_text("utf-8", "replace")):
        raise UserError(
            f"{plain(str(path))} holds what looks like a token; remove it from the file before you upload the folder"
        )
