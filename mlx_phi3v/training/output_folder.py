"""The output folder of a training: whose it is, and that one process at a time writes there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..adapter_files import SETTINGS_FILE
from ..documents import plain, read_json
from ..errors import UserError
from ..files import content_of, folder_in_place, write_json
from .checkpoints import Checkpoints
from .run_log import LOG_FILE, RunLog
from .train_state import MARKER, SettingsFile

_HOLDS = {
    "predictions.jsonl": "a prediction run", "manifest.json": "a prediction run", "catalogue.json": "a catalogue",
    "adapter_config.json": "an adapter", "config.json": "a model",
}  # fmt: skip
# The number of this process where several train together, as the launchers set it.
_RANKS = {"torch": ("RANK",), "mlx": ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK")}


@contextlib.contextmanager
def held(output: Path, backend: str) -> Iterator[None]:
    """Hold `output` for a training until the block ends; of several ranks only the first does, and the others read.

    A block that fails before its first step leaves nothing that was not there. Raises UserError where another process
    holds it, and where it holds what no training wrote.
    """
    require_ours(output)
    if not is_first(backend):
        yield
        return
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        with folder_in_place(output), _without_settings_of_no_step(output):
            require_ours(output)  # another process may have written meanwhile
            yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()
        raise


@contextlib.contextmanager
def _without_settings_of_no_step(output: Path) -> Iterator[None]:
    """Remove the settings that a block wrote which then failed before its first step."""
    new = not os.path.lexists(output / SETTINGS_FILE)
    try:
        yield
    except BaseException:
        if new and not os.path.lexists(output / LOG_FILE) and not Checkpoints(output).steps():
            (output / SETTINGS_FILE).unlink(missing_ok=True)
        raise


def is_first(backend: str) -> bool:
    """Whether this is the only process of the training, or the one of several that writes."""
    if backend == "torch" and "WORLD_SIZE" not in os.environ:
        return True
    return all(os.environ.get(name, "0") in ("0", "") for name in _RANKS.get(backend, ()))


def require_ours(output: Path) -> None:
    """Raise UserError unless a training may write into `output`: it is missing or empty, or a training wrote it."""
    if not output.is_dir():
        return
    names = content_of(output)
    if not names:
        return
    settings = output / SETTINGS_FILE
    if os.path.lexists(settings):
        _require_settings(settings)
    elif not Checkpoints(output).steps():
        known = next((kind for name, kind in _HOLDS.items() if name in names), "")
        what = known or f"files that no training wrote ({plain(names[0])})"
        raise UserError(f"{output} holds {what}; give --output a new or an empty folder")
    RunLog(output).lines()


def _require_settings(path: Path) -> None:
    """Raise UserError where a training did not write this settings.json; those before the marker are known by their keys."""
    foreign = UserError(f"{path} was not written by a training; give --output another folder, or move the file elsewhere")
    if path.is_symlink() or not path.is_file():
        raise foreign
    found = read_json(path, "settings of a training")
    if isinstance(found, dict) and found.get("written_by") == MARKER:
        return
    try:
        msgspec.convert(found, SettingsFile)
    except msgspec.ValidationError:
        raise foreign from None


def write_settings(output: Path, settings: dict[str, object]) -> None:
    """Write `settings.json`, with the marker by which the folder is known."""
    write_json(output / SETTINGS_FILE, {"written_by": MARKER} | settings)
