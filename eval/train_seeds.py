"""Train with several seeds on MLX and on torch, answer the test split with each adapter, and compare the trainings.

    python -m eval.train_seeds --data CATALOGUE --output runs/seeds --seeds 5 --model M --mlx-model M4
    python -m eval.train_seeds --data CATALOGUE --output runs/seeds --seeds 5 --model M --backends torch

Two trainings differ by their seed, also with the same code. So whether a training on one backend is as good as one on the
other is asked of several on each side; with the same seed both draw the same batches. How many are needed, and how many test
rows: python -m eval.plan.

Give the same command again to resume after a kill, at any point. A larger --seeds goes on from the trainings that are there.
With one backend nothing is compared: give the same command with the other on another machine, then compare both sides' runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mlx_phi3v.cli import parse
from mlx_phi3v.errors import run_cli

from .demo.seeds_config import SeedsConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = parse(SeedsConfig, "python -m eval.train_seeds", __doc__ or "", argv)
    from .demo.seeds_job import train_seeds  # with all that compares and draws: --help and a wrong flag need none of it

    train_seeds(config)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
