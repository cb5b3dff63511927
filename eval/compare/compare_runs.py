"""Two runs compared: verdict, measures, agreement, and one cause for every row that diverges."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..runs.run import Run
from . import divergence, verdict
from .absent_rows import AbsentRows, count_absent
from .comparable import (
    RunDifference,
    check_comparable,
    check_floor_run,
    join,
    manifest_differences,
    other_model,
    read_for_comparison,
    row_differences,
)
from .comparison import Comparison
from .decoded_pixels import PixelChange, find_pixel_change
from .diverged_rows import explain_rows
from .guards import stand_guard
from .metrics import Metric
from .misjoined import find_misjoined
from .noise import Floor, LogitNoise, compare_with_floor, measure_logit_noise, measure_noise
from .paired_measures import judged_difference, measure, measure_both_parsed, measure_by_category
from .paired_runs import PairedRuns, pair_runs
from .remarks import make_remarks
from .settings import RESAMPLES
from .simple_predictors import SimpleCheck, check_floor, shortfalls
from .verdict import Decision, Gate

_MOST_OF_SLIGHT_PIXELS = 0.1  # nats


def compare_runs(
    run_a: Run, run_b: Run, *, margins: Mapping[str, float | None] | None = None, seed: int = 0, resamples: int = RESAMPLES,
    allow: Collection[str] = (), near_tie: float | None = None, floor: Sequence[Run] = (), one_sided: bool = False,
    guards: bool = True, cluster: str | None = None, breakdown: bool = True, say: Callable[[str], None] = lambda stage: None,
) -> Comparison:  # fmt: skip
    """Compare two runs row by row.

    Args:
        margins: metric name -> margin as a share (0.02 is two points), over the defaults; see `verdict.gated_metrics`.
        allow: names of differences between the runs that do not refuse the comparison.
        near_tie: widest margin in nats called a near-tie; by dtype where None.
        floor: the reference (A) run again, for the noise floor.
        one_sided: only a loss of B counts, as against a baseline.
        guards: whether a guard that is raised (see `guards`) keeps the exit status from being 0.
        cluster: what rows of one product share (see `products.find_products`); by default what the runs recorded.
        breakdown: also measure rows both parsed, and each category. say: called with each stage's name.
    Raises UserError where the runs differ in data, prompt or decoding, share no row, or a line is no prediction.
    """
    gated = verdict.gated_metrics(run_a.task, margins)
    data, differences = _join_runs(run_a, run_b, allow, cluster, say)
    say("measuring all rows")
    metrics = measure(data, np.arange(len(data.join.ids)), seed=seed, resamples=resamples)
    absent, simple = count_absent(data, allow), check_floor(data, gated)
    decision = _decide(_judge(gated, data, absent, one_sided), simple, one_sided)
    say("finding why rows diverge")
    nats = divergence.near_tie_nats(run_a.manifest, run_b.manifest) if near_tie is None else near_tie
    noise = _logit_noise(data, near_tie)
    (misjoined, slipped), pixels = find_misjoined(data), find_pixel_change(data)
    differ = other_model(differences) or _differ_beyond_pixels(data, noise, pixels)
    diverged = explain_rows(data, noise, slipped, other_model=differ)
    remarks = make_remarks(data, differences, absent, misjoined, pixels)
    say("measuring rows both parsed and each category")
    both_parsed = measure_both_parsed(data, metrics, seed=seed, resamples=resamples) if breakdown else []
    by_category = measure_by_category(data, seed=seed, resamples=resamples) if breakdown else {}
    return Comparison(
        decision=decision, differences=differences, metrics=metrics, both_parsed=both_parsed, by_category=by_category,
        diverged=diverged, floors=_floors(data, floor, allow), near_tie=nats, logit_noise=noise, seed=seed, resamples=resamples,
        one_sided=one_sided, remarks=remarks, guards=stand_guard(data, gated, one_sided=one_sided), simple=simple,
        absent=absent, guards_count=guards, data=data,
    )  # fmt: skip


def _join_runs(
    run_a: Run, run_b: Run, allow: Collection[str], cluster: str | None, say: Callable[[str], None]
) -> tuple[PairedRuns, list[RunDifference]]:
    """Read both runs and join their rows by id. Raises UserError where they must not be compared."""
    say(f"reading {run_a.label}")
    columns_a = read_for_comparison(run_a)
    say(f"reading {run_b.label}")
    columns_b = read_for_comparison(run_b)
    joined = join(columns_a, columns_b)
    differences = manifest_differences(run_a.manifest, run_b.manifest) + row_differences(columns_a, columns_b, joined)
    check_comparable(run_a, run_b, differences, joined, allow)
    return pair_runs(run_a, run_b, columns_a, columns_b, joined, cluster), differences


def _judge(
    gated: Sequence[tuple[str, Metric, float]], data: PairedRuns, absent: AbsentRows, one_sided: bool
) -> list[Gate]:  # fmt: skip
    """The gates of the fields that both runs have."""
    return [
        verdict.judge(
            name,
            metric,
            margin,
            judged_difference(metric, data.fields_a[name], data.fields_b[name], data.products.clusters),
            gates=len(gated),
            absent=absent.counted,
            one_sided=one_sided,
        )
        for name, metric, margin in gated
        if name in data.fields_a
    ]


def _decide(gates: list[Gate], simple: list[SimpleCheck], one_sided: bool) -> Decision:
    """The verdict of the gates, unless a run does not beat a simple predictor."""
    decision = verdict.decide(gates, one_sided=one_sided)
    if shortfalls(simple, as_good=decision.verdict in ("EQUIVALENT", "NO WORSE")):
        return replace(decision, verdict="NOT MEANINGFUL", more_rows=None)
    return decision


def _logit_noise(data: PairedRuns, near_tie: float | None) -> LogitNoise:
    """The noise of the two runs; with `near_tie` given, that is the widest near-tie whatever the noise."""
    coarse = divergence.near_tie_nats(data.run_a.manifest, data.run_b.manifest) > divergence.NEAR_TIE_NATS["float32"]
    nats = divergence.NEAR_TIE_NATS["other" if coarse else "float32"]
    noise = measure_logit_noise(data.columns_a, data.columns_b, data.join, coarse=coarse, near_tie=nats)
    return noise if near_tie is None else replace(noise, rounding=True, near_tie=near_tie)


def _differ_beyond_pixels(data: PairedRuns, noise: LogitNoise, pixels: PixelChange | None) -> bool:
    """Whether more than the pixels differs: shown by rows whose pixels are equal, or where the pixels differ too slightly.

    One level of brightness moves the tiny model's logits by 0.01 nats in the median; so slight a change does not explain
    ten times as much.
    """
    if pixels and pixels.slight and noise.median is not None and noise.median > _MOST_OF_SLIGHT_PIXELS:
        return True
    a, b = data.digests("pixel_values")
    equal = np.flatnonzero((a == b) & (a != 0))
    if len(equal) in (0, len(a)):
        return False
    joined = replace(data.join, ids=[data.join.ids[i] for i in equal], a=data.join.a[equal], b=data.join.b[equal])
    return not _logit_noise(replace(data, join=joined), None).rounding


def _floors(data: PairedRuns, runs: Sequence[Run], allow: Collection[str]) -> list[Floor]:
    """A (the reference) against each run of itself, and the gap to B as a multiple of that.

    Raises UserError for a run of anything else.
    """
    if not runs:
        return []
    gap = measure_noise(data.columns_a, data.columns_b, data.join)
    floors = []
    for run in runs:
        again = read_for_comparison(run)
        joined = join(data.columns_a, again)
        check_floor_run(data.run_a, run, row_differences(data.columns_a, again, joined), joined, allow)
        noise = measure_noise(data.columns_a, again, joined)
        floors.append(compare_with_floor(run.label, gap, noise))
    return floors
