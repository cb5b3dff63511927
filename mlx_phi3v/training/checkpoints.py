"""Training checkpoints: all that a run needs to continue bit for bit, in folders that appear whole or not at all.

OUTPUT/step-000100/   adapter_config.json, adapter_model.safetensors (PEFT), optimizer.safetensors, state.json,
                      task.json (what the adapter was trained to answer; see `trained_task`)
OUTPUT/last, best     links to the newest and the best of them

A folder counts as ours only by its content: no other is read, written over or removed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..adapter_config import CONFIG_FILE, read_adapter_config
from ..adapters import WEIGHTS_FILE, AdapterArgs, save_adapter
from ..documents import plain
from ..errors import UserError
from ..files import atomic_folder, atomic_link, remove_folder, write_tensors
from ..trained_task import TASK_FILE, TrainedTask
from .saved_tensors import read_saved
from .train_state import STATE_FILE, TrainState, read_state

OPTIMIZER_FILE = "optimizer.safetensors"
_NEEDED = (CONFIG_FILE, WEIGHTS_FILE, OPTIMIZER_FILE, STATE_FILE)
_STEP = re.compile(r"step-(\d{6,})")


class Checkpoints:
    """The checkpoints of one output folder."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def folder(self, step: int) -> Path:
        """The folder of the checkpoint after `step` updates."""
        return self.output / f"step-{step:06d}"

    def steps(self) -> list[Path]:
        """The checkpoints that are here, the newest last."""
        found = [path for path in self.output.glob("step-*") if _STEP.fullmatch(path.name) and holds_checkpoint(path)]
        return sorted(found, key=lambda path: int(path.name[5:]))

    def newest(self) -> Path | None:
        """The checkpoint to resume from: the one that `last` names; None where there is none.

        A run killed before its first `last` has a checkpoint without one. Raises UserError where `last` names none.
        """
        if os.path.lexists(self.output / "last"):
            return self._named("last")
        return next(reversed(self.steps()), None)

    def _named(self, name: str) -> Path:
        """The checkpoint that `last` or `best` names: a link to a step, or the copy that some tools make of a link."""
        path = self.output / name
        if path.is_symlink():
            target = Path(os.path.realpath(path))
            if target.parent != Path(os.path.realpath(self.output)) or not _STEP.fullmatch(target.name):
                raise self._misled(name, f"links to {plain(os.readlink(path))}, which is no checkpoint of this training")
            if not target.is_dir():
                raise self._misled(name, f"links to {target.name}, which is not there")
            return self.output / target.name
        if not path.is_dir():
            raise self._misled(name, "is a file, not a link to a checkpoint" if path.exists() else "is missing")
        if not (path / STATE_FILE).exists():
            raise self._misled(name, "is a folder without a checkpoint")
        return path

    def _misled(self, name: str, why: str) -> UserError:
        steps = self.steps()
        fix = f"link it again: ln -sfn {steps[-1].name} {self.output / name}" if steps else "choose another --output"
        return UserError(f"{self.output / name} {why}; {fix}")

    def save(
        self, state: TrainState, adapter: AdapterArgs, tensors: dict[str, np.ndarray], optimizer: dict[str, np.ndarray],
        task: TrainedTask | None = None,
    ) -> Path:  # fmt: skip
        """Write a checkpoint, point `last` (and `best`) at it, and drop those that neither names.

        Raises OSError, with the file, where it cannot be written; the checkpoints before it stay.
        """
        folder = self.folder(state.step)
        self._require_ours(folder)
        try:
            with atomic_folder(folder, overwrite=True) as temporary:
                save_adapter(temporary, adapter, tensors, state.base_fingerprint)
                write_tensors(temporary / OPTIMIZER_FILE, optimizer)
                state.save(temporary)
                if task is not None:
                    task.save(temporary)
        except OSError as error:
            raise self._by_its_name(error, folder) from None
        # `last` last: a run killed between the two goes on from the older checkpoint and links `best` again.
        self._link_best(state)
        self._link("last", folder)
        self._drop(self.steps())
        return folder

    def settle(self, state: TrainState) -> None:
        """Do what is left of the `save` of this state, where a kill came between its links and its end."""
        folder = self.folder(state.step)
        if not folder.is_dir():  # a run before its first checkpoint, or one whose links were copied as folders
            return
        self._link_best(state)
        if not os.path.lexists(self.output / "last"):
            self._link("last", folder)
        self._drop(step for step in self.steps() if int(step.name[5:]) < state.step)

    def _drop(self, steps: Iterable[Path]) -> None:
        """Remove those that neither link names."""
        named = {os.path.realpath(self.output / name) for name in ("last", "best")}
        for step in steps:
            if os.path.realpath(step) not in named:
                remove_folder(step)

    def _by_its_name(self, error: OSError, folder: Path) -> OSError:
        """The error with the file's name as it would be, not that of the temporary one."""
        parts = Path(os.fsdecode(error.filename)).parts if isinstance(error.filename, (str, bytes)) else ()
        name = next((own for own in (*_NEEDED, TASK_FILE) if any(own in part for part in parts)), "")
        return OSError(error.errno, error.strerror, str(folder / name))

    def _link_best(self, state: TrainState) -> None:
        best = self.folder(state.best_step or state.step)
        if best.is_dir() and os.path.realpath(self.output / "best") != os.path.realpath(best):
            self._link("best", best)

    def _link(self, name: str, folder: Path) -> None:
        path = self.output / name
        if path.is_dir() and not path.is_symlink():  # the copy of an older checkpoint, see `_named`
            remove_folder(path)
        atomic_link(path, folder.name)

    def require_room(self, state: TrainState | None) -> None:
        """Raise UserError where something that is not ours stands where the run after `state` will write, or `best` is lost."""
        for path in self.output.glob("step-*"):
            number = _STEP.fullmatch(path.name)
            if number and int(number[1]) > (state.step if state else 0):
                self._require_ours(path)
        if state is None:
            return
        best = self.output / "best"
        if holds_checkpoint(self.folder(state.best_step or state.step)):
            # It is linked again with the next checkpoint; but nothing that is not ours may give way.
            if not best.is_symlink() and os.path.lexists(best) and not holds_checkpoint(best):
                raise self._misled("best", "is not of this training")
            return
        if not holds_checkpoint(self._named("best")):
            raise self._misled("best", "is no whole checkpoint")

    def _require_ours(self, folder: Path) -> None:
        if os.path.lexists(folder) and not holds_checkpoint(folder):
            raise UserError(f"{folder} is no whole checkpoint of this training, which writes there; move it elsewhere")

    def load(self) -> tuple[TrainState, dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The newest checkpoint: state, adapter and optimiser tensors (fp32).

        Raises UserError if there is none, or if it is corrupt: a file that is missing or leads elsewhere, a state not of
        its shape, tensors that are not fp32 or not finite.
        """
        folder = self.newest()
        if folder is None:
            raise UserError(f"{self.output} holds no checkpoint; leave --resume out")
        for name in _NEEDED:
            if (folder / name).is_symlink() or not (folder / name).is_file():
                raise self._corrupt(f"{name} is missing or no file")
        try:
            state = read_state(folder)
            read_adapter_config(folder)
            tensors, optimizer = read_saved(folder / WEIGHTS_FILE), read_saved(folder / OPTIMIZER_FILE)
        except UserError as error:
            raise self._corrupt(re.sub("; (download|convert|copy) [^;]*$", "", str(error))) from None  # the fix follows
        number = _STEP.fullmatch(folder.name)
        if number and int(number[1]) != state.step:
            raise self._corrupt(f"{STATE_FILE} is of step {state.step}")
        return state, tensors, optimizer

    def require_whole(
        self, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray], optimizer: Mapping[str, np.ndarray]
    ) -> None:
        """Raises UserError unless what `load` gave are the tensors of an adapter of these shapes, and their moments."""
        moments = {f"{key}.{moment}": shape for key, shape in shapes.items() for moment in ("exp_avg", "exp_avg_sq")}
        for expected, found in ((shapes, tensors), (moments, optimizer)):
            for name, shape in expected.items():
                if name not in found or found[name].shape != shape:
                    has = f"is {list(found[name].shape)}, not {list(shape)}" if name in found else "is missing"
                    raise self._corrupt(f"tensor {name} {has}")
            for name in found:
                if name not in expected:
                    raise self._corrupt(f"tensor {plain(name)} is none of this adapter's")
        for name, value in optimizer.items():
            if name.endswith(".exp_avg_sq") and value.size and value.min() < 0:
                raise self._corrupt(f"tensor {name} has negative numbers")

    def _corrupt(self, why: str) -> UserError:
        folder = self.newest()
        older = [step for step in self.steps() if folder and step.resolve() != folder.resolve()]
        fix = f"go on from another: ln -sfn {older[-1].name} {self.output / 'last'}" if older else "train into another --output"
        return UserError(f"checkpoint {folder and folder.resolve()} is corrupt ({why}); copy it again, or {fix}")


def holds_checkpoint(folder: Path) -> bool:
    """Whether this is a checkpoint that a training wrote, and nothing else: its files, and a state that fits its name."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    files = list(folder.iterdir())
    if any(path.name not in (*_NEEDED, TASK_FILE) or path.is_symlink() or not path.is_file() for path in files):
        return False
    try:
        state = read_state(folder)
    except UserError:
        return False
    number = _STEP.fullmatch(folder.name)
    return number is None or int(number[1]) == state.step
