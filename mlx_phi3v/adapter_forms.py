"""An adapter in the form of another tool, its values bit for bit."""

from __future__ import annotations

import filecmp
import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .adapter_config import CONFIG_FILE, config_values
from .adapter_files import MLX_WEIGHTS_FILES, WEIGHTS_FILE, weights_name, weights_path
from .adapter_keys import StoredTensor
from .adapter_mlx import is_mlx_config, mlx_config, mlx_key, peft_record
from .adapters import OpenAdapter, load_adapter, open_adapter
from .checkpoint.fingerprint import base_fingerprint
from .checkpoint.headers import read_metadata
from .checkpoint.hub import resolve_model
from .config import load_model_config
from .files import atomic_folder, content_of, scratch_folder, write_json
from .progress import note
from .settings import ExportConfig
from .trained_task import TrainedTask


def export(config: ExportConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the adapter, over an older one where `overwrite`; a summary, with "already" where the same was there before.

    Raises UserError where it does not fit the model, see `adapters.load_adapter`."""
    source = resolve_model(config.model)
    model, fingerprint, name = load_model_config(source), base_fingerprint(source), weights_name(source)
    opened = open_adapter(config.adapter, model, fingerprint)
    adapter, tensors = load_adapter(opened.folder, model, fingerprint, name)  # its numbers are checked, and ranks made one
    if opened.patterns.rank or opened.patterns.alpha:
        raw, peft = {key: ("F32", value) for key, value in tensors.items()}, config_values(adapter)
    else:
        raw, peft = {key: _stored(item) for key, item in opened.stored.items()}, _peft_values(opened)
    metadata = {"format": "pt", **read_metadata(weights_path(opened.folder))}
    trained = TrainedTask.load(opened.folder)

    def write(folder: Path) -> None:
        if config.form == "mlx":
            _write(folder / MLX_WEIGHTS_FILES[0], dict(_of_mlx(key, *value) for key, value in raw.items()), metadata)
            write_json(folder / CONFIG_FILE, mlx_config(adapter, raw, peft))
        else:
            _write(folder / WEIGHTS_FILE, raw, metadata)
            write_json(folder / CONFIG_FILE, peft)
        if trained:
            trained.save(folder)

    summary = {"path": str(config.output), "form": config.form, "tensors": len(raw)}
    if not overwrite and _is_there(config.output, write):  # this command was killed after its work, before it could say so
        note(f"{config.output} is there already, made of the same adapter in the same way; nothing was written")
        return summary | {"already": True}
    with atomic_folder(config.output, overwrite=overwrite) as folder:
        write(folder)
    return summary


def _is_there(output: Path, write: Callable[[Path], None]) -> bool:
    """Whether `output` holds what would be written, bit for bit."""
    if not output.is_dir() or not content_of(output):
        return False
    made = scratch_folder()
    write(made)
    names = sorted(path.name for path in made.iterdir())
    return content_of(output) == names and filecmp.cmpfiles(made, output, names, shallow=False)[0] == names


def _peft_values(opened: OpenAdapter) -> dict[str, Any]:
    """PEFT's configuration of an adapter, as it is written in either form."""
    if not is_mlx_config(opened.raw):
        return opened.raw
    where = opened.folder / CONFIG_FILE
    return dict(opened.raw["peft"]) if peft_record(opened.raw, where) == opened.adapter else config_values(opened.adapter)


def _stored(tensor: StoredTensor) -> tuple[str, np.ndarray]:
    """(dtype as safetensors names it, the bits in PEFT's layout as unsigned numbers)."""
    info = tensor.info
    width = info.size // max(math.prod(info.shape), 1)
    with open(info.file, "rb") as file:
        file.seek(info.start)
        bits = np.fromfile(file, f"<u{width}", math.prod(info.shape)).reshape(info.shape)
    return info.dtype, bits.T if tensor.transposed else bits


def _of_mlx(key: str, dtype: str, bits: np.ndarray) -> tuple[str, tuple[str, np.ndarray]]:
    name, transposed = mlx_key(key)
    return name, (dtype, bits.T if transposed else bits)


def _write(path: Path, tensors: Mapping[str, tuple[str, np.ndarray]], metadata: Mapping[str, str]) -> None:
    """A safetensors file. Its own library takes no bfloat16 of numpy's, which has none."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, (dtype, bits) in sorted(tensors.items()):
        header[name] = {"dtype": dtype, "shape": list(bits.shape), "data_offsets": [end, end + bits.nbytes]}
        end += bits.nbytes
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for _, (_, bits) in sorted(tensors.items()):
            file.write(np.ascontiguousarray(bits).data)
