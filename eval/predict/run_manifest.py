"""The manifest of a prediction run: hashes, settings, code, packages, device."""

from __future__ import annotations

import importlib.metadata
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlx_phi3v import __version__
from mlx_phi3v.adapters import CONFIG_FILE, weights_path
from mlx_phi3v.catalogue import Catalogue, iterate
from mlx_phi3v.decoding import LoadedModel
from mlx_phi3v.files import read_json, sha256_file, sha256_json
from mlx_phi3v.sampling import DRAWS
from mlx_phi3v.task import Task

from ..runs.manifest import split_hash
from ..runs.training_settings import recorded_settings
from .settings import PredictConfig, parse_shard

_PACKAGES = ("mlx", "mlx-vlm", "torch", "transformers", "peft", "numpy", "pillow", "tokenizers")
TOP_K = 5


def make_manifest(config: PredictConfig, catalogue: Catalogue, model: LoadedModel, task: Task) -> dict[str, Any]:
    """The manifest: model, data, prompt, settings, code, packages and machine; see `eval.runs.run`."""
    backend, adapter = model.backend, model.adapter
    decoding = _decoding(config)
    quantization = backend.config.quantization
    shard = parse_shard(config.shard)
    return {
        "backend": config.backend,
        "label": config.label or config.output.name,
        "hashes": _hashes(config, catalogue, model, task, decoding),
        "settings": {
            "dtype": backend.dtype,
            "quantization": quantization.__dict__ if quantization else None,
            "num_crops": model.num_crops(config.num_crops),
            "attn_implementation": config.attn_implementation,
            **({"kv_bits": config.kv_bits} if config.kv_bits else {}),  # runs from before it was a setting go on
            **decoding,
        },
        "task": task.to_dict(),
        "catalogue": str(config.data.resolve()),
        "split": config.split,
        "split_rows": len(catalogue.split(config.split)),
        "limit": config.limit,
        "shard": list(shard) if shard else None,
        "model": config.model,
        "adapter": config.adapter,
        "model_config": asdict(backend.config),
        "adapter_config": read_json(adapter.folder / CONFIG_FILE, "adapter") if adapter else None,
        "training": recorded_settings(adapter.folder) if adapter else None,
        "code": code_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "device": backend.device_info(),
        "batch_size": config.batch_size,
    }


def _decoding(config: PredictConfig) -> dict[str, Any]:
    decoding = {"max_new_tokens": config.max_new_tokens, "temperature": config.temperature, "seed": config.seed}
    if config.top_p != 1.0:  # at 1 it changes nothing: runs from before it was a setting go on and compare
        decoding["top_p"] = config.top_p
    return decoding


def _hashes(
    config: PredictConfig, catalogue: Catalogue, model: LoadedModel, task: Task, decoding: dict[str, Any]
) -> dict[str, str | None]:
    """What two runs are compared by, and what a resumed run must share with its beginning."""
    return {
        "base": model.fingerprint,
        "adapter": sha256_file(weights_path(model.adapter.folder)) if model.adapter else None,
        "catalogue": catalogue.fingerprint,
        "split": split_hash(task, iterate(catalogue.split(config.split))),
        "template": sha256_json(task.to_dict()),
        "tokenizer": sha256_file(model.folder / "tokenizer.json"),
        # A run that was drawn in the way of an earlier version is not gone on with: its rows would be of two kinds.
        "decoding": sha256_json(decoding | ({"draws": DRAWS} if config.temperature else {})),
    }


def code_version() -> dict[str, Any]:
    """The version; in a git checkout also its commit and whether files were changed."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"version": __version__, "commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
