"""What is known of a model or an adapter, from the files that its commands left: the material of a model card.

A fact that no file holds is None. No path of this machine is among them: of a folder only its last name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from .. import __version__
from ..adapter_config import CONFIG_FILE
from ..adapter_files import weights_path
from ..checkpoint.fingerprint import SOURCE_FILE
from ..checkpoint.hub import BUILTIN
from ..documents import check_shape, parse_json, read_as, read_json
from ..errors import UserError
from ..files import write_text
from ..hf_folder.published import PHI3, PHI35
from .hub_errors import is_hub_id

TRAINING_FILE = "training.json"  # beside an adapter that was uploaded, and in a fused model: how the adapter was trained
_CURVE_POINTS = 200  # of the log that are carried; a card shows fewer
PUBLISHED = (PHI3.repo, PHI35.repo)
# The settings that say how an adapter came about, in the order of a card. None of them is a path.
SETTINGS = (
    "backend", "dtype", "epochs", "max_steps", "batch_size", "grad_accumulation_steps", "learning_rate", "lr_schedule",
    "warmup_steps", "weight_decay", "adam_betas", "adam_eps", "max_grad_norm", "r", "lora_alpha", "lora_dropout", "language",
    "vision", "projector", "separators", "lm_head", "num_crops", "max_length", "skip_long", "group_by_length", "seed",
    "val_rows",
)  # fmt: skip
Setting = float | int | str | bool | None | list[float]


class Origin(msgspec.Struct, frozen=True):
    """`conversion.json`: what a model folder was made of."""

    source: str = ""
    source_fingerprint: str = ""
    source_sha256: dict[str, str] = {}
    adapter: str = ""
    adapter_sha256: str = ""
    adapter_scale: float | None = None
    settings: dict[str, Any] = {}
    version: str = ""


class Point(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a training's log: losses in nats a token."""

    step: int
    loss: float
    val_loss: float | None = None


class Data(msgspec.Struct, frozen=True):
    """The catalogue of a training. source: the hub's id of its data set, else empty. rows: of each split."""

    name: str
    fingerprint: str
    source: str = ""
    rows: dict[str, int] = {}


class Training(msgspec.Struct, frozen=True):
    """`training.json`: how an adapter was trained."""

    step: int
    base_fingerprint: str
    data: Data
    settings: dict[str, Setting]
    curve: list[Point]
    best_step: int | None = None
    best_loss: float | None = None
    version: str = ""


class _State(msgspec.Struct):
    step: int
    data_fingerprint: str
    base_fingerprint: str
    best_step: int | None
    best_loss: float | None
    settings: dict[str, Any]


def origin_of(folder: Path) -> Origin | None:
    """What a model folder was made of; None where it does not say. Raises UserError where its record is not of its form."""
    path = folder / SOURCE_FILE
    return read_as(path, "conversion record", Origin) if path.is_file() else None


def training_of(folder: Path) -> Training | None:
    """How the adapter in `folder` was trained; None where no file says so."""
    if (folder / TRAINING_FILE).is_file():
        return read_as(folder / TRAINING_FILE, "record of a training", Training)
    if not (folder / "state.json").is_file():
        return None
    state = read_as(folder / "state.json", "training state", _State)
    settings = {name: state.settings[name] for name in SETTINGS if name in state.settings}
    data = _data(state.settings.get("data"), state.data_fingerprint)
    curve = _curve(folder.parent / "log.jsonl")
    raw = {"settings": settings, "data": data, "curve": curve, "version": __version__}
    known = {name: getattr(state, name) for name in ("step", "base_fingerprint", "best_step", "best_loss")}
    return msgspec.convert(msgspec.to_builtins(raw | known), Training)


def carry_training(adapter: Path, folder: Path) -> None:
    """Write into `folder`, which `adapter` went into, how that was trained, where it is known."""
    training = training_of(adapter)
    if training:
        write_text(folder / TRAINING_FILE, training_json(training))


def training_json(training: Training) -> str:
    """The text of `training.json`."""
    return json.dumps(msgspec.to_builtins(training), indent=2, ensure_ascii=False) + "\n"


def _data(path: Any, fingerprint: str) -> Data:
    """The catalogue, by its own record where it is still there and the same."""
    unknown = Data(Path(str(path)).name if path else "", fingerprint)
    try:
        info = read_json(Path(str(path)) / "catalogue.json", "catalogue")
        if info["fingerprint"] != fingerprint:
            return unknown
        rows = {str(name): int(split["rows"]) for name, split in info["splits"].items()}
        source = str(info["source"].get("name", "")) if info["source"].get("kind") in ("datasets", "export") else ""
        known = is_hub_id(source) and not Path(source).exists() and _downloaded(source, "datasets")
        return Data(str(info["name"]), fingerprint, source if known else "", rows)
    except (UserError, KeyError, TypeError, AttributeError, ValueError):
        return unknown


