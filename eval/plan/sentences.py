"""A plan in plain lines."""

from __future__ import annotations

from collections.abc import Iterator

from .pilot import Pilot
from .plans import PairPlan, TrainingsPlan
from .power import MOST_ROWS, MOST_TRAININGS, Measure


def pair_lines(same: PairPlan | None, two: PairPlan | None, pilot: Pilot | None) -> Iterator[str]:
    """The claims that one pair of runs may settle."""
    if pilot:
        of = "one adapter" if pilot.one_adapter else "two adapters"
        yield f"Pilot: {pilot.rows:,} rows, two runs of {of}."
        for measure, seen in zip(pilot.measures, pilot.seen):
            yield f"  {measure.label}: {percent(measure.discordance)} discordant, B - A {100 * seen:+.2f} points"
        yield ""
    if same:
        yield "(a) The same computation: one adapter on two backends"
        yield from _pair(same)
    if two:
        yield ""
        yield "    These two adapters, not the trainings that made them: one pair of runs of two trainings"
        yield from _pair(two)


def _pair(plan: PairPlan) -> Iterator[str]:
    yield f"    {_measures(plan.measures)}"
    yield f"    {plan.rows:,} rows: EQUIVALENT in {percent(plan.power)} of comparisons; {_rows(plan.rows_needed)} for 80 %"
    known = [loss for loss in plan.losses if loss is not None]
    if len(known) == len(plan.losses):
        yield f"    {plan.rows:,} rows find a loss of {' or '.join(f'{100 * loss:.1f}' for loss in known)} points WORSE in 80 %"


def trainings_lines(plan: TrainingsPlan | None) -> Iterator[str]:
    """The claim that takes several trainings a side."""
    yield ""
    yield "(b) As good a training: several trainings a side, the same seeds on both"
    if plan is None:
        yield "    Give --discordance, or two runs of two trainings: this claim's rates are not known."
        return
    yield f"    {_measures(plan.measures)}; a training moves by {100 * plan.deviation:g} points from seed to seed"
    yield f"    {'trainings a side':>18}{f'EQUIVALENT at {plan.rows:,} rows':>38}{'rows for 80 %':>18}"
    for line in plan.lines:
        needed = "no number" if line.rows_needed is None else f"{line.rows_needed:,}"
        yield f"    {line.trainings:>18}{percent(line.power):>38}{needed:>18}"
    if plan.trainings_needed is None:
        found = f"no number of trainings up to {MOST_TRAININGS} is enough for 80 %: more rows are needed"
    else:
        found = f"{plan.trainings_needed} trainings a side are enough for 80 %"
    yield f"    At {plan.rows:,} rows {found}."
    yield "    The trainings: python -m eval.train_seeds --help"


def _measures(measures: list[Measure]) -> str:
    first = measures[0]
    shown = " and ".join(f"{100 * item.discordance:.3g} % ({item.label})" for item in measures)
    difference = f", true difference {100 * first.difference:+g} points" if first.difference else ""
    margins = sorted({item.margin for item in measures})
    return f"discordant rows {shown}, margin {' or '.join(f'{100 * margin:g}' for margin in margins)} points{difference}"


def _rows(needed: int | None) -> str:
    return f"no number of rows up to {MOST_ROWS:,} is enough" if needed is None else f"{needed:,} rows"


def percent(share: float) -> str:
    """ "12 %", "0.25 %"; what is neither nothing nor all is not rounded to it."""
    value = 100 * share
    if 0 < value < 0.01:
        return "under 0.01 %"
    if value >= 99.95 and value < 100:
        return "over 99.9 %"
    return f"{value:.2g} %" if value < 10 else f"{value:.0f} %"
