"""Estimate a training run before it starts: tokens, crops, parameters, peak memory and time per step.

    python -m mlx_phi3v.plan --model microsoft/Phi-3-vision-128k-instruct --photo 1600x1200
    python -m mlx_phi3v.plan --config run.yaml --data catalogue --memory-limit 16

Takes the flags and the YAML of mlx_phi3v.train. The model's folder needs its config and tokenizer only (with
--init-adapter also its weights, which the adapter must belong to). Memory comes
from shapes (`mlx_phi3v.training.footprint`), time from the matrix-product speed measured now, or --gflops for another machine.
After mlx_phi3v.doctor both use what it measured on this machine; with --gflops they do not. Memory is that of MLX, or with
--backend torch that of torch on CUDA; on a CPU torch takes more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from . import cli
from .errors import run_cli
from .progress import result
from .training.plan_config import PlanConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(PlanConfig, "python -m mlx_phi3v.plan", __doc__ or "", argv)
    from .training.plan import plan, show  # with what reads rows and shapes: --help and a wrong flag need none of it

    figures = plan(config)
    if config.json:
        result(True, event="plan", **figures)
    else:
        show(figures)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
