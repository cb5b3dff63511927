"""Training checkpoints: all that a run needs to continue bit for bit, in folders that appear whole or not at all.

OUTPUT/step-000100/   adapter_config.json, adapter_model.safetensors (PEFT), optimizer.safetensors, state.json,
                      task.json (what the adapter was trained to answer; see `trained_task`)
OUTPUT/last, best     links to the newest and the best of them
OUTPUT/log.jsonl      one line per report
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..adapters import WEIGHTS_FILE, AdapterArgs, save_adapter
from ..errors import UserError
from ..files import atomic_folder, read_json, write_json, write_tensors, write_text
from ..trained_task import TrainedTask


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


class Checkpoints:
    """The checkpoints of one output folder."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def folder(self, step: int) -> Path:
        """The folder of the checkpoint after `step` updates."""
        return self.output / f"step-{step:06d}"

    def exists(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return (self.output / "last" / "state.json").is_file()

    def save(
        self, state: TrainState, adapter: AdapterArgs, tensors: dict[str, np.ndarray], optimizer: dict[str, np.ndarray],
        task: TrainedTask | None = None,
    ) -> Path:  # fmt: skip
        """Write a checkpoint, point `last` (and `best`) at it, and drop those that neither names."""
        folder = self.folder(state.step)
        with atomic_folder(folder, overwrite=True) as temporary:
            save_adapter(temporary, adapter, tensors, state.base_fingerprint)
            write_tensors(temporary / "optimizer.safetensors", optimizer)
            write_json(temporary / "state.json", state.__dict__)
            if task is not None:
                task.save(temporary)
        # `last` last: a run killed between the two goes on from the older checkpoint and links `best` again.
        if state.best_step in (None, state.step):
            self._link("best", folder)
        self._link("last", folder)
        named = {(self.output / name).resolve() for name in ("last", "best")}
        for old in self.output.glob("step-*"):
            if old.resolve() not in named:
                shutil.rmtree(old, ignore_errors=True)
        return folder

    def _link(self, name: str, folder: Path) -> None:
        temporary = self.output / f".{name}.{uuid.uuid4().hex[:8]}.tmp"
        temporary.symlink_to(folder.name, target_is_directory=True)
        os.replace(temporary, self.output / name)

    def load(self) -> tuple[TrainState, dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The last checkpoint: state, adapter and optimiser tensors. Raises UserError if it is corrupt."""
        folder = self.output / "last"
        values = read_json(folder / "state.json", "training state")
        try:
            state = TrainState(**values)
            return state, load_file(folder / WEIGHTS_FILE), load_file(folder / "optimizer.safetensors")
        except (SafetensorError, FileNotFoundError, TypeError) as error:
            raise self._corrupt(str(error)) from None

    def require_whole(
        self, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray], optimizer: Mapping[str, np.ndarray]
    ) -> None:
        """Raises UserError where what `load` gave lacks a tensor of an adapter of these shapes, or one of its moments."""
        for key, shape in shapes.items():
            for name, found in ((key, tensors), (key + ".exp_avg", optimizer), (key + ".exp_avg_sq", optimizer)):
                if name not in found or found[name].shape != shape:
                    has = f"is {list(found[name].shape)}, not {list(shape)}" if name in found else "is missing"
                    raise self._corrupt(f"tensor {name} {has}")

    def _corrupt(self, why: str) -> UserError:
        return UserError(f"checkpoint {(self.output / 'last').resolve()} is corrupt ({why}); remove it and train again")

    def sweep(self) -> None:
        """Remove what a killed run left half-written."""
        for leftover in (*self.output.glob(".*.tmp"), *self.output.glob(".*.old")):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def cut_log(self, step: int) -> None:
        """Keep the log up to `step`, so that a resumed run's log reads as if it had not stopped."""
        path = self.output / "log.jsonl"
        if not path.is_file():
            return
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    lines.append(line)
            except (json.JSONDecodeError, KeyError):
                break  # the half-written last line of a killed run
        write_text(path, "".join(line + "\n" for line in lines))

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to the log."""
        with open(self.output / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
