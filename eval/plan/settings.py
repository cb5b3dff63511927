"""The settings of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_phi3v.cli import option
from mlx_phi3v.errors import UserError
from mlx_phi3v.ranges import MAX_ROWS


@dataclass(frozen=True)
class PlanConfig:
    """Settings of a plan. Shares in percent and points."""

    runs: tuple[Path, ...] = option(
        (), help="two finished runs, from which the rates are taken (a pilot)", positional=True, metavar="RUN"
    )
    rows: int | None = option(None, help="rows of the test split (default: those of the pilot)", at_least=10, at_most=MAX_ROWS)
    discordance: tuple[float, ...] = option(
        (),
        help="percent of rows that only one of two trainings has right, for each measure that decides",
        at_least=0,
        at_most=100,
    )
    same_discordance: float = option(
        0.5, help="the same of one adapter on two backends (0.2 was seen in fp32)", at_least=0, at_most=100
    )
    margin: float | None = option(
        None, help="points by which equal runs may differ (default: 2)", above=0, below=100
    )  # fmt: skip
    difference: float = option(0.0, help="true difference to plan for, in points", at_least=-100, at_most=100)
    seeds_deviation: float = option(
        1.0, help="standard deviation of a training's share from seed to seed, in points", at_least=0, at_most=50
    )
    shared: float = option(
        50.0, help="percent of the rows' variance that all pairs of trainings have in common", at_least=0, at_most=100
    )
    cluster_size: float | None = option(
        None, help="rows of one product, such as photos (default: 1, or as in the pilot)", at_least=1, at_most=10_000
    )
    cluster_correlation: float = option(
        1.0,
        help="with --cluster-size: how far a product's rows are right together, 0 not at all, 1 always",
        at_least=0,
        at_most=1,
    )
    allow: tuple[str, ...] = option((), help="differences between the pilot's runs to accept, as in eval.compare")
    json: bool = option(False, help="print the plan as JSON instead")


def check_flags(config: PlanConfig) -> None:
    """Raise UserError where the flags do not fit together."""
    if len(config.runs) not in (0, 2):
        raise UserError(f"a pilot is two runs; {len(config.runs)} {'is' if len(config.runs) == 1 else 'are'} given")
    if config.runs and len({path.resolve() for path in config.runs}) == 1:
        raise UserError(f"{config.runs[0]} is given twice; a pilot is two runs that differ")
    if config.allow and not config.runs:
        raise UserError("--allow is for the two runs of a pilot, and none are given")
    if config.cluster_size is None and config.cluster_correlation != PlanConfig.cluster_correlation:
        raise UserError("--cluster-correlation needs --cluster-size, the rows of one product")
    if not config.runs and config.rows is None:
        raise UserError("give --rows, or two runs as a pilot; see --help")
    if config.rows is not None and config.cluster_size is not None and config.cluster_size > config.rows:
        raise UserError(
            f"--cluster-size {config.cluster_size:g} is more than --rows {config.rows}; give the rows of one product"
        )
    wrong = [rate for rate in config.discordance if rate < abs(config.difference)]
    if wrong:
        raise UserError(
            f"--discordance {wrong[0]:g} is below --difference {config.difference:g}: a difference takes as many "
            "discordant rows; give a higher --discordance"
        )
