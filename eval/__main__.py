"""The whole job on the built-in model and data: convert, tune, answer on MLX and on torch, compare.

    python -m eval                       the sample catalogue, the tiny model, both backends
    python -m eval --tune-on mlx         tune on MLX instead
    python -m eval --backends mlx        MLX alone: nothing is compared
    python -m eval --seeds 5             also train with five seeds on each backend, and compare the trainings

It shows that both backends compute the same: one adapter, tuned on one of them, answers the test split on both. A first answer,
of the base model, comes within a minute.

Nothing is downloaded. Give the same command again to resume an interrupted run. OUTPUT holds the catalogue, the converted
model, the adapter, the predictions and report.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mlx_phi3v import cli
from mlx_phi3v.errors import run_cli

from .demo.settings import DemoConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(DemoConfig, "python -m eval", __doc__ or "", argv)
    from .demo.pipeline import run_demo  # with all that compares and draws: --help and a wrong flag need none of it

    return run_demo(config)


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
