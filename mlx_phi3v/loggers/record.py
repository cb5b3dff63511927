"""`report.json` of an output folder: under which id and name its run is reported, so that a resumed one is the same run."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated

import msgspec

from ..documents import read_as
from ..files import write_json
from ..ranges import MAX_STEPS

RECORD_FILE = "report.json"
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Step = Annotated[int, msgspec.Meta(ge=0, le=MAX_STEPS)]


class Reported(msgspec.Struct):
    """What one logger has of the run. step: the last whose figures it was given; answers: the last whose answers it was."""

    project: _Text
    name: _Text
    step: _Step = 0
    answers: _Step = 0


class Record(msgspec.Struct):
    """`report.json`."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-z]{4,64}$")]
    loggers: dict[str, Reported]

    def save(self, folder: Path) -> None:
        """Write it into `folder`."""
        write_json(folder / RECORD_FILE, msgspec.to_builtins(self))


def read_record(folder: Path) -> Record | None:
    """The record of a training's output; None where it was never reported. Raises UserError where it is not of this form."""
    path = folder / RECORD_FILE
    return read_as(path, "record of the reports", Record) if path.exists() else None


def new_record() -> Record:
    """A record of a run that has no id yet."""
    return Record(uuid.uuid4().hex[:12], {})
