"""Find a model: a folder, the built-in tiny model, or a hub id to download."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..hub.download import download
from ..hub.hub_errors import is_hub_id
from ..misplaced import MODEL_FILE, hint
from ..trained_task import TASK_FILE
from .fingerprint import SOURCE_FILE

BUILTIN = "tiny"  # the name of the built-in model
_HUB_FILES = ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "config.json",
              "preprocessor_config.json", "processor_config.json", "tokenizer*.json", "special_tokens_map.json",
              "generation_config.json", SOURCE_FILE, TASK_FILE, "training.json", "receipt.json", "probe.json",
              "probe-?.png", "LICENSE*"]  # fmt: skip


def resolve_model(name: str, flag: str = "--model") -> Path:
    """The folder of a model: the built-in "tiny", a folder, or a hub id (downloaded once, no remote code).

    Raises UserError where there is none, which names it as the value of `flag`.
    """
    if name == BUILTIN:
        return Path(__file__).parents[1] / "tiny"
    path = Path(name).expanduser()
    if path.exists() or not is_hub_id(name):
        if not path.is_dir():
            near = hint(path, MODEL_FILE) or f"; give a checkpoint folder, a hub id or {BUILTIN!r}"
            raise UserError(f"{flag} {name} is not a folder{near}")
        return path
    return download(name, _HUB_FILES, f"{flag} {name}: there is no such folder")
