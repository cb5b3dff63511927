"""What a worker needs to check rows, and the columns of a checked piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mlx_phi3v.catalogue import SIZES, SIZES_TYPE

from .mapping import FieldMapping
from .picture_store import Store
from .pictures import PictureLimits

# Columns of a staged piece that the catalogue does not have.
ROW, SPLIT, CODE, PRINTS, CHANGED, LEFT_OUT = "_row", "_split", "_code", "_prints", "_changed", "_left_out"


@dataclass(frozen=True)
class Stage:
    """All that a worker needs to check rows. `extras` are the carried columns: name in the catalogue -> source column."""

    work: Path
    mapping: FieldMapping
    extras: Mapping[str, str]
    schema: pa.Schema
    limits: PictureLimits
    pictures_per_row: int
    question: str | None  # chat rows must ask this; None: any
    store: Store
    near_duplicates: bool = True

    def piece_path(self, number: int) -> Path:
        """The file of a finished piece."""
        return self.work / "pieces" / f"{number:06d}.arrow"

    def rejected_path(self, number: int) -> Path:
        """The rejected rows of a piece."""
        return self.work / "pieces" / f"{number:06d}.rejected.jsonl"


def stage_schema(mapping: FieldMapping, extras: Mapping[str, pa.DataType]) -> pa.Schema:
    """Columns of a staged piece: those of the catalogue and what splitting needs."""
    columns: list[tuple[str, pa.DataType]] = [("id", pa.string()), ("images", pa.list_(pa.string()))]
    columns += [(item.name, pa.float64() if item.kind == "number" else pa.string()) for item in mapping.fields]
    columns += [*extras.items(), (SIZES, SIZES_TYPE)]
    columns += [(ROW, pa.int64()), (SPLIT, pa.string()), (CODE, pa.string())]
    columns += [(PRINTS, pa.list_(pa.binary())), (CHANGED, pa.int32()), (LEFT_OUT, pa.int32())]
    return pa.schema(columns)
