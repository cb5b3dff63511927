"""Two runs compared: verdict, measures, agreement, and one cause for every row on which they part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from ..runs.columns import STAGES, Columns, Floats, read_columns
from ..runs.run import Run
from . import divergence, metrics, verdict
from .comparable import Join, check_comparable, join, manifest_differences, row_differences
from .comparison import Comparison, PartedRow, Side
from .measures import OUTCOMES, Joined, align, measure, measure_both_parsed, measure_by_category
from .noise import Floor, Noise, compare_with_floor, measure_noise

RESAMPLES = 2000


def compare_runs(
    run_a: Run,
    run_b: Run,
    *,
    margins: Mapping[str, float | None] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    allow: Collection[str] = (),
    near_tie: float | None = None,
    floor: Sequence[Run] = (),
    one_sided: bool = False,
    breakdown: bool = True,
    say: Callable[[str], None] = lambda stage: None,
) -> Comparison:
    """Compare two runs product by product.

    Args:
        margins: metric name -> margin as a share (0.02 is two points), over the defaults; see `verdict.gated_metrics`.
        allow: names of differences between the runs that do not refuse the comparison.
        near_tie: widest margin in nats called a near-tie; by dtype where None.
        floor: the reference (A) run again, for the noise floor.
        one_sided: B against a baseline A: only a loss of B counts.
        breakdown: also measure rows both parsed, and each category.
        say: told what is being done, for a progress display.
    Raises UserError where the runs were not asked the same, share no row, or a line is broken.
    """
    gated = verdict.gated_metrics(run_a.task, margins)
    say(f"reading {run_a.label}")
    columns_a = read_columns(run_a)
    say(f"reading {run_b.label}")
    columns_b = read_columns(run_b)
    joined = join(columns_a, columns_b)
    differences = manifest_differences(run_a.manifest, run_b.manifest) + row_differences(columns_a, columns_b, joined)
    check_comparable(run_a, run_b, differences, joined, allow)
    data = align(run_a, run_b, columns_a, columns_b, joined)
    say("measuring all rows")
    everything = np.arange(len(joined.ids))
    rows, paired = measure(data, everything, seed=seed, resamples=resamples)
    gates = [
        verdict.judge(
            name,
            metric,
            margin,
            paired[name, metric.name],
            gates=len(gated),
            only_a=len(joined.only_a),
            only_b=len(joined.only_b),
            one_sided=one_sided,
        )
        for name, metric, margin in gated
        if name in data.fields_a
    ]
    nats = divergence.near_tie_nats(run_a.manifest, run_b.manifest) if near_tie is None else near_tie
    say("finding why rows part")
    parted = _explain_rows(data, nats)
    say("measuring rows both parsed and each category")
    gap = measure_noise(columns_a, columns_b, joined)
    return Comparison(
        decision=verdict.decide(gates, one_sided=one_sided),
        a=_side(run_a, columns_a, joined.only_a),
        b=_side(run_b, columns_b, joined.only_b),
        joined=len(joined.ids),
        differences=differences,
        notes=_notes(run_a, run_b, columns_a, columns_b, joined),
        metrics=rows,
        both_parsed=measure_both_parsed(data, rows, seed=seed, resamples=resamples) if breakdown else [],
        by_category=measure_by_category(data, seed=seed, resamples=resamples) if breakdown else {},
        agreement=_agreement(data),
        outcomes={name: count for name, count in zip(OUTCOMES, _outcome_counts(data))},
        inputs=_inputs(data),
        cause_counts=_count_causes(parted),
        parted=parted,
        noise=gap,
        floors=[_floor(columns_a, run, gap) for run in floor],
        near_tie=nats,
        seed=seed,
        resamples=resamples,
        one_sided=one_sided,
        data=data,
    )


def _agreement(data: Joined) -> dict[str, tuple[int, int]]:
    alike: dict[str, tuple[int, int]] = {}
    for name in ("text", "tokens", "predicted"):
        left = data.columns_a.digests[name][data.join.a]
        right = data.columns_b.digests[name][data.join.b]
        known = (left != 0) & (right != 0)
        alike[name] = int((known & (left == right)).sum()), int(known.sum())
    return alike


def _outcome_counts(data: Joined) -> tuple[int, int, int, int]:
    a, b = data.right_a, data.right_b
    return int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum())


def _inputs(data: Joined) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for stage in STAGES:
        left, right = data.columns_a.digests[stage][data.join.a], data.columns_b.digests[stage][data.join.b]
        known = (left != 0) & (right != 0)
        found[stage] = int((known & (left != right)).sum()), int(known.sum())
    return found


def _explain_rows(data: Joined, near_tie: float) -> list[PartedRow]:
    """The rows on which the runs part, worst first: a side changed from right to wrong, then the widest gap."""
    parted = np.zeros(len(data.join.ids), dtype=bool)
    for name in ("text", "tokens", "predicted", "true"):
        left, right = data.columns_a.digests[name][data.join.a], data.columns_b.digests[name][data.join.b]
        parted |= (left != right) & (left != 0) & (right != 0)
    sampled = any((run.manifest.get("settings") or {}).get("temperature") for run in (data.run_a, data.run_b))
    severity = _severities(data)
    found = []
    for i in np.flatnonzero(parted).tolist():
        a, b = data.rows(i)
        parting = divergence.explain(a, b, near_tie=near_tie, sampled=sampled)
        found.append(
            PartedRow(
                id=data.join.ids[i],
                cause=parting.cause,
                detail=parting.detail,
                reading=divergence.reading(a, b),
                position=parting.position,
                margin=parting.margin,
                outcome=data.outcome(i),
                category=data.category[i],
                severity=float(severity[i]),
            )
        )
    return sorted(found, key=lambda row: (-row.severity, -(row.margin or 0.0), row.id))


def _severities(data: Joined) -> Floats:
    """How much two readings differ in score, row by row [n].

    A category read differently counts 1, and 1 more where it makes one side wrong; a price counts by |ln(a/b)| up to 2,
    and 2 where one side has none; a text by the difference of its two ratios.
    """
    total = np.zeros(len(data.join.ids))
    for name, a in data.fields_a.items():
        b = data.fields_b[name]
        if a.kind == "text":
            total += np.abs(a.ratio - b.ratio)
        elif a.kind == "category":
            total += (a.predicted != b.predicted).astype(float) + (metrics.right(a) != metrics.right(b))
        else:
            with np.errstate(invalid="ignore", divide="ignore"):
                apart = np.minimum(np.abs(np.log(a.predicted / b.predicted)), 2.0)
            total += np.where(np.isnan(a.predicted) != np.isnan(b.predicted), 2.0, np.nan_to_num(apart, nan=0.0))
    return total


def _count_causes(parted: list[PartedRow]) -> dict[str, int]:
    counts = Counter(row.cause for row in parted)
    return {cause: counts[cause] for cause in divergence.CAUSES if counts[cause]}


def _floor(reference: Columns, run: Run, gap: Noise) -> Floor:
    again = read_columns(run)
    return compare_with_floor(run.label, gap, measure_noise(reference, again, join(reference, again)))


def _side(run: Run, columns: Columns, only: list[str]) -> Side:
    speed = metrics.speed(columns, run.manifest)
    return Side(
        label=run.label,
        path=str(run.path),
        manifest=run.manifest,
        rows=len(columns.ids),
        only=only,
        duplicates=columns.duplicates,
        finished=run.finished,
        seconds=speed["seconds"] or 0.0,
        rows_per_second=speed["rows_per_second"],
        statuses={name: metrics.parse_statuses(column) for name, column in columns.fields.items()},
        confusion={name: metrics.confusion(c) for name, c in columns.fields.items() if c.kind == "category"},
    )


_SHOWN_IDS = 10


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(ids[:_SHOWN_IDS]) + more


def _count(n: int, one: str) -> str:
    return f"{n:,} {one}" if n == 1 else f"{n:,} {one}s"


def _notes(run_a: Run, run_b: Run, a: Columns, b: Columns, joined: Join) -> list[str]:
    """What a reader must know before believing the figures."""
    notes = []
    for name, ids in (("A", joined.only_a), ("B", joined.only_b)):
        if ids:
            notes.append(f"{_count(len(ids), 'row')} only in {name}, left out of the measures: {_listed(ids)}")
    for name, run, columns in (("A", run_a, a), ("B", run_b, b)):
        if columns.duplicates:
            unlike = [identity for identity, same in columns.duplicates if not same]
            says = f"; the repeats of {_listed(unlike)} say something else" if unlike else "; the repeats say the same"
            ids = [identity for identity, _ in columns.duplicates]
            notes.append(f"{_count(len(ids), 'row')} repeated in {name}, the first is used: {_listed(ids)}{says}")
        if not run.finished:
            notes.append(f"{name} ({run.label}) is unfinished: resume it with eval.predict before you trust this")
        if run.torn:
            notes.append(f"{name}'s last line is half-written and left out")
    if set(a.fields) != set(b.fields):
        notes.append(f"fields only one run has are left out: {', '.join(sorted(set(a.fields) ^ set(b.fields)))}")
    return notes
