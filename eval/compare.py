"""Compare two finished runs: the verdict, every measure with its interval, and why answers part.

    python -m eval.compare RUN_A RUN_B                       two runs
    python -m eval.compare RUN --baseline baseline.jsonl     a regression gate: only a loss counts
    python -m eval.compare RUN_A RUN_B RUN_C --reference RUN_A    a table over any number of runs

Needs neither torch nor mlx. Exit status: 0 EQUIVALENT (or NO WORSE), 1 DIFFERENT (or WORSE), 3 INCONCLUSIVE,
2 wrong usage, runs that must not be compared among it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from . import causes, metrics, statistics, verdict
from .columns import STAGES, Bools, Columns, FieldColumn, Ints, first_category, read_columns
from .match import Difference, Join, check_comparable, join, manifest_differences, row_differences
from .metrics import METRICS, Metric
from .noise import Floor, Noise, compare_with_floor, measure_noise
from .run import Run
from .statistics import Interval, PairedDifference, PairedProportion, PairedResamples
from .verdict import Decision, Gate

LEVEL = 0.95
RESAMPLES = 2000
OUTCOMES = ("both right", "only A", "only B", "both wrong")
NO_CATEGORY = "(none)"


@dataclass(frozen=True)
class MetricRow:
    """One measure on both runs. The interval is on B - A at 95 %; None where there is nothing to measure."""

    field: str
    kind: str
    metric: str
    label: str
    unit: str
    better: int
    a: float | None
    b: float | None
    difference: float | None
    interval: tuple[float | None, float | None]
    method: str  # "score" (Tango) or "bootstrap"
    rows: int  # rows judged; for errors over parsed rows, the smaller of the two sides' counts
    only_a: int | None  # for a share: rows only A has (right, or failed), rows only B has
    only_b: int | None
    p_value: float | None  # exact McNemar


@dataclass(frozen=True)
class PartedRow:
    """A product on which the runs part, with its one cause."""

    id: str
    cause: str
    detail: str
    position: int | None
    margin: float | None
    outcome: str
    category: str | None
    severity: float


@dataclass(frozen=True)
class Side:
    """One run's part in a comparison."""

    label: str
    path: str
    manifest: dict[str, Any]
    rows: int
    only: list[str]  # ids the other run lacks
    duplicates: list[tuple[str, bool]]  # (id, whether both say the same)
    finished: bool
    seconds: float
    rows_per_second: float | None
    statuses: dict[str, dict[str, int]]  # field -> parse status -> rows
    confusion: dict[str, dict[str, dict[str, int]]]  # category field -> true -> predicted -> rows


