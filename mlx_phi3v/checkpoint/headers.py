"""Safetensors headers of a checkpoint: where each tensor is, and whether all fit the configuration.

Only headers are read here; the backends read the data.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..config import ModelArgs
from ..errors import UserError
from ..files import read_json
from .layout import is_unused, stored_tensors

_ITEM_SIZE = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's place: file, dtype as safetensors names it ("BF16"), shape, first byte and size in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Tensors of one safetensors file, by its header. Raises UserError if it is truncated or not safetensors."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise UserError(f"{path} is truncated (header of {length} bytes, file of {size}); download or convert it again")
            header = json.loads(file.read(length))
    except (struct.error, json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path} is corrupt or not a safetensors file; download or convert it again") from None
    except FileNotFoundError:
        raise UserError(f"{path} is missing; download or convert the checkpoint again") from None
    tensors: dict[str, TensorInfo] = {}
    end = 8 + length
    try:
        entries = [
            (name, entry["dtype"], tuple(map(int, entry["shape"])), *map(int, entry["data_offsets"]))
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} is corrupt or not a safetensors file; download or convert it again") from None
    for name, dtype, shape, begin, stop in entries:
        info = TensorInfo(path, dtype, shape, 8 + length + begin, stop - begin)
        if info.size != math.prod(info.shape) * _ITEM_SIZE.get(info.dtype, 1):
            raise UserError(f"{path}: tensor {name} has {info.size} bytes, which do not fit its shape; download it again")
        tensors[name] = info
        end = max(end, 8 + length + stop)
    if end > size:
        raise UserError(f"{path} is truncated ({size} bytes of {end}); download or convert it again")
    return tensors


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """All tensors of a checkpoint folder, through its index where it has one. Raises UserError for a missing shard."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        shards = sorted(folder.glob("*.safetensors"))
        if not shards:
            raise UserError(f"{folder} is not a checkpoint: it has no .safetensors file")
        return {name: info for shard in shards for name, info in read_header(shard).items()}
    weight_map = read_json(index, "weight index").get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"{index} has no weight_map; download or convert the checkpoint again")
    missing = sorted({file for file in weight_map.values() if not (folder / file).is_file()})
    if missing:
        raise UserError(f"{folder} lacks {_listed(missing)}, named in {index.name}; download the missing shards")
    headers = {file: read_header(folder / file) for file in sorted(set(weight_map.values()))}
    absent = sorted(name for name, file in weight_map.items() if name not in headers[file])
    if absent:
        raise UserError(f"{folder}: {_listed(absent)} are in {index.name} but not in their shard; download it again")
    return {name: headers[file][name] for name, file in weight_map.items()}


def check_tensors(tensors: dict[str, TensorInfo], config: ModelArgs, folder: Path) -> None:
    """Raise one UserError that names every missing, extra or misshapen tensor."""
    expected = stored_tensors(config)
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"extra {name}" for name in tensors if name not in expected and not is_unused(name, config)]
    problems += [
        f"{name} is {list(tensors[name].shape)}, config.json asks for {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        raise UserError(
            f"{folder}: {len(problems)} tensor(s) do not fit config.json: {_listed(problems, len(problems))}; "
            "is it the right config, or an incomplete download?"
        )


def open_checkpoint(folder: Path, config: ModelArgs) -> dict[str, TensorInfo]:
    """Tensors of a checkpoint, checked whole."""
    tensors = read_tensors(folder)
    check_tensors(tensors, config, folder)
    return tensors


def _listed(items: Iterable[str], most: int = 5) -> str:
    items = list(items)
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
