"""A conversion: every tensor of a checkpoint in another dtype, packed or unpacked, and the files around them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from . import __version__
from .backend import set_up
from .checkpoint.fingerprint import SOURCE_FILE, base_fingerprint
from .checkpoint.headers import TensorInfo, open_checkpoint
from .checkpoint.hub import resolve_model
from .checkpoint.layout import expected_tensors, is_quantized, stored_tensors
from .checkpoint.writer import ShardWriter, copy_processor, made_before
from .config import ModelArgs, Quantization, load_model_config
from .errors import UserError
from .files import atomic_folder, read_json, sha256_file, write_json
from .hf_folder.code import snapshot_of
from .hf_folder.folder import drop_quantization, hf_writer, require_unpacked, write_hf_files
from .hf_folder.published import published_order
from .model_file.folder import model_file_entries, write_model_file
from .new_folder import make_folder
from .progress import Progress, note
from .receipt import Request
from .settings import ConvertConfig
from .trained_task import TrainedTask


def convert(config: ConvertConfig, finish: Callable[[Path], object] = lambda folder: None) -> dict[str, Any]:
    """Convert a checkpoint; returns a summary. A folder that was made of the same weights in the same way stays as it is.

    finish: called with the whole folder before it takes its name.

    Raises UserError for a corrupt source, and then writes nothing, and where another process is writing the folder.
    """
    started = time.perf_counter()
    _check_sizes(config)
    source = resolve_model(config.hf_path, "--hf-path")
    model = load_model_config(source)
    _check_source(config, model)
    # Leave out position_ids, which older transformers wrote beside the weights and nothing reads.
    tensors = {name: info for name, info in open_checkpoint(source, model).items() if name in stored_tensors(model)}
    sources = sorted({info.file for info in tensors.values()})
    made = _made_before(config, source, sources)
    if made:
        return made
    set_up("mlx")
    with atomic_folder(config.mlx_path) as folder, ThreadPoolExecutor(1) as pool:
        hashes = pool.map(sha256_file, sources)  # in a second thread; it also reads the files ahead
        writer = _convert_tensors(config, model, tensors, folder)
        files = writer.close()
        if config.to_hf:
            write_hf_files(source, folder, model, writer.dtype, TrainedTask.load(source))
        else:
            _write_mlx_files(config, source, folder)
        write_json(folder / SOURCE_FILE, _origin(config, source, dict(zip([path.name for path in sources], hashes))))
        finish(folder)
        from .hub.card import write_card  # --help and a wrong flag need none of it

        write_card(folder)
    seconds = round(time.perf_counter() - started, 2)
    written = sum(len(header) - 1 for _, header, _ in writer.shards)  # one entry is the metadata
    return {"path": str(config.mlx_path), "files": files, "tensors": written, "bytes": writer.total, "seconds": seconds}


def _made_before(config: ConvertConfig, source: Path, sources: Sequence[Path]) -> dict[str, Any] | None:
    """The summary of the folder, where the same command made it before."""
    made = made_before(config.mlx_path)
    # A folder that an earlier version made does not name the revision; the hashes say the same.
    told: dict[str, Any] = {"source_sha256": {}, "source_revision": None}
    if made is None or dict(made.origin) | told != _origin(config, source, {}) | told:
        return None
    if made.origin.get("source_sha256") != {path.name: sha256_file(path) for path in sources}:
        return None
    note(f"{config.mlx_path} is there already, made of the same weights in the same way; nothing was done")
    summary = {"path": str(config.mlx_path), "files": made.files, "tensors": len(made.tensors), "bytes": made.bytes}
    return {**summary, "seconds": 0.0, "already": True}


def _check_sizes(config: ConvertConfig) -> None:
    other = "--dequantize" if config.dequantize else "--to-hf, which writes floats," if config.to_hf else ""
    if config.quantize and other:
        raise UserError(f"-q and {other} exclude each other; give one of the two")
    if config.q_bits not in (4, 8) or config.q_group_size not in (32, 64, 128):
        raise UserError(
            f"--q-bits {config.q_bits} --q-group-size {config.q_group_size}: choose 4 or 8 bits, groups of 32, 64 or 128"
        )


def _check_source(config: ConvertConfig, model: ModelArgs) -> None:
    """Raise UserError where the model is packed already, or its widths cannot be packed in such groups."""
    if model.quantization and not config.dequantize:
        if config.to_hf:
            require_unpacked(model, config.hf_path, config.dequantize)
        raise UserError(f"{config.hf_path} is already quantised; convert from the published weights, or give --dequantize")
    if config.dequantize and not model.quantization:
        note(f"{config.hf_path} is not quantised: --dequantize changes nothing")
    if config.quantize:
        for size in (model.hidden_size, model.intermediate_size, model.num_attention_heads * model.head_dim):
            if size % config.q_group_size:
                raise UserError(f"--q-group-size {config.q_group_size} does not divide the model's width {size}; choose 32")


def _convert_tensors(config: ConvertConfig, model: ModelArgs, tensors: Mapping[str, TensorInfo], folder: Path) -> ShardWriter:
    expected = expected_tensors(model)  # without the scales and biases of packed weights
    names = list(published_order(expected)) if config.to_hf else [name for name in tensors if name in expected]
    packed = sum(map(is_quantized, names)) if config.quantize else 0
    writer = hf_writer(folder, len(names)) if config.to_hf else ShardWriter(folder, len(names) + 2 * packed)
    with Progress("converting", len(names), as_json=config.json) as progress:
        for name in names:
            for piece in _converted(name, tensors, config, model.quantization if is_quantized(name) else None):
                writer.add(*piece)
            progress.advance(gb=writer.total / 1e9)
    return writer


def _write_mlx_files(config: ConvertConfig, source: Path, folder: Path) -> None:
    """Everything but the weights: configuration, tokenizer, processor, and the code for mlx-vlm."""
    raw = read_json(source / "config.json", "model configuration")
    model_file_entries(raw, config.model_file)
    if config.dtype:
        raw["torch_dtype"] = config.dtype
    if config.dequantize:
        drop_quantization(raw)
    if config.quantize:
        raw["quantization"] = {"group_size": config.q_group_size, "bits": config.q_bits}
    write_json(folder / "config.json", raw)
    copy_processor(source, folder)
    if config.model_file:
        write_model_file(folder)


def _origin(config: ConvertConfig, source: Path, hashes: Mapping[str, str]) -> dict[str, Any]:
    """What the folder was converted from, and how; `hashes` are of the source's weight files."""
    settings = {name: getattr(config, name) for name in ("quantize", "q_bits", "q_group_size", "dtype", "model_file")}
    snapshot = snapshot_of(source)
    settings |= {name: True for name in ("dequantize", "to_hf") if getattr(config, name)}
    return {
        "source": config.hf_path,
        "source_fingerprint": base_fingerprint(source),
        "source_sha256": hashes,
        "settings": settings,
        **({"source_revision": snapshot[1]} if snapshot else {}),
        "version": __version__,
    }


