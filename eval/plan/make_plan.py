"""The plan of each claim, by the flags or by the rates of a pilot, and its lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console

from mlx_phi3v.commands import as_typed

from .pilot import Pilot, read_pilot
from .plans import PairPlan, TrainingsPlan, plan_pair, plan_trainings
from .power import Measure, Rows, Seeds
from .sentences import pair_lines, trainings_lines
from .settings import PlanConfig

_NAMES = ("category accuracy", "price within 10 %")
_MARGIN = 2.0


@dataclass(frozen=True)
class Plan:
    """The plan of each claim; None where its rates are not known."""

    same_computation: PairPlan | None
    two_adapters: PairPlan | None
    trainings: TrainingsPlan | None


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


def print_plan(config: PlanConfig) -> None:
    """Make the plan and print it. Raises UserError where the pilot is none."""
    pilot = read_pilot(config.runs, config.allow, None if config.margin is None else _margin(config)) if config.runs else None
    plan = make_plan(config, pilot)
    if config.json:
        print(json.dumps({"schema": 1, **asdict(plan)}, indent=2))
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in (*pair_lines(plan.same_computation, plan.two_adapters, pilot), *trainings_lines(plan.trainings)):
        console.print(as_typed(line, "mlx_phi3v.plan_eval"))
