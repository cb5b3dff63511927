"""A merge: every tensor of a base model with its adapter in it, and the files around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .adapters import PREFIX, AdapterArgs, load_adapter, resolve_adapter, saved_key, weights_name, weights_path
from .backend import set_up
from .checkpoint.fingerprint import SOURCE_FILE, base_fingerprint
from .checkpoint.headers import TensorInfo, open_checkpoint
from .checkpoint.hub import resolve_model
from .checkpoint.layout import expected_tensors, is_quantized
from .checkpoint.writer import ShardWriter, copy_processor, made_before
from .config import Quantization, load_model_config
from .files import atomic_folder, read_json, sha256_file, sha256_json, write_json
from .hf_folder.folder import drop_quantization, hf_writer, require_unpacked, write_hf_files
from .hf_folder.published import published_order
from .model_file.folder import model_file_entries, write_model_file
from .new_folder import make_folder
from .progress import Progress, note
from .receipt import Request
from .settings import FuseConfig
from .trained_task import TASK_FILE, TrainedTask


@dataclass(frozen=True)
class _Merge:
    """Merges one tensor of the base model -> the tensors to write: (name, dtype, shape, bytes) each."""

    tensors: dict[str, TensorInfo]
    adapter: AdapterArgs
    deltas: dict[str, np.ndarray]
    packed: Quantization | None
    dequantize: bool

    def __call__(self, name: str) -> list[tuple[str, str, tuple[int, ...], memoryview]]:
        from .backend_mlx import arrays

        module = name.removesuffix(".weight")
        unpack = self.packed if is_quantized(name) else None
        names = [name, f"{module}.scales", f"{module}.biases"] if unpack else [name]
        stored = [arrays.read(self.tensors[key], key) for key in names]
        down, whole = self.deltas.get(f"{PREFIX}{module}.lora_A.weight"), self.deltas.get(saved_key(name))
        changed = down is not None or whole is not None
        if not changed and not (unpack and self.dequantize):
            return [(key, *arrays.to_bytes(array)) for key, array in zip(names, stored)]
        dtype = stored[-1].dtype
        array = stored[0]
        if unpack:
            array = arrays.dequantize(array, stored[1], stored[2], unpack.group_size, unpack.bits)
        if down is not None:
            up = self.deltas[f"{PREFIX}{module}.lora_B.weight"]
            array = arrays.add(array, np.float32(self.adapter.scale) * (up @ down))
        elif whole is not None:
            array = arrays.from_numpy(whole)
        array = arrays.narrow(array, dtype, f"{name} with its adapter")
        if unpack and not self.dequantize:
            packed = arrays.quantize(array, unpack.group_size, unpack.bits)
            return [(key, *arrays.to_bytes(value)) for key, value in zip(names, packed)]
        return [(name, *arrays.to_bytes(array))]


def fuse(config: FuseConfig, finish: Callable[[Path], object] = lambda folder: None) -> dict[str, Any]:
    """Merge an adapter into its base model; returns a summary. A folder that was made of the same two stays as it is.

    finish: called with the whole folder before it takes its name.

    Raises UserError if the two do not fit, and where another process is writing the folder.
    """
    source = resolve_model(config.model)
    model = load_model_config(source)
    if config.hf:
        require_unpacked(model, config.model, config.dequantize)
    tensors = open_checkpoint(source, model)
    adapter_folder, base = resolve_adapter(config.adapter), base_fingerprint(source)
    adapter, deltas = load_adapter(adapter_folder, model, base, weights_name(source))
    origin = _origin(config, adapter_folder, adapter, base)
    made = made_before(config.save_path)
    if made and made.origin == origin:
        note(f"{config.save_path} is there already, made of the same model and adapter; nothing was done")
        return {"path": str(config.save_path), "adapted": len(deltas), "bytes": made.bytes, "already": True}
    set_up("mlx")
    merge = _Merge(tensors, adapter, deltas, model.quantization, config.dequantize)
    with atomic_folder(config.save_path) as folder:
        writer = hf_writer(folder, len(tensors)) if config.hf else ShardWriter(folder, len(tensors))
        names = list(published_order(expected_tensors(model)) if config.hf else expected_tensors(model))
        with Progress("fusing", len(names), as_json=config.json) as progress:
            for name in names:
                for piece in merge(name):
                    writer.add(*piece)
                progress.advance()
        writer.close()
        if config.hf:
            write_hf_files(source, folder, model, writer.dtype, TrainedTask.load(adapter_folder))
        else:
            _write_mlx_files(config, source, adapter_folder, folder)
        write_json(folder / SOURCE_FILE, origin)
        finish(folder)
        from .hub.card import write_card  # --help and a wrong flag need none of it

        write_card(folder, adapter_folder)
    return {"path": str(config.save_path), "adapted": len(deltas), "bytes": writer.total}


def _write_mlx_files(config: FuseConfig, source: Path, adapter: Path, folder: Path) -> None:
    """Everything but the weights: configuration, tokenizer, processor, task, and the code for mlx-vlm."""
    raw = read_json(source / "config.json", "model configuration")
    model_file_entries(raw, config.model_file)
    if config.dequantize:
        drop_quantization(raw)
    write_json(folder / "config.json", raw)
    copy_processor(source, folder)
    _carry_task(adapter, folder)
    if config.model_file:
        write_model_file(folder)


def _origin(config: FuseConfig, adapter_folder: Path, adapter: AdapterArgs, base: str) -> dict[str, Any]:
    """What the folder was made of, and how; `base` is the fingerprint of the base model."""
    digest = sha256_file(weights_path(adapter_folder))
    return {
        "source": config.model,
        # Not the fingerprint of its source: an adapter of the source does not fit here.
        "source_fingerprint": sha256_json([base, digest, adapter.scale]),
        "adapter": config.adapter,
        "adapter_sha256": digest,
        "adapter_scale": adapter.scale,
        "settings": {"dequantize": config.dequantize, "model_file": config.model_file, **({"hf": True} if config.hf else {})},
        "version": __version__,
    }


def _carry_task(adapter: Path, folder: Path) -> None:
    """Give the fused model the task of its adapter, not that of its base model."""
    trained = TrainedTask.load(adapter)
    if trained:
        trained.save(folder)
    else:
        (folder / TASK_FILE).unlink(missing_ok=True)


def _probe(config: FuseConfig, folder: Path) -> None:
    """Write the probe, where it is wanted, and say how far the fused model is from base and adapter."""
    if not config.probe:
        return
    from .probe.probe import make_probe  # it loads what answers

    probe = make_probe(folder, base=config.model, adapter=config.adapter, name=config.save_path)
    if probe and probe.source_gap_nats is not None:
        note(f"probe: gap {probe.source_gap_nats:.1g} nats to the base with its adapter")


def _receipt(config: FuseConfig) -> Request:
    """What is asked of the fused model: the same as base and adapter, unless it was packed again."""
    quantized = load_model_config(resolve_model(config.model)).quantization is not None and not config.dequantize
    return Request(config.model, config.adapter, config.save_path, not quantized, config.receipt, config.catalogue)


def _size(summary: dict[str, Any]) -> str:
    return f"{summary['bytes'] / 1e9:.2f} GB"


def make_fused(config: FuseConfig) -> None:
    """Merge, check the folder on held-out rows, and upload it, as the flags say. Raises UserError as `fuse` does."""
    request = _receipt(config)
    request.check()
    make = partial(fuse, config, partial(_probe, config))
    make_folder(make, request, _size, upload_repo=config.upload_repo, public=config.public, as_json=config.json)