def _curve(log: Path) -> list[Point]:
    """The log's points, thinned evenly; those with a validation loss stay."""
    found = []
    try:
        for number, line in enumerate(log.read_bytes().splitlines(), 1):
            found.append(check_shape(parse_json(line, f"{log} line {number}"), Point, log))
    except (OSError, ValueError, UserError):  # a last line that was cut, a log of elsewhere: what came before counts
        pass
    return thinned(found, _CURVE_POINTS)


def thinned(points: list[Point], most: int) -> list[Point]:
    """At most about `most` of the points: the first, the last, some between, and as many with a validation loss."""
    if len(points) <= most:
        return points
    validated = [i for i, point in enumerate(points) if point.val_loss is not None]
    wanted = {round(i * (len(points) - 1) / (most // 2)) for i in range(most // 2 + 1)}
    step = max(1, -(-len(validated) // (most // 2)))
    return [points[i] for i in sorted(wanted | set(validated[::-1][::step]))]


def base_of(name: str, folder: Path | None = None) -> str | None:
    """The hub's id of the published weights behind a model's name or folder; None where that is not known.

    A name that may be a folder as well as a repository counts as one only where this machine has downloaded it.
    """
    for _ in range(8):  # a folder may have been made of a folder
        if name in PUBLISHED:
            return name
        path = folder or Path(name).expanduser()
        if not path.is_dir():
            return name if is_hub_id(name) and name != BUILTIN and _downloaded(name) else None
        folder, name = None, _made_of(path)
        if not name:
            return None
    return None


def _made_of(folder: Path) -> str:
    for file, key in ((SOURCE_FILE, "source"), ("config.json", "_name_or_path")):
        try:
            raw = read_json(folder / file, "record")
        except UserError:
            continue
        if isinstance(raw, Mapping) and isinstance(raw.get(key), str) and raw[key]:
            return str(raw[key])
    return ""


def _downloaded(name: str, kind: str = "models") -> bool:
    from huggingface_hub.constants import HF_HUB_CACHE

    return (Path(HF_HUB_CACHE) / f"{kind}--{name.replace('/', '--')}").is_dir()


def named(name: str) -> str:
    """What others are told of a model or adapter that was given as `name`: of a path only its last part."""
    return name if is_hub_id(name) or "/" not in name else f".../{Path(name).name}"


def without_folders(text: str) -> str:
    """`text` with only the last part of each absolute path in it.

    >>> without_folders("/home/me/m with ~/runs/a")
    '.../m with .../a'
    """
    return re.sub(r"(?<![\w:/.])~?(?:/[^/\s\"'`]+)+/([^/\s\"'`]+)", r".../\1", text)


def without_paths(value: Any) -> Any:
    """A JSON value whose texts are no absolute paths: of each only its last part is left."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    return f".../{Path(value).name}" if isinstance(value, str) and value.startswith(("/", "~/")) else value


def model_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model. Raises UserError where it is none."""
    raw = read_json(folder / "config.json", "model configuration")
    if not isinstance(raw, dict):
        raise UserError(f"{folder / 'config.json'} holds no object; get it again")
    return raw


def adapter_values(folder: Path) -> dict[str, Any]:
    """PEFT's entries of an adapter's configuration, of either form."""
    raw = read_json(folder / CONFIG_FILE, "adapter configuration")
    values = raw.get("peft", raw) if isinstance(raw, dict) else {}
    return values if isinstance(values, dict) else {}


def is_peft(folder: Path) -> bool:
    """Whether the adapter has PEFT's form, not that of mlx."""
    return weights_path(folder).name.startswith("adapter_model")


def licence_of(folder: Path) -> str | None:
    """The licence that the file LICENSE in `folder` is, where its first line says so."""
    path = next((folder / name for name in ("LICENSE", "LICENSE.txt", "LICENSE.md") if (folder / name).is_file()), None)
    head = path.read_text("utf-8", "replace")[:400] if path else ""
    known = {"MIT License": "mit", "Apache License": "apache-2.0"}
    return next((name for start, name in known.items() if head.lstrip("# \n").startswith(start)), None)


def to_json(value: Any) -> str:
    """A setting as a card shows it."""
    if isinstance(value, list):
        return ", ".join(map(to_json, value))
    return value if isinstance(value, str) else json.dumps(value)