@dataclass
class Comparison:
    """Everything the report, the page and `--json` say. All shares are 0 to 1, all differences B - A."""

    decision: Decision
    a: Side
    b: Side
    joined: int
    differences: list[Difference]
    notes: list[str]
    metrics: list[MetricRow]
    both_parsed: list[MetricRow]
    by_category: dict[str, list[MetricRow]]
    agreement: dict[str, tuple[int, int]]  # what -> (rows alike, rows that can tell)
    outcomes: dict[str, int]
    inputs: dict[str, tuple[int, int]]  # stage -> (rows that differ, rows that can tell)
    cause_counts: dict[str, int]
    parted: list[PartedRow]  # worst first
    noise: Noise
    floors: list[Floor]
    near_tie: float
    seed: int
    resamples: int
    one_sided: bool
    trace: dict[str, Any] | None = None
    data: Joined = field(repr=False, kw_only=True)

    @property
    def verdict(self) -> str:
        """EQUIVALENT, DIFFERENT or INCONCLUSIVE; against a baseline NO WORSE, WORSE or INCONCLUSIVE."""
        return self.decision.verdict

    @property
    def reasons(self) -> list[str]:
        """One sentence for each gated measure."""
        return self.decision.reasons

    @property
    def gates(self) -> list[Gate]:
        """The measures the verdict rests on."""
        return self.decision.gates

    @property
    def exit_status(self) -> int:
        """0, 1 or 3: see the module's docstring."""
        return verdict.EXIT_STATUS[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: everything but the columns. NaN and infinity become null."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "data"}
        return _plain({"schema": 1, "verdict": self.verdict, "exit_status": self.exit_status, **values})


@dataclass(frozen=True)
class Joined:
    """Both runs with their columns aligned: row i of `fields_a` and `fields_b` is product `join.ids[i]`."""

    run_a: Run
    run_b: Run
    columns_a: Columns
    columns_b: Columns
    join: Join
    fields_a: dict[str, FieldColumn]
    fields_b: dict[str, FieldColumn]
    right_a: Bools
    right_b: Bools
    category: list[str | None]

    def rows(self, i: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Both runs' full rows of joined product i, read from disk."""
        return (
            self.run_a.read(int(self.columns_a.offsets[self.join.a[i]])),
            self.run_b.read(int(self.columns_b.offsets[self.join.b[i]])),
        )

    def outcome(self, i: int) -> str:
        """Which side is right on joined product i."""
        return OUTCOMES[(0 if self.right_b[i] else 1) if self.right_a[i] else (2 if self.right_b[i] else 3)]


def compare_runs(
    run_a: Run,
    run_b: Run,
    *,
    margins: Mapping[str, float] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    allow: Collection[str] = (),
    near_tie: float | None = None,
    floor: Sequence[Run] = (),
    one_sided: bool = False,
) -> Comparison:
    """Compare two runs product by product.

    Args:
        margins: metric name -> margin as a share (0.02 is two points), over the defaults; see `verdict.gated_metrics`.
        allow: names of differences between the runs that do not refuse the comparison.
        near_tie: widest margin in nats called a near-tie; by dtype where None.
        floor: the reference (A) run again, for the noise floor.
        one_sided: B against a baseline A: only a loss of B counts.
    Raises UserError where the runs were not asked the same, share no row, or a line is broken.
    """
    gated = verdict.gated_metrics(run_a.task, margins)
    columns_a, columns_b = read_columns(run_a), read_columns(run_b)
    joined = join(columns_a, columns_b)
    differences = manifest_differences(run_a.manifest, run_b.manifest) + row_differences(columns_a, columns_b, joined)
    check_comparable(run_a, run_b, differences, joined, allow)
    data = _align(run_a, run_b, columns_a, columns_b, joined)
    everything = np.arange(len(joined.ids))
    rows, paired = _measure(data, everything, seed=seed, resamples=resamples)
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
    nats = causes.near_tie_nats(run_a.manifest, run_b.manifest) if near_tie is None else near_tie
    parted = _explain_rows(data, nats)
    gap = measure_noise(columns_a, columns_b, joined)
    return Comparison(
        decision=verdict.decide(gates, one_sided=one_sided),
        a=_side(run_a, columns_a, joined.only_a),
        b=_side(run_b, columns_b, joined.only_b),
        joined=len(joined.ids),
        differences=differences,
        notes=_notes(run_a, run_b, columns_a, columns_b, joined),
        metrics=rows,
        both_parsed=_measure_both_parsed(data, seed=seed, resamples=resamples),
        by_category=_measure_by_category(data, seed=seed, resamples=resamples),
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


def _align(run_a: Run, run_b: Run, columns_a: Columns, columns_b: Columns, joined: Join) -> Joined:
    names = [name for name in columns_a.fields if name in columns_b.fields]
    fields_a = {name: columns_a.fields[name].take(joined.a) for name in names}
    fields_b = {name: columns_b.fields[name].take(joined.b) for name in names}
    group = first_category(run_a.task)
    category = list(fields_a[group].true) if group in fields_a else [None] * len(joined.ids)
    return Joined(
        run_a, run_b, columns_a, columns_b, joined, fields_a, fields_b, _all_right(fields_a), _all_right(fields_b), category
    )


def _all_right(fields: Mapping[str, FieldColumn]) -> Bools:
    """Rows on which every category and price is right; of a task that has neither, every text."""
    judged = [item for item in fields.values() if item.kind != "text"] or list(fields.values())
    return np.all([metrics.right(item) | ~item.has_truth for item in judged], axis=0)


def _pair(metric: Metric, a: FieldColumn, b: FieldColumn, samples: Any, sides: list[statistics.Statistic]) -> PairedDifference:
    if metric.form == "proportion":
        left, right = sides
        assert isinstance(left, statistics.Mean) and isinstance(right, statistics.Mean)
        mask = left.mask & right.mask
        x, y = left.values[mask] > 0, right.values[mask] > 0
        return PairedProportion(int((x & ~y).sum()), int((~x & y).sum()), int(mask.sum()))
    identical = bool(np.array_equal(a.status, b.status)) and _same_values(a, b)
    rows = int((a.has_truth & b.has_truth).sum())
    return PairedResamples(sides[1].point() - sides[0].point(), samples, rows, identical, metric.bounded)


def _same_values(a: FieldColumn, b: FieldColumn) -> bool:
    if a.kind == "number":
        return bool(np.array_equal(a.predicted, b.predicted, equal_nan=True))
    return bool(np.array_equal(a.predicted, b.predicted))


def _measure(
    data: Joined, rows: Ints, *, seed: int, resamples: int, only: str | None = None
) -> tuple[list[MetricRow], dict[tuple[str, str], PairedDifference]]:
    """Every measure of every field (or of field `only`) on these joined rows."""
    fields = {
        name: (column.take(rows), data.fields_b[name].take(rows))
        for name, column in data.fields_a.items()
        if only in (None, name)
    }
    wanted = [(name, metric) for name, (a, _) in fields.items() for metric in METRICS[a.kind]]
    sides = [metrics.paired_statistics(metric, list(fields[name])) for name, metric in wanted]
    drawn = [i for i, (_, metric) in enumerate(wanted) if metric.form != "proportion"]
    flat = [side for i in drawn for side in sides[i]]
    samples = statistics.bootstrap(flat, len(rows), seed=seed, resamples=resamples) if flat else np.zeros((resamples, 0))
    found: list[MetricRow] = []
    paired: dict[tuple[str, str], PairedDifference] = {}
    for i, (name, metric) in enumerate(wanted):
        gaps = None
        if i in drawn:
            column = 2 * drawn.index(i)
            gaps = samples[:, column + 1] - samples[:, column]
        difference = _pair(metric, *fields[name], gaps, sides[i])
        paired[name, metric.name] = difference
        found.append(_metric_row(name, metric, fields[name][0].kind, difference, sides[i]))
    return found, paired


def _metric_row(
    name: str, metric: Metric, kind: str, difference: PairedDifference, sides: list[statistics.Statistic]
) -> MetricRow:
    interval: Interval = difference.interval(statistics.normal_quantile(LEVEL)) if difference.n else (math.nan, math.nan)
    share = difference if isinstance(difference, PairedProportion) else None
    counts = [int(side.mask.sum()) if not isinstance(side, statistics.MacroF1) else int(difference.n) for side in sides]
    return MetricRow(
        field=name,
        kind=kind,
        metric=metric.name,
        label=metric.label,
        unit=metric.unit,
        better=metric.better,
        a=metrics.finite(sides[0].point()),
        b=metrics.finite(sides[1].point()),
        difference=metrics.finite(difference.estimate),
        interval=(metrics.finite(interval[0]), metrics.finite(interval[1])),
        method=difference.method,
        rows=min(counts),
        only_a=int(share.only_a) if share else None,
        only_b=int(share.only_b) if share else None,
        p_value=difference.p_value() if difference.n else None,
    )


def _measure_both_parsed(data: Joined, *, seed: int, resamples: int) -> list[MetricRow]:
    """Each field's measures over the rows whose answers both parsed in that field."""
    found: list[MetricRow] = []
    for name, column in data.fields_a.items():
        rows = np.flatnonzero(column.parsed & data.fields_b[name].parsed)
        found += [
            row for row in _measure(data, rows, seed=seed, resamples=resamples, only=name)[0] if row.metric != "parse_failures"
        ]
    return found


def _measure_by_category(data: Joined, *, seed: int, resamples: int) -> dict[str, list[MetricRow]]:
    """Every measure within each true category, the largest first."""
    if all(value is None for value in data.category):
        return {}
    names = np.array([NO_CATEGORY if value is None else value for value in data.category], dtype=object)
    sizes = Counter(names.tolist())
    return {
        name: _measure(data, np.flatnonzero(names == name), seed=seed, resamples=resamples)[0]
        for name, _ in sizes.most_common()
    }


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
    found = []
    for i in np.flatnonzero(parted).tolist():
        parting = causes.explain(*data.rows(i), near_tie=near_tie, sampled=sampled)
        found.append(
            PartedRow(
                id=data.join.ids[i],
                cause=parting.cause,
                detail=parting.detail,
                position=parting.position,
                margin=parting.margin,
                outcome=data.outcome(i),
                category=data.category[i],
                severity=_severity(data, i),
            )
        )
    return sorted(found, key=lambda row: (-row.severity, -(row.margin or 0.0), row.id))


def _severity(data: Joined, i: int) -> float:
    """How much the two readings differ in score: fields right on one side only, then how far prices lie apart."""
    total = 0.0
    for name, a in data.fields_a.items():
        b = data.fields_b[name]
        one = slice(i, i + 1)
        if a.kind == "text":
            total += abs(float(a.ratio[i] - b.ratio[i]))
        elif a.kind == "category":
            total += float(a.predicted[i] != b.predicted[i]) + float(
                metrics.right(_cut(a, one))[0] != metrics.right(_cut(b, one))[0]
            )
        else:
            x, y = float(a.predicted[i]), float(b.predicted[i])
            if math.isnan(x) != math.isnan(y):
                total += 2
            elif x > 0 and y > 0:
                total += min(2.0, abs(math.log(x / y)))
    return total


def _cut(column: FieldColumn, rows: slice) -> FieldColumn:
    return column.take(np.arange(rows.start, rows.stop))


def _count_causes(parted: list[PartedRow]) -> dict[str, int]:
    counts = Counter(row.cause for row in parted)
    return {cause: counts[cause] for cause in causes.CAUSES if counts[cause]}


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


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and numpy scalars as JSON; NaN and infinity as null."""
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
