"""The identity of weights: what an adapter or a cached feature belongs to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec

from ..documents import read_as
from .headers import read_tensors
from .layout import EMBEDDING_COPY

SOURCE_FILE = "conversion.json"  # in a converted folder: what it was converted from


class ConversionShape(msgspec.Struct):
    """`conversion.json`: the one entry of it that is read."""

    source_fingerprint: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


def base_fingerprint(folder: Path) -> str:
    """Identity of the weights an adapter belongs to, the same before and after conversion and quantisation.

    For a converted folder the one in its conversion.json; else SHA-256 over names, shapes and the first 4 KiB of each
    tensor: enough to tell checkpoints apart without reading gigabytes. Raises UserError if the record has none.
    """
    source = folder / SOURCE_FILE
    if source.exists():
        return read_as(source, "conversion record", ConversionShape).source_fingerprint
    return stored_fingerprint(folder)


def stored_fingerprint(folder: Path) -> str:
    """SHA-256 over names, shapes, dtypes and the first 4 KiB of each tensor, of the weights as this folder stores them."""
    digest = hashlib.sha256()
    tensors = read_tensors(folder)
    tensors.pop(EMBEDDING_COPY, None)  # adds nothing to the checkpoint
    for name in sorted(tensors):
        info = tensors[name]
        digest.update(f"{name}{info.shape}{info.dtype}".encode())
        with open(info.file, "rb") as file:
            file.seek(info.start)
            digest.update(file.read(min(info.size, 4096)))
    return digest.hexdigest()


def tensors_digest(folder: Path, prefix: str) -> str:
    """SHA-256 over names, shapes, dtypes and every byte of the tensors whose names begin with `prefix`."""
    digest = hashlib.sha256()
    for name, info in sorted(read_tensors(folder).items()):
        if not name.startswith(prefix):
            continue
        digest.update(f"{name}{info.shape}{info.dtype}".encode())
        with open(info.file, "rb") as file:
            file.seek(info.start)
            for start in range(0, info.size, 1 << 20):
                digest.update(file.read(min(info.size - start, 1 << 20)))
    return digest.hexdigest()
