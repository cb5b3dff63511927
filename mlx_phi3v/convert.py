"""Convert a published Phi-3-Vision checkpoint to MLX: other dtype, 8 or 4 bit, tensor by tensor.

    python -m mlx_phi3v.convert --hf-path microsoft/Phi-3-vision-128k-instruct --mlx-path phi3v-4bit -q --q-bits 4

The folder keeps the published names, so both backends read it; the Python file that it names as `model_file` lets mlx-vlm
and LM Studio compute the same. With -q only the language layers' projections are packed; tower, projector, embeddings and
lm_head stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import __version__, cli
from .backend import DTYPES, set_up
from .checkpoint.fingerprint import SOURCE_FILE, base_fingerprint
from .checkpoint.headers import TensorInfo, open_checkpoint
from .checkpoint.hub import resolve_model
from .checkpoint.layout import expected_tensors, is_quantized
from .checkpoint.writer import ShardWriter, copy_processor, made_before
from .cli import option
from .config import ModelArgs, load_model_config
from .errors import UserError, run_cli
from .files import atomic_folder, read_json, sha256_file, write_json
from .hub.card import write_card
from .hub.upload import then_upload
from .model_file.folder import model_file_entries, write_model_file
from .progress import Progress, note, result, say


@dataclass(frozen=True)
class ConvertConfig:
    """Settings of a conversion; the flags are mlx-lm's."""

    hf_path: str = option("tiny", help="checkpoint folder, hub id, or 'tiny' (built in)", path=True)
    mlx_path: Path = option(Path("mlx_model"), help="folder to write; it must not exist", writes="new")
    quantize: bool = option(False, help="pack the language layers", flags=("-q",))
    q_bits: int = option(4, help="bits per weight: 4 or 8")
    q_group_size: int = option(64, help="weights that share a scale: 32, 64 or 128")
    dtype: str | None = option(None, help="dtype of all that is not packed; by default as stored", choices=DTYPES)
    model_file: bool = option(True, help="write the code with which mlx-vlm and LM Studio run the model as this project does")
    upload_repo: str | None = option(None, help="upload the folder to this repository of the hub, OWNER/NAME")
    public: bool = option(False, help="let everyone see that repository, where it is made; private otherwise")
    json: bool = option(False, help="progress as JSON lines on stdout")


def convert(config: ConvertConfig) -> dict[str, Any]:
    """Convert a checkpoint; returns a summary. A folder that was made of the same weights in the same way stays as it is.

    Raises UserError for a corrupt source, and then writes nothing, and where another process is writing the folder.
    """
    started = time.perf_counter()
    _check_sizes(config)
    source = resolve_model(config.hf_path)
    model = load_model_config(source)
    _check_source(config, model)
    # Leave out position_ids, which older transformers wrote beside the weights and nothing reads.
    tensors = {name: info for name, info in open_checkpoint(source, model).items() if name in expected_tensors(model)}
    sources = sorted({info.file for info in tensors.values()})
    made = _made_before(config, source, sources)
    if made:
        return made
    set_up("mlx")
    with atomic_folder(config.mlx_path) as folder, ThreadPoolExecutor(1) as pool:
        hashes = pool.map(sha256_file, sources)  # in a second thread; it also reads the files ahead
        writer = _convert_tensors(config, tensors, folder)
        files = writer.close()
        _write_model_config(config, source, folder)
        copy_processor(source, folder)
        if config.model_file:
            write_model_file(folder)
        write_json(folder / SOURCE_FILE, _origin(config, source, dict(zip([path.name for path in sources], hashes))))
        write_card(folder)
    seconds = round(time.perf_counter() - started, 2)
    return {"path": str(config.mlx_path), "files": files, "tensors": len(tensors), "bytes": writer.total, "seconds": seconds}


