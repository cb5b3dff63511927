"""The settings of a parity run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_phi3v.backend_names import BACKENDS
from mlx_phi3v.cli import option
from mlx_phi3v.ranges import MAX_CROPS, MAX_TOKENS


@dataclass(frozen=True)
class ParityConfig:
    """Settings of a parity run."""

    golden: Path | None = option(None, help="folder of recorded outputs, such as tests/golden")
    tokenizers: Path | None = option(None, help="folder of real tokenizers by model name; by default GOLDEN/../phi3v")
    model: str | None = option(None, help="checkpoint to run on both backends instead, and compare them", path=True)
    image: tuple[str, ...] = option((), help="with --model: photos of the prompt", path=True)
    num_crops: int | None = option(None, help="with --model: most crops of a photo", at_least=1, at_most=MAX_CROPS)
    new_tokens: int = option(16, help="with --model: tokens generated greedily", at_least=1, at_most=MAX_TOKENS)
    backend: tuple[str, ...] = option(BACKENDS, help="with --golden: backends to check", choices=BACKENDS)
    json: bool = option(False, help="print every check as JSON instead of the table")
