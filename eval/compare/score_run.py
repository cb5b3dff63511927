"""One run by itself: every metric with its interval, how answers parsed, and its confusion matrices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..runs.columns import FieldColumn, RunColumns, read_columns
from ..runs.prediction import STATUSES
from ..runs.run import Run
from . import statistics
from .metrics import METRICS, Metric
from .statistics import Floats, Interval, Mean, Statistic, finite

NOT_PARSED = "(not parsed)"


def score_run(run: Run, *, seed: int = 0, resamples: int = 2000, level: float = 0.95) -> dict[str, Any]:
    """Every metric of one run with its interval, as JSON-ready values.

    Returns {"label", "rows", "seconds", "rows_per_second", "fields": {name: {"kind", "judged", "statuses",
    "metrics": {metric: {"value", "interval", "rows"}}, "confusion"}}}. Proportions have Wilson intervals, the rest
    bootstrap ones over rows.
    """
    columns = read_columns(run)
    fields = {
        name: _score_field(column, len(columns.ids), seed=seed, resamples=resamples, level=level)
        for name, column in columns.fields.items()
    }
    return {"label": run.label, "rows": len(columns.ids), **speed(columns, run.manifest), "fields": fields}


def _score_field(column: FieldColumn, n: int, *, seed: int, resamples: int, level: float) -> dict[str, Any]:
    items = [(metric, metric.statistics([column])[0]) for metric in METRICS[column.kind]]
    resampled = [(metric.name, item) for metric, item in items if metric.form != "proportion"]
    drawn = statistics.bootstrap([item for _, item in resampled], n, seed=seed, resamples=resamples)
    samples = {name: drawn[:, i] for i, (name, _) in enumerate(resampled)}
    scores: dict[str, Any] = {}
    for metric, item in items:
        low, high = _interval(metric, item, samples, level)
        scores[metric.name] = {"value": finite(item.point()), "interval": [finite(low), finite(high)], "rows": item.rows}
    return {
        "kind": column.kind,
        "judged": int(column.has_truth.sum()),
        "statuses": parse_statuses(column),
        "metrics": scores,
        **({"confusion": confusion(column)} if column.kind == "category" else {}),
    }


def _interval(metric: Metric, item: Statistic, samples: Mapping[str, Floats], level: float) -> Interval:
    if metric.form == "proportion":
        assert isinstance(item, Mean)
        return statistics.wilson(int(item.values[item.mask].sum()), item.rows, level)
    return statistics.percentile_interval(samples[metric.name], level)


def confusion(column: FieldColumn) -> dict[str, dict[str, int]]:
    """true -> predicted -> rows; answers that do not parse count as `NOT_PARSED`."""
    counts: dict[str, Counter[str]] = {}
    for true, predicted in zip(column.true, column.predicted):
        if true is not None:
            counts.setdefault(true, Counter())[NOT_PARSED if predicted is None else predicted] += 1
    return {true: dict(counts[true].most_common()) for true in sorted(counts)}


def parse_statuses(column: FieldColumn) -> dict[str, int]:
    """Parse status -> rows, of the rows that have a true value."""
    return {name: int(((column.status == index) & column.has_truth).sum()) for index, name in enumerate(STATUSES)}


def speed(columns: RunColumns, manifest: Mapping[str, Any]) -> dict[str, float | None]:
    """Seconds of work and rows a second: the rows' own times where recorded (they survive a kill), else the run's."""
    seconds = float(columns.seconds.sum()) or float(manifest.get("seconds") or 0.0)
    return {"seconds": seconds, "rows_per_second": len(columns.ids) / seconds if seconds else None}
