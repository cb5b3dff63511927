"""Merge a LoRA adapter into its base, tensor by tensor: a checkpoint that needs no adapter.

    python -m mlx_phi3v.fuse --model phi3v-4bit --adapter runs/mine --save-path phi3v-mine

A packed base is unpacked, merged and packed again; --dequantize leaves it unpacked. The result is a base of its own:
adapters of the old one are refused on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__, cli
from .adapters import PREFIX, WEIGHTS_FILE, load_adapter, resolve_adapter, saved_key
from .cli import option
from .config import load_model_config
from .convert import ShardWriter, copy_processor
from .errors import run_cli
from .files import atomic_folder, read_json, sha256_file, sha256_json, write_json
from .progress import Progress, result, say
from .weights import SOURCE_FILE, base_fingerprint, expected_tensors, is_quantized, open_checkpoint, resolve_model


@dataclass(frozen=True)
class FuseConfig:
    """Settings of a merge; the flags are mlx-lm's."""

    adapter: str = option(help="LoRA adapter or training run", flags=("--adapter-path",))
    model: str = option("tiny", help="the base the adapter was trained on: folder, hub id, or 'tiny' (built in)")
    save_path: Path = option(Path("fused_model"), help="folder to write; it must not exist")
    dequantize: bool = option(False, help="leave a packed base unpacked")
    json: bool = option(False, help="progress as JSON lines on stdout")


def fuse(config: FuseConfig) -> dict[str, Any]:
    """Merge; a summary. Raises UserError where the adapter does not fit the base."""
    from .backend_mlx import arrays

    source = resolve_model(config.model)
    model = load_model_config(source)
    tensors = open_checkpoint(source, model)
    adapter, deltas = load_adapter(config.adapter, model, base_fingerprint(source))
    packed = model.quantization
    with atomic_folder(config.save_path) as folder:
        writer = ShardWriter(folder)
        with Progress("fusing", len(expected_tensors(model)), as_json=config.json) as progress:
            for name in expected_tensors(model):
                module = name.removesuffix(".weight")
                array = arrays.read(tensors[name])
                unpack = packed is not None and is_quantized(name)
                if packed and unpack:
                    scales, biases = (arrays.read(tensors[f"{module}.{part}"]) for part in ("scales", "biases"))
                    dtype = scales.dtype
                    array = arrays.dequantize(array, scales, biases, packed.group_size, packed.bits)
                else:
                    dtype = array.dtype
                if (down := deltas.get(f"{PREFIX}{module}.lora_A.weight")) is not None:
                    up = deltas[f"{PREFIX}{module}.lora_B.weight"]
                    array = arrays.add(array, np.float32(adapter.scale) * (up @ down))
                elif (whole := deltas.get(saved_key(name))) is not None:
                    array = arrays.from_numpy(whole)
                array = array.astype(dtype)
                if packed and unpack and not config.dequantize:
                    for part, value in zip(
                        ("weight", "scales", "biases"), arrays.quantize(array, packed.group_size, packed.bits)
                    ):
                        writer.add(f"{module}.{part}", *arrays.raw(value))
                else:
                    writer.add(name, *arrays.raw(array))
                progress.advance()
        writer.close()
        raw = read_json(source / "config.json", "model configuration")
        if config.dequantize:
            raw.pop("quantization", None)
        write_json(folder / "config.json", raw)
        copy_processor(source, folder)
        digest = sha256_file(resolve_adapter(config.adapter) / WEIGHTS_FILE)
        base = base_fingerprint(source)
        write_json(
            folder / SOURCE_FILE,
            {
                "source": config.model,
                # Another base than its source: what was trained on that does not fit here.
                "source_fingerprint": sha256_json([base, digest]),
                "adapter": config.adapter,
                "adapter_sha256": digest,
                "version": __version__,
            },
        )
    return {"path": str(config.save_path), "adapted": len(deltas), "bytes": writer.total}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(FuseConfig, "python -m mlx_phi3v.fuse", __doc__ or "", argv)
    summary = fuse(config)
    result(config.json, event="done", **summary)
    say(f"wrote {summary['path']}: {summary['bytes'] / 1e9:.2f} GB", as_json=config.json)
    return 0


if __name__ == "__main__":
    run_cli(main)
