"""A user's own model on this machine: the probe of its folder."""

from __future__ import annotations

import gc
from pathlib import Path

from ..checkpoint.hub import resolve_model
from ..decoding import load_model
from ..golden.checks import Check
from ..probe.probe import verify_folder
from ..probe.probe_file import read_probe


def require_probe(model: str) -> Path:
    """The folder of a model. Raises UserError where it has no sound probe: before the examination, which takes a while."""
    folder = resolve_model(model)
    read_probe(folder)
    return folder


def check_probe(backend: str, folder: Path) -> Check:
    """How far the model is from its probe on a backend, in nats."""
    gap = verify_folder(load_model(str(folder), backend))
    gc.collect()
    return Check(f"{backend}, {folder.name}", "probe", gap.where, gap.nats, gap.tolerance, f"{gap.tokens} tokens, in nats")
