"""`export.json` of an exported catalogue: what it takes to make the same catalogue of the Parquet files again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import msgspec

from mlx_phi3v.documents import read_as
from mlx_phi3v.hub.contents import EXPORT_FILE

FORMAT = 1
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")


class SplitFiles(msgspec.Struct, frozen=True):
    """One split: its rows, and its Parquet files in the order of the rows."""

    rows: Annotated[int, msgspec.Meta(ge=0)]
    files: list[str]


class ExportRecord(msgspec.Struct, frozen=True):
    """`export.json`. fingerprint: the catalogue's. rows_fingerprint: that of its rows as they were read, by which what is made
    of them again is checked; the other one where numbers were written into the catalogue in another form, 470 for 470.0.
    """

    format: Annotated[int, msgspec.Meta(ge=1, le=FORMAT)]
    name: str
    task: dict[str, Any]
    fingerprint: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    rows_fingerprint: str
    splits: dict[str, SplitFiles]
    version: str = ""
    license: str | None = None
    shard_bytes: int = 0


def photo_suffix(name: object) -> str:
    """The end of a photo's name, as it is stored; nothing where it is none that a picture has."""
    suffix = Path(str(name or "")).suffix.lower()
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def read_record(folder: Path) -> ExportRecord | None:
    """The record of a folder; None where there is none. Raises UserError where the file is not of this form."""
    path = folder / EXPORT_FILE
    return read_as(path, "record of an export", ExportRecord) if path.is_file() else None
