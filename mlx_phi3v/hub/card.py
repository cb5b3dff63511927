"""The model card, README.md: of facts only, from the files in the folder. What they do not say is left out or unknown."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..adapter_config import CONFIG_FILE
from ..checkpoint.fingerprint import SOURCE_FILE
from ..files import read_json, sha256_bytes, sha256_file, write_text
from ..receipt import RECEIPT_FILE
from ..trained_task import TrainedTask
from . import facts
from .contents import CARD_FILE, Contents, Kind
from .facts import Origin, Training
from .markdown import block, code, number, table, text
from .receipt_lines import model_index, receipt_lines
from .usage import kept_section, usage_lines

_MARK = "<!-- mlx-phi3v wrote this card; SHA-256 of the text above: {} -->\n"
_MARKED = re.compile(_MARK.format("([0-9a-f]{64})") + r"\Z")
# The README of versions before there was a card.
_BEFORE = tuple(f"# Phi-3-Vision for {tool}\n\nWritten by mlx-phi3v " for tool in ("MLX", "transformers"))
_CURVE_ROWS = 12
_WITH_PATHS = (CONFIG_FILE, SOURCE_FILE, RECEIPT_FILE)  # what they were made of, as it was given
_MOST_TARGETS = 40


def write_card(folder: Path, adapter: Path | None = None) -> None:
    """Write the card of a model folder into it; with what is known of the training of `adapter`, which went into it.

    A README that somebody else wrote or changed stays.
    """
    if adapter is not None:
        facts.carry_training(adapter, folder)
    path = folder / CARD_FILE
    before = path.read_text("utf-8", "replace") if path.is_file() else None
    if before is None or is_ours(before):
        write_text(path, card(folder, "model", kept=kept_section(before or "")))


def written_beside(found: Contents, repo: str, licence: str | None = None) -> dict[str, str]:
    """What an upload writes anew: name -> text. A card, but where the folder has a README of the user's own; with an adapter
    how it was trained; and records without the paths of this machine. A data set has a card of its own.
    """
    written = {}
    path = found.files.get(CARD_FILE)
    before = path.read_text("utf-8", "replace") if path else None
    if found.kind != "dataset" and (before is None or is_ours(before)):
        written[CARD_FILE] = card(found.folder, found.kind, repo, licence, kept_section(before or ""))
    for name in (name for name in _WITH_PATHS if name in found.files):
        raw = read_json(found.files[name], "record")
        if facts.without_paths(raw) != raw:
            written[name] = json.dumps(facts.without_paths(raw), indent=2, ensure_ascii=False) + "\n"
    training = facts.training_of(found.folder) if found.kind == "adapter" else None
    if training:
        written[facts.TRAINING_FILE] = facts.training_json(training)
    return written


def is_ours(readme: str) -> bool:
    """Whether a README is a card that was written here and not changed since."""
    mark = _MARKED.search(readme)
    if mark is None:
        return readme.startswith(_BEFORE)
    return sha256_bytes(readme[: mark.start()].encode()) == mark[1]


@dataclass(frozen=True)
class _Known:
    """The material of one card. base: the hub's id of the published weights. given: the base model as the command was given."""

    folder: Path
    kind: Kind
    origin: Origin | None
    training: Training | None
    base: str | None
    given: str
    licence: str | None


def _known(folder: Path, kind: Kind, licence: str | None) -> _Known:
    origin = facts.origin_of(folder) if kind == "model" else None
    given = origin.source if origin else ""
    if kind == "adapter":
        given = str(facts.adapter_values(folder).get("base_model_name_or_path") or "")
    base = facts.base_of(given) if given else None
    return _Known(folder, kind, origin, facts.training_of(folder), base, given, licence or facts.licence_of(folder))


def card(folder: Path, kind: Kind, repo: str | None = None, licence: str | None = None, kept: str = "") -> str:
    """The card of the model or adapter in `folder`.

    repo: what to call it in commands; by default FOLDER. kept: what is carried over, see `usage.kept_section`.
    """
    known = _known(folder, kind, licence)
    name = repo.rpartition("/")[2] if repo else "Phi-3-Vision"
    lines = [f"# {text(name)}", "", f"{_what(known)} Written by mlx-phi3v {__version__} from what its files say.", ""]
    lines += usage_lines(folder, kind, repo, known.base, kept)
    lines += ["## What it is made of", "", *table(["", ""], [*_base_rows(known), *_origin_rows(known)])]
    lines += _adapter_lines(known)
    lines += _task_lines(folder)
    lines += _training_lines(known.training)
    lines += receipt_lines(folder)
    lines += _licence_lines(known)
    body = "\n".join([_head(known, name), *lines]).rstrip() + "\n\n"
    return body + _MARK.format(sha256_bytes(body.encode()))


def _what(known: _Known) -> str:
    if known.kind == "adapter":
        return "A LoRA adapter of Phi-3-Vision" + (", trained on photos of products." if known.training else ".")
    if known.origin is not None and known.origin.adapter:
        return "Phi-3-Vision with an adapter merged into it."
    return f"Phi-3-Vision for {'transformers' if facts.model_config(known.folder).get('auto_map') else 'MLX'}."


def _base_rows(known: _Known) -> list[list[str]]:
    rows = [["published weights", text(known.base)]] if known.base else []
    if known.given and known.given != known.base:
        rows.append(["made of" if known.kind == "model" else "trained on", text(facts.named(known.given))])
    return rows or [["base model", "unknown"]]