def _converted(
    name: str, tensors: Mapping[str, TensorInfo], config: ConvertConfig, packed: Quantization | None
) -> list[tuple[str, str, tuple[int, ...], memoryview]]:
    """The tensors that replace one source tensor: (name, dtype, shape, bytes) each. Holds one source tensor in memory."""
    from .backend_mlx import arrays

    array, stored = arrays.read_unpacked(tensors, name, packed, config.dtype)
    array = arrays.narrow(array, arrays.dtype(config.dtype) if config.dtype else stored, name)
    if not (config.quantize and is_quantized(name)):
        return [(name, *arrays.to_bytes(array))]
    parts = arrays.quantize(array, config.q_group_size, config.q_bits)
    stem = name.removesuffix("weight")
    return [(stem + part, *arrays.to_bytes(value)) for part, value in zip(("weight", "scales", "biases"), parts)]


def _probe(config: ConvertConfig, folder: Path) -> None:
    """Write the probe, where it is wanted."""
    if config.probe:
        from .probe.probe import make_probe  # it loads what answers

        make_probe(folder, name=config.mlx_path)


def _size(summary: dict[str, Any]) -> str:
    return f"{summary['tensors']} tensors, {summary['bytes'] / 1e9:.2f} GB, {summary['seconds']} s"


def make_converted(config: ConvertConfig) -> None:
    """Convert, check the folder on held-out rows, and upload it, as the flags say. Raises UserError as `convert` does."""
    changes = config.quantize or config.dequantize or config.to_hf or config.dtype is not None  # else every bit stays
    rows = config.receipt if changes or config.catalogue else 0
    request = Request(config.hf_path, None, config.mlx_path, not config.quantize, rows, config.catalogue)
    request.check()
    make = partial(convert, config, partial(_probe, config))
    make_folder(make, request, _size, upload_repo=config.upload_repo, public=config.public, as_json=config.json)
