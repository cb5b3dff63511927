"""The settings of the sample catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_phi3v.cli import option
from mlx_phi3v.ranges import MAX_PROCESSES, MAX_SEED

from .brands import BRANDS

MAX_PRODUCTS = 10_000_000  # as many as there are codes


@dataclass(frozen=True)
class SampleConfig:
    """What to draw and how to split it."""

    output: Path = option(help="folder to write; it must not exist yet or be empty", flags=["-o"], writes="new")
    products: int = option(1000, help="how many products", at_least=10, at_most=MAX_PRODUCTS)
    seed: int = option(1, help="the same seed gives the same catalogue", at_least=0, at_most=MAX_SEED)
    brand: str = option("sample", help="the brand whose catalogue is drawn", choices=tuple(BRANDS))
    processes: int = option(
        0, help="worker processes; 0 takes one per core, 1 draws in this process", at_least=0, at_most=MAX_PROCESSES
    )
    validation_share: float = option(0.1, help="share of products in the validation split", at_least=0, below=1)
    test_share: float = option(0.1, help="share of products in the test split", at_least=0, below=1)
    validation: int | None = option(
        None, help="number of products in the validation split; wins over the share", at_least=0, at_most=MAX_PRODUCTS
    )
    test: int | None = option(
        None, help="number of products in the test split; wins over the share", at_least=0, at_most=MAX_PRODUCTS
    )
    json: bool = option(False, help="print one line of JSON at the end and no progress")