def _made_before(config: ConvertConfig, source: Path, sources: Sequence[Path]) -> dict[str, Any] | None:
    """The summary of the folder, where the same command made it before."""
    made = made_before(config.mlx_path)
    if made is None or dict(made.origin) | {"source_sha256": {}} != _origin(config, source, {}):
        return None
    if made.origin.get("source_sha256") != {path.name: sha256_file(path) for path in sources}:
        return None
    note(f"{config.mlx_path} is there already, made of the same weights in the same way; nothing was done")
    summary = {"path": str(config.mlx_path), "files": made.files, "tensors": len(made.tensors), "bytes": made.bytes}
    return {**summary, "seconds": 0.0, "already": True}


def _check_sizes(config: ConvertConfig) -> None:
    if config.q_bits not in (4, 8) or config.q_group_size not in (32, 64, 128):
        raise UserError(
            f"--q-bits {config.q_bits} --q-group-size {config.q_group_size}: choose 4 or 8 bits, groups of 32, 64 or 128"
        )


def _check_source(config: ConvertConfig, model: ModelArgs) -> None:
    """Raise UserError where the model is packed already, or its widths cannot be packed in such groups."""
    if model.quantization:
        raise UserError(f"{config.hf_path} is already quantised; convert from the published weights")
    if config.quantize:
        for size in (model.hidden_size, model.intermediate_size, model.num_attention_heads * model.head_dim):
            if size % config.q_group_size:
                raise UserError(f"--q-group-size {config.q_group_size} does not divide the model's width {size}; choose 32")


def _convert_tensors(config: ConvertConfig, tensors: Mapping[str, TensorInfo], folder: Path) -> ShardWriter:
    packed = sum(map(is_quantized, tensors)) if config.quantize else 0
    writer = ShardWriter(folder, len(tensors) + 2 * packed)
    with Progress("converting", len(tensors), as_json=config.json) as progress:
        for name, info in tensors.items():
            for piece in _converted(name, info, config):
                writer.add(*piece)
            progress.advance(gb=writer.total / 1e9)
    return writer


def _write_model_config(config: ConvertConfig, source: Path, folder: Path) -> None:
    raw = read_json(source / "config.json", "model configuration")
    model_file_entries(raw, config.model_file)
    if config.dtype:
        raw["torch_dtype"] = config.dtype
    if config.quantize:
        raw["quantization"] = {"group_size": config.q_group_size, "bits": config.q_bits}
    write_json(folder / "config.json", raw)


def _origin(config: ConvertConfig, source: Path, hashes: Mapping[str, str]) -> dict[str, Any]:
    """What the folder was converted from, and how; `hashes` are of the source's weight files."""
    return {
        "source": config.hf_path,
        "source_fingerprint": base_fingerprint(source),
        "source_sha256": hashes,
        "settings": {name: getattr(config, name) for name in ("quantize", "q_bits", "q_group_size", "dtype", "model_file")},
        "version": __version__,
    }


def _converted(name: str, info: TensorInfo, config: ConvertConfig) -> list[tuple[str, str, tuple[int, ...], memoryview]]:
    """The tensors that replace one source tensor: (name, dtype, shape, bytes) each. Holds one source tensor in memory."""
    from .backend_mlx import arrays

    array = arrays.read(info, name, config.dtype)
    if config.dtype:
        array = array.astype(arrays.dtype(config.dtype))
    if not (config.quantize and is_quantized(name)):
        return [(name, *arrays.to_bytes(array))]
    packed = arrays.quantize(array, config.q_group_size, config.q_bits)
    stem = name.removesuffix("weight")
    return [(stem + part, *arrays.to_bytes(value)) for part, value in zip(("weight", "scales", "biases"), packed)]


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(ConvertConfig, "python -m mlx_phi3v.convert", __doc__ or "", argv)
    with then_upload(config.upload_repo, config.mlx_path, public=config.public, as_json=config.json):
        summary = convert(config)
        result(config.json, event="done", **summary)
        if not summary.get("already"):
            size = f"{summary['tensors']} tensors, {summary['bytes'] / 1e9:.2f} GB, {summary['seconds']} s"
            say(f"wrote {summary['path']}: {size}", as_json=config.json)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
