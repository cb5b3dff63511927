"""Put the `model_file` into a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import read_json, write_json, write_text
from .chat_template import CHAT_TEMPLATE, is_ours
from .source import MODEL_FILE, model_source

_SOURCE_TEMPLATE = "source_chat_template"  # in tokenizer_config.json: the template that ours replaced, or null


def model_file_entries(raw: dict[str, Any], wanted: bool) -> None:
    """Make the entries of a `config.json` right for a folder with our `model_file`, or without one.

    LM Studio's engine makes the processor before the model, and then mlx-vlm's own, where there is a `vision_config`; nothing
    reads that entry of a Phi-3-V.
    """
    raw.pop("auto_map", None)  # it names remote code, which nothing here runs
    raw.pop("model_file", None)  # the source's, which is not copied
    if wanted:
        raw.pop("vision_config", None)
        raw["model_file"] = MODEL_FILE


def restore_chat_template(folder: Path, published: str) -> None:
    """Put the chat template back that `write_model_file` replaced; `published` where it is not known. Others stay."""
    settings = folder / "tokenizer_config.json"
    given = read_json(settings, "tokenizer settings") if settings.is_file() else {}
    template = given.pop(_SOURCE_TEMPLATE, published)
    if not is_ours(given.get("chat_template")):
        return
    if template is None:
        del given["chat_template"]
    else:
        given["chat_template"] = template
    write_json(settings, given)


def write_model_file(folder: Path) -> None:
    """Write the file and the chat template into a folder whose `config.json` names the file. Its card says what it is."""
    write_text(folder / MODEL_FILE, model_source())
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        given = read_json(settings, "tokenizer settings")
        before = given.get("chat_template")
        source = {} if is_ours(before) else {_SOURCE_TEMPLATE: before}
        write_json(settings, {**given, **source, "chat_template": CHAT_TEMPLATE})
