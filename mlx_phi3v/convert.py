"""Convert a published Phi-3-Vision checkpoint to MLX: other dtype, 8 or 4 bit, tensor by tensor.

    python -m mlx_phi3v.convert --hf-path microsoft/Phi-3-vision-128k-instruct --mlx-path phi3v-4bit -q --q-bits 4

The folder keeps the published names, so both backends read it; the Python file that it names as `model_file` lets mlx-vlm
and LM Studio compute the same. With -q only the language layers' projections are packed; tower, projector, embeddings and
lm_head stay as they are. --to-hf writes the published layout, for transformers:

    python -m mlx_phi3v.convert --hf-path phi3v-4bit --dequantize --to-hf --mlx-path phi3v-hf
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import cli
from .errors import run_cli
from .settings import ConvertConfig


def convert(config: ConvertConfig, finish: Callable[[Path], object] = lambda folder: None) -> dict[str, Any]:
    """See `mlx_phi3v.conversion`, which is imported once the flags are read: --help and a wrong flag need none of it."""
    from . import conversion

    return conversion.convert(config, finish)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(ConvertConfig, "python -m mlx_phi3v.convert", __doc__ or "", argv)
    from .conversion import make_converted

    make_converted(config)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
