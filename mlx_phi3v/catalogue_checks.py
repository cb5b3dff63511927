"""What a catalogue must be like before any of it is used: its `catalogue.json` and its shards may come from anyone.

Nothing is believed that was not checked: names stay inside the folder, and a shard's offsets are followed only once they
are known to be sound (a flipped bit in them ends the process in native code, without a word).
"""

from __future__ import annotations

import json
import os
import re
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .errors import UserError
from .ranges import MAX_PIXELS
from .task import Task
from .turns import TURNS

# The column of a row's `turns.Turn`s. Here, as asking a model about one photo needs no Arrow.
TURNS_TYPE = pa.list_(
    pa.struct([pa.field("question", pa.string()), pa.field("images", pa.int32()), pa.field("answer", pa.string())])
)
# A path out of its folder, or none at all: absolute, with a drive, a backslash, a NUL, an empty name or a "..".
_OUTSIDE = r"^$|^/|^[A-Za-z]:|\\|\x00|(?:^|/)\.\.(?:/|$)"
_MEND = "make the catalogue again"


def check_info(info: Any, path: Path) -> dict[str, Any]:
    """`catalogue.json` itself. Raises UserError, naming the file, where a part of it is not of the form it is written in."""
    fault = _fault(info)
    if fault:
        raise UserError(f"catalogue {path} {fault}; {_MEND}")
    checked: dict[str, Any] = info
    return checked


def is_format(value: Any, known: Sequence[int]) -> bool:
    """Whether this is the number of a format that is read; true and 1.0 are none."""
    return type(value) is int and value in known


def _fault(info: Any) -> str | None:
    if not isinstance(info, dict):
        return f"holds a {type(info).__name__}, not an object"
    try:
        json.dumps(info, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return "holds text that is not Unicode, or is nested too deeply"
    name = info.get("name", "")
    if (
        not isinstance(name, str)
        or len(name) > 255
        or any(unicodedata.category(character) == "Cc" or character == "/" for character in name)
    ):
        return f"has the name {_short(name)}; a name is one that a folder may have: text without slashes and control characters"
    if not isinstance(info.get("task"), dict):
        return f"has the task {_short(info.get('task'))}, not an object"
    for key in ("source", "settings"):
        if not isinstance(info.get(key, {}), dict):
            return f"has the {key} {_short(info[key])}, not an object"
    if not isinstance(info.get("fingerprint"), str):
        return f"has the fingerprint {_short(info.get('fingerprint'))}, not text"
    return _splits_fault(info.get("splits")) or _report_fault(info)


def _splits_fault(splits: Any) -> str | None:
    if not isinstance(splits, dict) or not splits:
        return f"has the splits {_short(splits)}, not numbers of rows by name"
    for name, entry in splits.items():
        if not isinstance(entry, dict) or not _is_count(entry.get("rows")):
            return f"has no number of rows for split {name!r}"
        shards = entry.get("shards")
        if not isinstance(shards, list) or not all(isinstance(shard, str) for shard in shards):
            return f"has the shards {_short(shards)} for split {name!r}, not a list of file names"
        outside = next((shard for shard in shards if re.search(_OUTSIDE, shard)), None)
        if outside is not None:
            return f"names the shard {outside!r}, which is not inside its folder"
    return None


def _report_fault(info: Mapping[str, Any]) -> str | None:
    """Of the figures that data.ingest adds: the ones that are shown."""
    counts, products = info.get("counts", {}), info.get("products", {})
    if not isinstance(counts, dict) or not _are_counts(counts.get("rejected", {})):
        return f"has the counts {_short(counts)}, not numbers by name"
    shown = ("products", "rows_held_together", "largest_product", "leaking_products")
    if not isinstance(products, dict) or (products and not _are_counts({name: products.get(name, 0) for name in shown})):
        return f"has the products {_short(products)}, not numbers by name"
    return None


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_count(item) for item in value.values())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def open_shard(folder: Path, name: str, task: Task | None) -> list[pa.RecordBatch]:
    """The record batches of a shard, memory-mapped; `check_batch` must pass before one's values are read.

    Raises UserError where the file is missing, outside `folder`, no whole Arrow stream, or lacks a column.
    """
    path = folder / name
    try:
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            raise UserError(f"catalogue shard {path} is a link out of its folder; {_MEND}")
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"catalogue shard {path} is not a file; {_MEND}")
        reader = pa.ipc.open_stream(pa.memory_map(str(path)))
        _check_schema(reader.schema, path, task)
        # The batches keep the map alive; nothing is read before a row is asked for.
        return list(reader)
    except FileNotFoundError:
        raise UserError(f"catalogue shard {path} is missing; {_MEND}") from None
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(f"catalogue shard {path} cannot be read ({_first_line(error)}); {_MEND}") from None


