"""Which loggers there are, and opening the chosen ones: a library is imported only where it is asked for."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from .logger import Logger, RunInfo

LOGGERS = ("wandb", "tensorboard", "trackio")
NONE = "none"
PROJECT = "mlx-phi3v"


def chosen(report_to: Iterable[str], said: str = "--report-to") -> tuple[str, ...]:
    """`("wandb,tensorboard",)` or `("wandb", "tensorboard")` -> the loggers' names, each once.

    Raises UserError for another name, and for `none` beside one.
    """
    names = [name.strip().lower() for item in report_to for name in item.split(",")]
    for name in names:
        if name not in (*LOGGERS, NONE):
            raise UserError(f"{said} is {name!r}; choose {', '.join(LOGGERS)}, several with commas, or {NONE}")
    if NONE in names and len(set(names)) > 1:
        raise UserError(f"{said} has {NONE} beside {next(name for name in names if name != NONE)}; leave one out")
    return tuple(dict.fromkeys(name for name in names if name != NONE))


def require_usable(names: Iterable[str]) -> None:
    """Raise UserError where a logger's package is not installed, or W&B has nowhere to report to."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--report-to {name} needs the package {name}; pip install 'mlx-phi3v[{name}]'")
        if name == "wandb":
            from .wandb_logger import require_login

            require_login()


def open_logger(name: str, run: RunInfo) -> Logger:
    """Open the run in this library. Raises whatever the library raises."""
    if name == "wandb":
        from .wandb_logger import WandbLogger

        return WandbLogger(run)
    if name == "tensorboard":
        from .tensorboard_logger import TensorBoardLogger

        return TensorBoardLogger(run)
    from .trackio_logger import TrackioLogger

    return TrackioLogger(run)


def project_of(name: str, asked: str | None) -> str:
    """The project's name: as asked for, else as the library's own variable says, as in other tools."""
    return asked or os.environ.get(f"{name.upper()}_PROJECT") or PROJECT
