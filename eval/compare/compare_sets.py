"""Two ways to train compared: several trainings a side, with products and seeds as sources of variation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..runs.run import Run
from . import verdict
from .absent_rows import AbsentRows, count_absent_of_sets
from .claims import Claim, claim_of_trainings
from .guards import Guard
from .judged import Judged, plain
from .metrics import Metric
from .paired_measures import PairedMeasure
from .power import PerTraining, rows_to_decide
from .products import Products
from .set_guards import stand_guard_of_sets
from .set_measures import SeedSpread, measure_sets, seed_spread, set_difference
from .simple_predictors import SimpleCheck, check_value, shortfalls, simple_column
from .statistics import EffectiveMean, EffectiveProportion
from .training_sets import Side, TrainingSets, load_sets
from .verdict import Decision, Gate
from .wording import first_line

_MOST_TRAININGS = 1000  # more are not asked for

# What `--json` holds after schema, verdict and exit_status.
_REPORTED = (
    "claim", "first_line", "remarks", "decision", "a", "b", "paired", "joined", "spreads", "settle", "metrics", "guards",
    "guards_count", "simple", "absent", "products", "differences", "settings", "seed", "resamples", "one_sided",
)  # fmt: skip


@dataclass(frozen=True)
class Settle:
    """What would settle an open verdict with 80 % power, beyond what is at hand: more rows alone, more trainings a side
    alone, or both at once. None: no number would."""

    rows: int | None
    trainings: int | None
    both: tuple[int, int] | None  # (rows, trainings a side)


@dataclass
class SetComparison(Judged):
    """All that a report on two ways to train shows. Shares are 0 to 1, differences B - A."""

    decision: Decision
    sets: TrainingSets = field(repr=False)
    spreads: list[SeedSpread]
    settle: Settle | None
    metrics: list[PairedMeasure]
    guards: list[Guard]
    simple: list[SimpleCheck]
    absent: AbsentRows
    remarks: list[str]
    seed: int
    resamples: int
    one_sided: bool
    guards_count: bool = True

    @property
    def claim(self) -> Claim:
        """What was tested."""
        a, b = self.sets.sides
        seeds = [item.seed for item in a.trainings if item.seed is not None] if self.paired else None
        return claim_of_trainings(len(a.trainings), len(b.trainings), seeds)

    @property
    def first_line(self) -> str:
        """The verdict and what stands beside it, in one line."""
        return first_line(self.verdict, self.gates, self.raised, self.shortfalls, self.claim.scope)

    @property
    def a(self) -> Side:
        """The first side."""
        return self.sets.a

    @property
    def b(self) -> Side:
        """The second side."""
        return self.sets.b

    @property
    def paired(self) -> bool:
        """Whether training k of both sides has the same seed."""
        return self.sets.paired

    @property
    def joined(self) -> int:
        """Rows that all runs have."""
        return len(self.sets.ids)

    @property
    def products(self) -> Products:
        """Which rows count as one."""
        return self.sets.products

    @property
    def differences(self) -> list[str]:
        """In what the sides differ, as their manifests have it."""
        return [str(item) for item in self.sets.differences]

    @property
    def settings(self) -> list[tuple[str, object, object]]:
        """Settings in which the trainings of both sides differ: (name, A, B)."""
        return self.sets.settings

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values. NaN and infinity become null."""
        values = {name: getattr(self, name) for name in _REPORTED}
        return {key: plain(value) for key, value in {"schema": 1, **self._head(), **values}.items()}

    def _head(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "exit_status": self.exit_status}


def compare_sets(
    runs_a: Sequence[Run], runs_b: Sequence[Run], *, margins: Mapping[str, float | None] | None = None, seed: int = 0,
    resamples: int = 2000, allow: Collection[str] = (), one_sided: bool = False, guards: bool = True,
    cluster: str | None = None, say: Callable[[str], None] = lambda stage: None,
) -> SetComparison:  # fmt: skip
    """Compare several trainings a side; arguments as of `compare_runs`.

    Raises UserError where the runs of a side are not trainings of one kind, or any two runs must not be compared.
    """
    gated = verdict.gated_metrics(runs_a[0].task, margins)
    sets = load_sets(runs_a, runs_b, allow=allow, cluster=cluster, say=say)
    say("judging")
    absent, simple = count_absent_of_sets(sets, allow), _check_simple(sets, gated)
    gates, spreads = [], []
    for name, metric, margin in gated:
        if name in sets.fields:
            found = set_difference(metric, sets.a.column(name), sets.b.column(name), sets.clusters, paired=sets.paired)
            gates.append(
                verdict.judge(name, metric, margin, found, gates=len(gated), absent=absent.counted, one_sided=one_sided)
            )
            spreads.append(seed_spread(name, metric, sets, found))
    decision = verdict.decide(gates, one_sided=one_sided)
    if shortfalls(simple, as_good=decision.verdict in ("EQUIVALENT", "NO WORSE")):
        decision = replace(decision, verdict="NOT MEANINGFUL", more_rows=None)
    settle = _settle(decision, one_sided) if decision.verdict == "INCONCLUSIVE" else None
    say("measuring all rows")
    return SetComparison(
        decision, sets, spreads, settle, measure_sets(sets, seed=seed, resamples=resamples),
        stand_guard_of_sets(sets, gated, one_sided=one_sided), simple, absent, list(_remarks(sets, absent)), seed, resamples,
        one_sided, guards,
    )  # fmt: skip


