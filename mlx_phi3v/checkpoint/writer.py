"""Write a checkpoint folder tensor by tensor, in constant memory."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import load_model_config
from ..errors import UserError
from ..files import read_json, write_json
from ..trained_task import TASK_FILE
from .fingerprint import SOURCE_FILE
from .headers import TensorInfo, open_checkpoint

SHARD_BYTES = 4_000_000_000
_HEADER_BYTES = 256  # room in a header for one tensor; the longest published name leaves 80 of them
_COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json",
           "generation_config.json", "LICENSE", TASK_FILE)  # fmt: skip
_SAFETENSORS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "uint32": "U32"}


class ShardWriter:
    """Safetensors shards written tensor by tensor, behind room for the header, which is written last.

    tensors: most that will be added. The format allows blanks behind a header.
    form: the framework that the headers name. limit: bytes of tensors in a shard; None: SHARD_BYTES.
    """

    def __init__(self, folder: Path, tensors: int, *, form: str = "mlx", limit: int | None = None) -> None:
        self.folder = folder
        self.form = form
        self.limit = limit or SHARD_BYTES
        self.stored: dict[str, int] = {}  # bytes by dtype
        self.room = _HEADER_BYTES * (tensors + 1)
        self.shards: list[tuple[Path, dict[str, Any], int]] = []
        self.total = 0

    def add(self, name: str, dtype: str, shape: Sequence[int], data: memoryview) -> None:
        """Append one tensor; its bytes go to disk at once."""
        if not self.shards or self.shards[-1][2] + data.nbytes > self.limit:
            self.shards.append((self.folder / f"data-{len(self.shards)}.tmp", {"__metadata__": {"format": self.form}}, 0))
        path, header, size = self.shards[-1]
        self._write(path, size, data)
        header[name] = {"dtype": _SAFETENSORS[dtype], "shape": list(shape), "data_offsets": [size, size + data.nbytes]}
        self.shards[-1] = (path, header, size + data.nbytes)
        self.total += data.nbytes
        self.stored[dtype] = self.stored.get(dtype, 0) + data.nbytes

    @property
    def dtype(self) -> str:
        """The dtype that most of the bytes are stored in ("bfloat16")."""
        return max(self.stored, key=self.stored.__getitem__)

    def _write(self, path: Path, size: int, data: memoryview) -> None:
        """Put the bytes of a tensor behind the first `size` of a shard."""
        with open(path, "r+b" if size else "wb") as file:
            file.seek(8 + self.room + size)
            file.write(data)

    def close(self) -> list[str]:
        """Write the headers of `model*.safetensors` and the index; the file names."""
        weight_map: dict[str, str] = {}
        names: list[str] = []
        for i, (path, header, _) in enumerate(self.shards, start=1):
            single = len(self.shards) == 1
            name = "model.safetensors" if single else f"model-{i:05d}-of-{len(self.shards):05d}.safetensors"
            encoded = json.dumps(header, separators=(",", ":")).encode()
            assert len(encoded) <= self.room, f"a header of {len(encoded)} bytes needs more than _HEADER_BYTES a tensor"
            with open(path, "r+b") as file:
                file.write(struct.pack("<Q", self.room) + encoded.ljust(self.room))
            path.rename(self.folder / name)
            names.append(name)
            weight_map |= {tensor: name for tensor in header if tensor != "__metadata__"}
        write_json(
            self.folder / "model.safetensors.index.json",
            {"metadata": {"total_size": self.total}, "weight_map": dict(sorted(weight_map.items()))},
        )
        return names


@dataclass(frozen=True)
class MadeFolder:
    """A whole checkpoint of ours that is there already: what it was made of, and its tensors."""

    origin: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @property
    def files(self) -> list[str]:
        """The names of its weight files."""
        return sorted({info.file.name for info in self.tensors.values()})

    @property
    def bytes(self) -> int:
        """The size of its tensors."""
        return sum(info.size for info in self.tensors.values())


def made_before(folder: Path) -> MadeFolder | None:
    """The converted or fused model in `folder`; None where there is none, or not a whole one.

    So a command knows what it made itself, of the same weights with the same settings, before it was killed.
    """
    try:
        origin = read_json(folder / SOURCE_FILE, "conversion record")
        tensors = open_checkpoint(folder, load_model_config(folder))
    except UserError:
        return None
    return MadeFolder(origin, tensors) if isinstance(origin, dict) else None


def copy_processor(source: Path, folder: Path) -> None:
    """Copy tokenizer and image processor settings beside the weights."""
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