def check_kinds(task: Task) -> None:
    """Raises UserError for a field of a kind that no catalogue has: a score is of imported runs."""
    for item in task.fields:
        if item.kind == "score":
            raise UserError(f"field {item.name!r} is of kind 'score'; choose text, category or number")


def _check_schema(schema: pa.Schema, path: Path, task: Task | None) -> None:
    for kind in schema.types:
        _check_names(kind)
    double = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if double is not None:
        raise UserError(f"catalogue shard {path} has {schema.names.count(double)} columns {double!r}; {_MEND}")
    wanted = {"id": pa.string(), "images": pa.list_(pa.string())}
    for item in task.fields if task else ():
        wanted[item.name] = pa.float64() if item.kind == "number" else pa.string()
    if TURNS in schema.names:
        wanted[TURNS] = TURNS_TYPE
    for name, kind in wanted.items():
        if schema.names.count(name) != 1:
            raise UserError(f"catalogue shard {path} has {schema.names.count(name) or 'no'} columns {name!r}; {_MEND}")
        found = schema.field(name).type
        if found != kind and not (pa.types.is_list(kind) and pa.types.is_list(found) and found.value_type == kind.value_type):
            raise UserError(f"catalogue shard {path} has {found} in the column {name!r}, not {kind}; {_MEND}")


def _check_names(kind: pa.DataType) -> None:
    """Raise ValueError where the name of a part of a type is not UTF-8; Arrow checks those of values only."""
    for number in range(kind.num_fields):
        part = kind.field(number)
        part.name.encode()
        _check_names(part.type)


def python_values(batch: pa.RecordBatch, path: Path) -> list[dict[str, Any]]:
    """Rows as dicts. Raises UserError for what Python cannot hold (a date in the year 99999), as an extra column may."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise UserError(f"catalogue shard {path} holds a value that cannot be read ({_first_line(error)}); {_MEND}") from None


def check_batch(batch: pa.RecordBatch, path: Path, numbers: Sequence[str], sizes: str | None) -> None:
    """Check what the values of a batch rest on, and those that are used without a look.

    Offsets, lengths and UTF-8 are sound, each photo has a path inside the folder and, with `sizes` (a column), a size;
    the columns `numbers` are finite. Raises UserError that names the shard and the row.
    """
    try:
        batch.validate(full=True)
    except (pa.ArrowException, ValueError, MemoryError) as error:
        raise UserError(f"catalogue shard {path} is corrupt ({_first_line(error)}); {_MEND}") from None
    import pyarrow.compute as compute  # slow to import, and a model's commands need no catalogue

    if batch.column("id").null_count:
        raise UserError(f"catalogue shard {path} has a row without an id; {_MEND}")
    images = batch.column("images")
    paths = images.flatten()
    wrong = compute.fill_null(compute.match_substring_regex(paths, _OUTSIDE), True)
    if compute.any(wrong).as_py():
        place = compute.index(wrong, True).as_py()
        row = batch.column("id")[_row_of(images, place)].as_py()
        raise UserError(
            f"row {row!r} of catalogue shard {path} names the photo {paths[place].as_py()!r}, "
            f"which is no path inside the catalogue; {_MEND}"
        )
    for name in numbers:
        column = batch.column(name)
        infinite = compute.fill_null(compute.is_inf(column), False)
        if compute.any(infinite).as_py():
            place = compute.index(infinite, True).as_py()
            row = batch.column("id")[place].as_py()
            raise UserError(f"row {row!r} of catalogue shard {path} has the {name} {column[place].as_py()}; {_MEND}")
    if sizes:
        _check_sizes(batch.column(sizes), images, path)


def _row_of(images: pa.ListArray, place: int) -> int:
    """The row of the photo `place` of all photos of a batch."""
    ends = np.cumsum(_lengths(images))
    return int(np.searchsorted(ends, place, side="right"))


def _lengths(lists: pa.ListArray) -> np.ndarray:
    lengths: np.ndarray = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return lengths


def _check_sizes(stored: pa.ListArray, images: pa.ListArray, path: Path) -> None:
    sides = [side.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64) for side in stored.flatten().flatten()]
    usual = all((side >= 0).all() for side in sides) and (sides[0] * sides[1] <= MAX_PIXELS).all()
    if not usual or not np.array_equal(_lengths(stored), _lengths(images)):
        raise UserError(f"catalogue shard {path} has sizes that are not those of its photos; {_MEND}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
