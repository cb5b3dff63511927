"""What an adapter was trained to answer: `task.json` in the folder of an adapter or of a fused model.

An adapter works only with the question it was trained on, so the two are stored together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from .config_shapes import Crops
from .documents import read_as
from .errors import UserError
from .files import write_json
from .task import Task

TASK_FILE = "task.json"


class FieldShape(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One field of a task."""

    name: str
    kind: str
    currency: str | None = None


class TaskShape(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A task as `Task.to_dict` gives it."""

    prompt: str | msgspec.UnsetType = msgspec.UNSET
    template: str | None = None
    fields: list[FieldShape] | msgspec.UnsetType = msgspec.UNSET


class TrainedShape(msgspec.Struct):
    """`task.json`."""

    task: TaskShape
    num_crops: Crops
    dtype: Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class TrainedTask:
    """The task an adapter was trained on, the most crops a photo was cut into, and the dtype of the computation."""

    task: Task
    num_crops: int
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"task": self.task.to_dict(), "num_crops": self.num_crops, "dtype": self.dtype}

    def save(self, folder: Path) -> None:
        """Write `task.json` into `folder`."""
        write_json(folder / TASK_FILE, self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> TrainedTask | None:
        """Read `task.json` of `folder`; None where there is none, as beside another tool's adapter.

        Raises UserError where the file is not of this form.
        """
        path = folder / TASK_FILE
        if not path.exists():
            return None
        raw = read_as(path, "task of the adapter", TrainedShape)
        try:
            task = Task.from_dict(msgspec.to_builtins(raw.task))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        return cls(task, raw.num_crops, raw.dtype)
