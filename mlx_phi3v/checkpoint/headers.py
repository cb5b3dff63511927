"""Safetensors headers of a checkpoint: where each tensor is, and whether all fit the configuration.

Only headers are read here; the backends read the data.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ..config import ModelArgs
from ..documents import check_shape, parse_json, plain, shown
from ..errors import UserError
from ..progress import note
from ..text import listed
from .layout import EMBEDDING, EMBEDDING_COPY, is_packed, is_unused, stored_tensors
from .weight_files import INDEX, weight_files

MOST_HEADER_BYTES = 16 << 20  # of 592 tensors it has 80 KB
FLOATS = ("F32", "F16", "BF16")
_ITEM_SIZE = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1},
    **{"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1},
}
_Whole = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]


class _Entry(msgspec.Struct):
    """One tensor in a header."""

    dtype: str
    shape: Annotated[list[_Whole], msgspec.Meta(max_length=8)]
    data_offsets: tuple[_Whole, _Whole]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's place: file, dtype as safetensors names it ("BF16"), shape, first byte and size in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Tensors of one safetensors file, by its header.

    Raises UserError if the file is truncated or no safetensors, if tensors overlap or leave holes, or are of an unknown dtype.
    """
    header, start, size = _read_header_json(path)
    tensors: dict[str, TensorInfo] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        found = check_shape(entry, _Entry, f"{path} is corrupt: tensor {shown(name)}")
        if found.dtype not in _ITEM_SIZE:
            raise UserError(f"{path}: tensor {shown(name)} is of the unknown dtype {shown(found.dtype)}; use float weights")
        begin, end = found.data_offsets
        info = TensorInfo(path, found.dtype, tuple(found.shape), start + begin, end - begin)
        if info.size != math.prod(info.shape) * _ITEM_SIZE[info.dtype]:
            raise UserError(
                f"{path}: tensor {shown(name)} has {info.size} bytes, which do not fit its shape; download it again"
            )
        tensors[name] = info
    _check_places(path, tensors, start, size)
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The `__metadata__` of a safetensors file: text by name. Raises UserError, see `read_header`."""
    found: dict[str, str] = _read_header_json(path)[0]["__metadata__"]
    return found


def _read_header_json(path: Path) -> tuple[dict[str, Any], int, int]:
    """(The header as JSON, the first byte behind it, the size of the file)."""
    corrupt = UserError(f"{path} is corrupt or not a safetensors file; download or convert it again")
    try:
        if not path.is_file():
            raise UserError(
                f"{path} is {'not a file' if path.exists() else 'missing'}; download or convert the checkpoint again"
            )
        size = path.stat().st_size
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise UserError(f"{path} is truncated (header of {length} bytes, file of {size}); download or convert it again")
            if length > MOST_HEADER_BYTES:
                raise UserError(f"{path} has a header of {length} bytes; it must have at most {MOST_HEADER_BYTES}")
            header = parse_json(file.read(length), f"{path}: the header")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (struct.error, ValueError):
        raise corrupt from None
    if not isinstance(header, dict):
        raise corrupt
    # Checked here, for read_header too: MLX reads it with the tensors, and takes text only.
    given = header.get("__metadata__")
    metadata = {"__metadata__": {} if given is None else given}  # null where MLX had none to write
    header |= check_shape(metadata, dict[str, dict[str, str]], path)
    return header, 8 + length, size


def _check_places(path: Path, tensors: dict[str, TensorInfo], start: int, size: int) -> None:
    """Raise UserError unless the tensors lie one behind the other, from the header to the end of the file."""
    end, before = start, "the header"
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size)):
        if info.start != end:
            what = f"overlaps {before}" if info.start < end else f"does not begin where {before} ends"
            raise UserError(f"{path} is corrupt: tensor {shown(name)} {what}; download or convert it again")
        end, before = info.start + info.size, f"tensor {shown(name)}"
    if end > size:
        raise UserError(f"{path} is truncated ({size} bytes of {end}); download or convert it again")
    if end < size:
        raise UserError(f"{path} is corrupt: {size - end} bytes follow its last tensor; download or convert it again")


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """All tensors of a checkpoint folder, through its index where it has one.

    Raises UserError for a missing shard, for a tensor in two shards, and where it is unclear which files are the checkpoint.
    """
    files, weight_map = weight_files(folder)
    tensors: dict[str, TensorInfo] = {}
    for path in files:
        for name, info in read_header(path).items():
            if name in tensors:
                raise UserError(
                    f"{folder}: {shown(name)} is in {tensors[name].file.name} and in {path.name}; keep the file that is right"
                )
            tensors[name] = info
    absent = sorted(name for name, path in weight_map.items() if name not in tensors or tensors[name].file != path)
    if absent:
        raise UserError(f"{folder}: {listed(map(plain, absent), 5)} are in {INDEX} but not in their shard; download it again")
    return tensors


def check_tensors(tensors: dict[str, TensorInfo], config: ModelArgs, folder: Path) -> None:
    """Raise one UserError that names every missing, extra or misshapen tensor, and each that does not hold floats."""
    expected = stored_tensors(config)
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"extra {plain(name)}" for name in tensors if name not in expected and not is_unused(name, config)]
    problems += [
        f"{name} is {list(tensors[name].shape)}, config.json asks for {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        raise UserError(
            f"{folder}: {len(problems)} tensor(s) do not fit config.json: {listed(problems, 8)}; "
            "is it the right config, or an incomplete download?"
        )
    for name in expected:
        info = tensors[name]
        if is_packed(name, config) and info.dtype != "U32":
            raise UserError(f"{info.file}: {name} is of dtype {info.dtype}; packed weights must be U32, convert them again")
        if not is_packed(name, config) and info.dtype not in FLOATS:
            raise UserError(
                f"{info.file}: {name} is of dtype {info.dtype}; it must be one of {', '.join(FLOATS)}: use the float weights"
            )


def open_checkpoint(folder: Path, config: ModelArgs) -> dict[str, TensorInfo]:
    """Tensors of a checkpoint, checked whole; without the second copy of the embeddings that fine-tuned ones hold."""
    tensors = read_tensors(folder)
    copy = tensors.pop(EMBEDDING_COPY, None)
    check_tensors(tensors, config, folder)
    if copy is not None:
        if not _same_bytes(copy, tensors[EMBEDDING]):
            raise UserError(
                f"{copy.file}: {EMBEDDING_COPY} is no copy of {EMBEDDING}, which it must be; remove the one that is old"
            )
        note(f"{copy.file}: {EMBEDDING_COPY} is a copy of {EMBEDDING} and is left out")
    return tensors


def _same_bytes(one: TensorInfo, other: TensorInfo) -> bool:
    """Whether two tensors are alike, byte by byte."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with open(one.file, "rb") as first, open(other.file, "rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        steps = range(0, one.size, 1 << 20)
        return all(first.read(min(one.size - i, 1 << 20)) == second.read(min(one.size - i, 1 << 20)) for i in steps)
