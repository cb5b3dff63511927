"""`log.jsonl` of a training: one line per report, cut back where a run resumes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ..documents import check_shape, parse_json
from ..errors import UserError
from ..files import write_text

LOG_FILE = "log.jsonl"


class _Line(msgspec.Struct):
    """What every line holds; the other figures are not read."""

    step: Annotated[int, msgspec.Meta(ge=1)]
    loss: float


class RunLog:
    """The log of one output folder."""

    def __init__(self, output: Path) -> None:
        self.path = output / LOG_FILE

    def lines(self) -> list[tuple[int, str]]:
        """(Step, text) of every whole line. What a killed process left of a last one is not counted.

        Raises UserError that names the line where it is none of a training's log.
        """
        if not os.path.lexists(self.path):
            return []
        if self.path.is_symlink() or not self.path.is_file():
            raise UserError(f"{self.path} is no file of a training; move it elsewhere")
        *whole, _ = self.path.read_bytes().split(b"\n")
        found = []
        for number, line in enumerate(whole, start=1):
            where = f"{self.path} line {number}"
            try:
                step = check_shape(parse_json(line, where), _Line, where).step
            except (ValueError, UserError) as error:
                raise UserError(
                    f"{where} is not of a training's log ({str(error).removeprefix(f'{where}: ')}); remove the line, or move "
                    "the file elsewhere: the training goes on without it"
                ) from None
            found.append((step, line.decode()))
        return found

    def cut(self, step: int) -> None:
        """Keep what is of steps up to `step`, so that a resumed run's log reads as if it had not stopped."""
        if self.path.exists():
            write_text(self.path, "".join(text + "\n" for of, text in self.lines() if of <= step))

    def append(self, record: dict[str, Any]) -> None:
        """Append one line. Raises OSError, with the path, where it cannot be written."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None
