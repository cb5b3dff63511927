"""`state.json` of a training checkpoint: the position of a run, in a declared shape."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ..documents import check_shape, plain, read_json, shown
from ..errors import UserError
from ..files import write_json
from ..ranges import MAX_STEPS, MAX_TRAINING_SEED, check_value
from .train_config import TrainConfig

STATE_FILE = "state.json"
MARKER = "mlx_phi3v.train"  # in what a training writes: {"written_by": MARKER}


@dataclass(frozen=True)
class TrainState:
    """The position of a run. The order of rows and the dropout seeds are pure functions of `seed`, `settings` and `step`.

    settings: those of the last start or resume, but `batch_size` and `grad_accumulation_steps` are those it began
    with, by which its rows are drawn (see `row_order.RowOrder`).
    """

    step: int
    seed: int
    best_loss: float | None
    best_step: int | None
    settings: dict[str, Any]
    data_fingerprint: str
    base_fingerprint: str

    def save(self, folder: Path) -> None:
        """Write `state.json` into `folder`."""
        write_json(folder / STATE_FILE, {"written_by": MARKER} | self.__dict__)


_HINTS = typing.get_type_hints(TrainConfig)
# As JSON holds them.
_STORED: dict[Any, Any] = {Path: str, Path | None: str | None, tuple[float, ...]: list[float], tuple[str, ...]: list[str]}
_Step = Annotated[int, msgspec.Meta(ge=1, le=MAX_STEPS)]
_Fingerprint = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_WrittenBy = Literal["mlx_phi3v.train"] | msgspec.UnsetType

# The settings of a run; one that the version which wrote them did not have is absent.
_Settings: Any = msgspec.defstruct(
    "Settings",
    [(f.name, _STORED.get(_HINTS[f.name], _HINTS[f.name]) | msgspec.UnsetType, msgspec.UNSET) for f in fields(TrainConfig)],
)
_State: Any = msgspec.defstruct(
    "State",
    [
        ("step", Annotated[int, msgspec.Meta(ge=0, le=MAX_STEPS)]),
        ("seed", Annotated[int, msgspec.Meta(ge=0, le=MAX_TRAINING_SEED)]),
        ("best_loss", float | None),
        ("best_step", _Step | None),
        ("settings", _Settings),
        ("data_fingerprint", _Fingerprint),
        ("base_fingerprint", _Fingerprint),
        ("written_by", _WrittenBy, msgspec.UNSET),
    ],
)


def read_state(folder: Path) -> TrainState:
    """The state in `folder`. Raises UserError that names file, key and what must stand there."""
    path = folder / STATE_FILE
    raw = read_json(path, "training state")
    check_shape(raw, _State, path)
    _refuse_unknown(raw, _State.__struct_fields__, path, "")
    _refuse_unknown(raw["settings"], _HINTS, path, "settings.")
    _check_settings(raw["settings"], path)
    state = TrainState(**{name: raw[name] for name in _State.__struct_fields__ if name != "written_by"})
    if (state.best_step is None) != (state.best_loss is None) or (state.best_step or 0) > state.step:
        raise UserError(
            f"{path}: best_step is {shown(state.best_step)} and best_loss is {shown(state.best_loss)}; they must both be null, "
            f"or of one of the {state.step} steps that are done"
        )
    if state.seed != raw["settings"].get("seed", state.seed):
        raise UserError(f"{path}: seed is {state.seed} and settings.seed is {raw['settings']['seed']}; they must be the same")
    return state


def _refuse_unknown(found: Mapping[str, Any], known: typing.Container[str], path: Path, at: str) -> None:
    for key in found:
        if key not in known:
            raise UserError(f"{path}: {at}{plain(key)} is unknown to this version; go on with the version that began the run")


def _check_settings(settings: Mapping[str, Any], path: Path) -> None:
    """Raise UserError for a setting out of its range or choices."""
    for field in fields(TrainConfig):
        value = settings.get(field.name)
        choices = field.metadata.get("choices")
        said = f"{path}: settings.{field.name}"
        if choices and value is not None and value not in choices:
            raise UserError(f"{said} is {shown(value)}; it must be one of {', '.join(choices)}")
        check_value(field, tuple(value) if isinstance(value, list) else value, said)


class SettingsFile(msgspec.Struct):
    """`settings.json` as versions before the marker wrote it: what no other file of that name holds."""

    data: str
    output: str
    model: str
    backend: str
    batch_size: int
    grad_accumulation_steps: int
    learning_rate: float
    lr_schedule: str
    seed: int
    save_every: int
    total_steps: int
    rows: int
