"""The settings of a receipt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_phi3v import shared_options
from mlx_phi3v.backend_names import BACKENDS, default_backend
from mlx_phi3v.cli import option
from mlx_phi3v.errors import UserError
from mlx_phi3v.ranges import MAX_BATCH, MAX_RESAMPLES, MAX_ROWS, MAX_SEED, MAX_TOKENS

from ..compare.settings import RESAMPLES

EXPECT = ("same", "cost")


@dataclass(frozen=True)
class ReceiptConfig:
    """Settings of a receipt."""

    data: Path = option(help="catalogue folder, whose held-out rows both models answer")
    models: tuple[str, ...] = option(
        (), help="two models, BEFORE and AFTER: folder, or hub id", positional=True, metavar="MODEL"
    )
    adapter: str | None = option(None, help="LoRA adapter or training run that BEFORE is to have", path=True)
    expect: str = option(
        "cost", help="same: AFTER must compute what BEFORE does, but for rounding; cost: it may lose some", choices=EXPECT
    )
    rows: int = option(32, help="the first rows of the split are answered", at_least=1, at_most=MAX_ROWS)
    split: str | None = option(None, help="split to answer; by default test, else validation")
    output: Path | None = option(None, help="folder for the receipt; by default AFTER", writes="folder")
    backend: str = option(default_backend(), help="framework to run on", choices=BACKENDS)
    dtype: str | None = shared_options.compute_dtype()
    batch_size: int = option(4, help="rows answered together; does not change the answers", at_least=1, at_most=MAX_BATCH)
    max_new_tokens: int = option(96, help="longest answer, in tokens", at_least=1, at_most=MAX_TOKENS)
    seed: int = option(0, help="seed of the bootstrap", at_least=0, at_most=MAX_SEED)
    resamples: int = option(RESAMPLES, help="bootstrap resamples", at_least=1, at_most=MAX_RESAMPLES)
    json: bool = option(False, help="progress and the receipt as JSON lines on stdout")

    def check_values(self, where: str) -> None:
        """Raise UserError unless there are two models."""
        if len(self.models) != 2:
            raise UserError(f"give two models, BEFORE and AFTER; {where} have {len(self.models)}")
