"""How many rows, and how many trainings, a verdict of EQUIVALENT needs: find out before the work.

    python -m eval.plan --rows 304 --discordance 5 15             304 test rows; 5 % and 15 % of them discordant
    python -m eval.plan --rows 304 --discordance 5 15 --seeds-deviation 1.5 --cluster-size 3
    python -m eval.plan RUN_A RUN_B --rows 2000                   the rates of a pilot: two runs on a few rows

A row is discordant where only one of two runs has it right; --discordance takes one number for each measure that decides
(category accuracy, price within 10 %). It speaks of two claims:

(a) The same computation: one adapter on two backends. Few rows are discordant (--same-discordance), a few hundred decide.
(b) As good a training: one backend's trainings against another's. Trainings differ by their seed, so several a side are
    needed, and more rows do not replace them. --seeds-deviation is how far a training's share moves from seed to seed.

The power is the chance of EQUIVALENT where A and B are truly as good (or differ by --difference), each measure at a
one-sided 5 % as in eval.compare. 80 % is what one plans for. Both sides must also beat the simple predictors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from mlx_phi3v.cli import option, parse
from mlx_phi3v.commands import as_typed
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.ranges import MAX_ROWS

from .pilot import Pilot, read_pilot
from .plans import PairPlan, TrainingsPlan, plan_pair, plan_trainings
from .power import Measure, Rows, Seeds
from .sentences import pair_lines, trainings_lines

_NAMES = ("category accuracy", "price within 10 %")
_MARGIN = 2.0


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


@dataclass(frozen=True)
class Plan:
    """The plan of each claim; None where its rates are not known."""

    same_computation: PairPlan | None
    two_adapters: PairPlan | None
    trainings: TrainingsPlan | None


def read_config(argv: Sequence[str] | None) -> PlanConfig:
    """The config. Raises UserError where the flags do not fit together."""
    config = parse(PlanConfig, "python -m eval.plan", __doc__ or "", argv)
    if len(config.runs) not in (0, 2):
        raise UserError(f"a pilot is two runs; {len(config.runs)} {'is' if len(config.runs) == 1 else 'are'} given")
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
    return config


def make_plan(config: PlanConfig, pilot: Pilot | None) -> Plan:
    """The plan by the config, with the pilot's rates where there is one."""
    n = config.rows or (pilot.rows if pilot else 0)
    rows = Rows(n, config.cluster_size or 1.0, config.cluster_correlation)
    if pilot and config.cluster_size is None:
        rows = Rows(n, pilot.size, pilot.correlation)
    given = _given(config)
    same = [Measure(item.label, config.same_discordance / 100, item.margin) for item in given or _default(config)]
    if pilot and pilot.one_adapter:
        same = pilot.measures
    elif pilot and not given:
        given = _shifted(pilot.measures, config.difference / 100)
    seeds = Seeds(2, config.seeds_deviation / 100, config.shared / 100)
    return Plan(
        plan_pair(same, rows),
        plan_pair(given, rows) if given else None,
        plan_trainings(given, rows, seeds) if given else None,
    )


def _given(config: PlanConfig) -> list[Measure]:
    """The measures of --discordance."""
    margin, names = _margin(config), _NAMES if len(config.discordance) == len(_NAMES) else ()
    return [
        Measure(
            names[i] if names else "measure" if len(config.discordance) == 1 else f"measure {i + 1}",
            rate / 100,
            margin,
            config.difference / 100,
        )
        for i, rate in enumerate(config.discordance)
    ]


def _default(config: PlanConfig) -> list[Measure]:
    return [Measure(name, 0.0, _margin(config)) for name in _NAMES]


def _shifted(measures: Sequence[Measure], difference: float) -> list[Measure]:
    return [Measure(item.label, max(item.discordance, abs(difference)), item.margin, difference) for item in measures]


def _margin(config: PlanConfig) -> float:
    return (_MARGIN if config.margin is None else config.margin) / 100


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = read_config(argv)
    pilot = read_pilot(config.runs, config.allow, None if config.margin is None else _margin(config)) if config.runs else None
    plan = make_plan(config, pilot)
    if config.json:
        print(json.dumps({"schema": 1, **asdict(plan)}, indent=2))
        return 0
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in (*pair_lines(plan.same_computation, plan.two_adapters, pilot), *trainings_lines(plan.trainings)):
        console.print(as_typed(line, "mlx_phi3v.plan_eval"))
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
