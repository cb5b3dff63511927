"""Find a model: a folder, the built-in tiny model, or a hub id to download."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import UserError
from ..trained_task import TASK_FILE
from .fingerprint import SOURCE_FILE

BUILTIN = "tiny"  # the name of the built-in model
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "config.json",
              "preprocessor_config.json", "processor_config.json", "tokenizer*.json", "special_tokens_map.json",
              "generation_config.json", SOURCE_FILE, TASK_FILE, "LICENSE*"]  # fmt: skip


def is_hub_id(name: str) -> bool:
    """Whether a name has the form OWNER/NAME."""
    return bool(_HUB_ID.fullmatch(name))


def resolve_model(name: str) -> Path:
    """The folder of a model: the built-in "tiny", a folder, or a hub id (downloaded once, no remote code).

    Raises UserError where there is none.
    """
    if name == BUILTIN:
        return Path(__file__).parents[1] / "tiny"
    path = Path(name).expanduser()
    if path.exists() or not _HUB_ID.fullmatch(name):
        if not path.is_dir():
            raise UserError(f"--model {name} is not a folder; give a checkpoint folder, a hub id or {BUILTIN!r}")
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub client raises many kinds; all mean that there is no download
        raise UserError(
            f"--model {name}: there is no such folder, and the download from the hub failed ({type(error).__name__}); "
            "check the id and the network, or give a folder"
        ) from None
