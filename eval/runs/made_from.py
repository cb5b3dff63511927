"""What a run that appears whole was made from: the same command given again finds its output there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlx_phi3v import __version__
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import read_json, sha256_file

from .manifest import check_manifest

KEY = "made_from"  # of the manifest


def made_from(command: str, inputs: Iterable[Path], **settings: Any) -> dict[str, Any]:
    """The manifest's entry: command, version, hashes of the inputs (files, or runs) in any order, and what else decides."""
    hashes = sorted(sha256_file(file) for path in inputs for file in _files(path))
    return {"command": command, "version": __version__, "inputs": hashes, **settings}


def is_made(output: Path, entry: Mapping[str, Any]) -> bool:
    """Whether `output` is a run made from just this: a kill after its last step, or the same command twice, is no mistake."""
    path = output / "manifest.json"
    try:
        return path.is_file() and check_manifest(read_json(path, "run manifest"), path).get(KEY) == entry
    except UserError:  # not ours: what writes there refuses it
        return False


def said(output: Path) -> str:
    """The sentence for it."""
    return f"{output} is there already, made from the same inputs"


def _files(path: Path) -> list[Path]:
    return [path / "manifest.json", path / "predictions.jsonl"] if path.is_dir() else [path]