def _check_simple(sets: TrainingSets, gated: Sequence[tuple[str, Metric, float]]) -> list[SimpleCheck]:
    """Both sides against the simple predictors, on every deciding measure of which more is better."""
    found = []
    for side in sets.sides:
        for name, metric, margin in gated:
            if name in sets.fields and metric.better > 0 and sets.fields[name].has_truth.any():
                columns = side.column(name)
                simple = simple_column(columns[0], sets.category, sets.products.clusters)
                gain = set_difference(metric, [simple] * len(columns), columns, sets.clusters, paired=True)
                found.append(check_value(side.name, name, metric, margin, simple, gain))
    return found


def _settle(decision: Decision, one_sided: bool) -> Settle:
    """How many more rows, or trainings, would decide."""
    if any(not gate.rows for gate in decision.gates):
        return Settle(None, None, None)
    trainings = _more_trainings(decision.gates, one_sided, rows_too=False)
    more, both = _more_trainings(decision.gates, one_sided, rows_too=True), None
    if more is not None:
        rows = max(gate.rows for gate in decision.gates)
        both = round(rows * more / _evidence(decision.gates[0]).spread.trainings), more
    return Settle(decision.more_rows, trainings, both)


def _evidence(gate: Gate) -> EffectiveProportion | EffectiveMean:
    assert isinstance(gate.evidence, (EffectiveProportion, EffectiveMean))
    return gate.evidence


def _more_trainings(gates: Sequence[Gate], one_sided: bool, *, rows_too: bool) -> int | None:
    scaled = [PerTraining(_evidence(gate), rows_too) for gate in gates]
    better = [gate.better if one_sided else 0 for gate in gates]
    totals = rows_to_decide(scaled, [gate.margin for gate in gates], better)
    wanted = [total for total in totals if total is not None and total <= _MOST_TRAININGS]
    return max(1, min(wanted) - int(scaled[0].n)) if wanted else None


def _remarks(sets: TrainingSets, absent: AbsentRows) -> Iterator[str]:
    """What a reader must know before the verdict."""
    a, b = ({item.adapter for item in side.trainings} - {None} for side in sets.sides)
    if a & b:
        yield f"both sides hold the same {'adapters' if a == b else 'adapter'}: that compares computations, not trainings"
    seeds = [[item.seed for item in side.trainings] for side in sets.sides]
    if not sets.paired:
        known = all(seed is not None for side in seeds for seed in side)
        listed = " and ".join(", ".join(map(str, side)) for side in seeds)
        why = f"their seeds are not the same ({listed})" if known else "not all of their seeds are recorded"
        yield f"the trainings are not paired: {why}"
    if not sets.known_settings:
        yield "not all runs record the settings of their training: whether a side differs in its seed alone is not checked"
    for side in sets.sides:
        unfinished = [item.label for item in side.trainings if not item.finished]
        if unfinished:
            yield f"{side.name}: {', '.join(unfinished)} is unfinished; resume it with eval.predict before you trust this"
        alike = _alike(side)
        if alike:
            yield f"{side.name}: {alike[0]} and {alike[1]} give the same answer to every row; is one a copy of the other?"
    yield from sets.of_rows
    yield from absent.sentences()


def _alike(side: Side) -> tuple[str, str] | None:
    """Two trainings of a side whose parsed answers are all equal."""
    seen: dict[int, str] = {}
    for item, fields in zip(side.trainings, side.fields):
        values = (column.predicted.tolist() for column in fields.values())
        answers = hash(tuple(None if value != value else value for column in values for value in column))  # NaN: no number
        if answers in seen:
            return seen[answers], item.label
        seen[answers] = item.label
    return None
