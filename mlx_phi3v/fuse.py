"""Merge a LoRA adapter into its base, tensor by tensor: a checkpoint that needs no adapter.

    python -m mlx_phi3v.fuse --model phi3v-4bit --adapter runs/mine --save-path phi3v-mine

A packed base model is unpacked, merged and packed again; --dequantize leaves it unpacked. The result is a new base model:
adapters of the old one are refused on it. --hf writes the published layout, which transformers opens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import cli
from .errors import run_cli
from .settings import FuseConfig


def fuse(config: FuseConfig, finish: Callable[[Path], object] = lambda folder: None) -> dict[str, Any]:
    """See `mlx_phi3v.fusion`, which is imported once the flags are read: --help and a wrong flag need none of it."""
    from . import fusion

    return fusion.fuse(config, finish)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(FuseConfig, "python -m mlx_phi3v.fuse", __doc__ or "", argv)
    from .fusion import make_fused

    make_fused(config)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
