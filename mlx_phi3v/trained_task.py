"""What an adapter was trained to answer: `task.json` in the folder of an adapter or of a fused model.

An adapter works only with the question it was trained on, so the two are stored together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import read_json, write_json
from .task import Task

TASK_FILE = "task.json"


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
        if not path.is_file():
            return None
        raw = read_json(path, "task of the adapter")
        try:
            task, num_crops, dtype = raw["task"], raw["num_crops"], raw["dtype"]
        except (KeyError, TypeError):
            raise UserError(f"{path} must hold task, num_crops and dtype; copy it again, or remove it") from None
        if type(num_crops) is not int or num_crops < 1 or not isinstance(dtype, str) or not isinstance(task, dict):
            raise UserError(f"{path}: num_crops must be a whole number of 1 or more, dtype a name, task an object")
        return cls(Task.from_dict(task), num_crops, dtype)
