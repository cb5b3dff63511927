"""What is planned for each claim, as figures: the power at the rows given, and the rows and trainings for 80 %."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from .power import Measure, Rows, Seeds, joint, loss_found, power_pair, power_trainings, rows_for, trainings_for

TABLE = (3, 5, 8, 12, 20)  # trainings a side


@dataclass(frozen=True)
class PairPlan:
    """One pair of runs. powers: of each measure; losses: the smallest loss of each that is found WORSE with 80 % power."""

    measures: list[Measure]
    rows: int
    power: float  # of EQUIVALENT, all measures together
    powers: list[float]
    rows_needed: int | None
    losses: list[float | None]


@dataclass(frozen=True)
class TrainingsLine:
    """So many trainings a side: the power at the rows given, and the rows for 80 %."""

    trainings: int
    power: float
    rows_needed: int | None


@dataclass(frozen=True)
class TrainingsPlan:
    """Several trainings a side, paired by seed."""

    measures: list[Measure]
    rows: int
    deviation: float  # of a training, from seed to seed; a share
    shared: float
    lines: list[TrainingsLine]
    trainings_needed: int | None  # at the rows given


def plan_pair(measures: Sequence[Measure], rows: Rows) -> PairPlan:
    """One adapter on two backends, or the adapters of two trainings."""
    powers = [power_pair(item, rows) for item in measures]
    return PairPlan(
        list(measures), rows.n, joint(powers), powers,
        rows_for(lambda n: joint([power_pair(item, rows.of(n)) for item in measures])),
        [loss_found(item, rows, len(measures)) for item in measures],
    )  # fmt: skip


def plan_trainings(measures: Sequence[Measure], rows: Rows, seeds: Seeds, table: Sequence[int] = TABLE) -> TrainingsPlan:
    """Sets of trainings; `seeds.trainings` is not used."""

    def power(trainings: int, n: int) -> float:
        return joint([power_trainings(item, rows.of(n), seeds.of(trainings)) for item in measures])

    lines = []
    for k in table:
        needed = rows_for(partial(power, k))
        lines.append(TrainingsLine(k, power(k, rows.n), needed))
    return TrainingsPlan(
        list(measures), rows.n, seeds.deviation, seeds.shared, lines, trainings_for(lambda k: power(k, rows.n))
    )