def _origin_rows(known: _Known) -> list[list[str]]:
    if known.kind == "adapter":
        trained = [["fingerprint of its weights", code(text(known.training.base_fingerprint))]] if known.training else []
        return [*trained, ["SHA-256 of the adapter", code(sha256_file(facts.weights_path(known.folder)))]]
    origin = known.origin or Origin()
    whose = "both" if origin.adapter else "its weights"
    rows = [[f"fingerprint of {whose}", code(text(origin.source_fingerprint))]] if origin.source_fingerprint else []
    rows += [[f"SHA-256 of {text(name)}", code(text(value))] for name, value in sorted(origin.source_sha256.items())]
    if origin.adapter:
        rows.append(["adapter", text(facts.named(origin.adapter))])
        rows.append(["SHA-256 of the adapter", code(text(origin.adapter_sha256))])
        rows.append(["scale of the adapter", number(origin.adapter_scale)])
    return [*rows, *([text(name), text(facts.to_json(value))] for name, value in sorted(origin.settings.items()))]


def _adapter_lines(known: _Known) -> list[str]:
    if known.kind != "adapter":
        return []
    values = facts.adapter_values(known.folder)
    names = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "use_rslora": "rsLoRA"}
    rows = [[label, text(facts.to_json(values[key]))] for key, label in names.items() if values.get(key) not in (None, False)]
    for key, label in (("target_modules", "modules with LoRA"), ("modules_to_save", "modules trained in full")):
        found = values.get(key)
        if isinstance(found, str) and found:
            rows.append([label, text(found)])
        elif isinstance(found, list) and found:
            more = f" and {len(found) - _MOST_TARGETS} more" if len(found) > _MOST_TARGETS else ""
            rows.append([label, ", ".join(text(item) for item in sorted(map(str, found))[:_MOST_TARGETS]) + more])
    return ["## LoRA", "", *table(["", ""], rows)] if rows else []


def _task_lines(folder: Path) -> list[str]:
    trained = TrainedTask.load(folder)
    if trained is None:
        return []
    fields = [[text(item.name), item.kind, text(item.currency or "")] for item in trained.task.fields]
    lines = ["## The question it answers", "", *block(trained.task.prompt), ""]
    if trained.task.template:
        lines += ["The answer has this form:", "", *block(trained.task.template), ""]
    lines += [f"Photos were cut into at most {trained.num_crops} crops; it was computed in {trained.dtype}.", ""]
    return lines + table(["field", "kind", "currency"], fields)


def _training_lines(training: Training | None) -> list[str]:
    if training is None:
        return []
    data = training.data
    rows = [["catalogue", text(data.name) or "unknown"]]
    rows += [["data set of the hub", text(data.source)]] if data.source else []
    rows.append(["fingerprint of the catalogue", code(text(data.fingerprint))])
    rows += [[f"rows, {text(name)}", number(count)] for name, count in data.rows.items()]
    rows.append(["steps of this adapter", number(training.step)])
    if training.best_loss is not None:
        rows.append(["lowest validation loss (nats a token)", f"{number(training.best_loss)} at step {training.best_step}"])
    rows += [
        [code(name), text(facts.to_json(training.settings[name]))]
        for name in facts.SETTINGS
        if training.settings.get(name) is not None
    ]
    return ["## How it was trained", "", *table(["", ""], rows), *_curve_lines(training)]


def _curve_lines(training: Training) -> list[str]:
    points = facts.thinned(training.curve, _CURVE_ROWS)
    if not points:
        return []
    rows = [[str(point.step), number(point.loss), number(point.val_loss)] for point in points]
    shown = f"{len(points)} of its {len(training.curve)} lines" if len(points) < len(training.curve) else "its lines"
    return [f"The log's losses, in nats an answer token ({shown}):", "", *table(["step", "loss", "validation loss"], rows)]


def _licence_lines(known: _Known) -> list[str]:
    if known.licence is not None:
        return ["## Licence", "", text(known.licence), ""]
    terms = f" The terms of {text(known.base)} hold for what is made of it." if known.base else ""
    return ["## Licence", "", f"Unknown: no file of the folder says it.{terms}", ""]


def _head(known: _Known, name: str) -> str:
    """The card's YAML, as the hub reads it."""
    from huggingface_hub import ModelCardData

    relation = _relation(known)
    data = known.training.data if known.training else None
    values: dict[str, Any] = {
        "base_model": known.base,
        "license": known.licence,
        "library_name": _library(known),
        "pipeline_tag": "image-text-to-text",
        "tags": ["mlx", "mlx-phi3v", "phi3_v", *(["lora"] if known.kind == "adapter" else [])],
        "datasets": [data.source] if data and data.source else None,
        **({"base_model_relation": relation} if known.base and relation else {}),
        **model_index(known.folder, name),
    }
    return f"---\n{ModelCardData(**values).to_yaml(line_break=chr(10))}\n---\n"


def _library(known: _Known) -> str:
    if known.kind == "adapter":
        return "peft" if facts.is_peft(known.folder) else "mlx"
    return "transformers" if facts.model_config(known.folder).get("auto_map") else "mlx"


def _relation(known: _Known) -> str | None:
    """How it comes from its base, in the hub's words; None where it is the same in another form."""
    if known.kind == "adapter":
        return "adapter"
    if known.origin is not None and known.origin.adapter:
        return "finetune"
    return "quantized" if facts.model_config(known.folder).get("quantization") else None
