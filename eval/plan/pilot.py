"""The rates of a pilot: two finished runs on a few rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_phi3v.errors import UserError
from mlx_phi3v.progress import note

from ..compare.comparable import check_allowed
from ..compare.compare_runs import compare_runs
from ..compare.statistics import EffectiveProportion, PairedProportion
from ..runs.run import Run
from .power import Measure


@dataclass(frozen=True)
class Pilot:
    """What two runs showed. seen: the differences found, which a few rows know badly; the measures have none."""

    measures: list[Measure]
    seen: list[float]
    rows: int
    one_adapter: bool  # whether both runs are of one adapter: a pilot of the same computation
    size: float = 1.0  # rows of one product
    correlation: float = 1.0  # of the differences of one product's rows


def read_pilot(runs: Sequence[Path], allow: Collection[str], margin: float | None) -> Pilot:
    """Compare two runs. A discordance of k rows out of n is taken as (k + 1) / (n + 2): few rows may miss what is rare.

    Rows that either lacks are reported. margin: a share, by default that of each measure. Raises UserError where the runs must
    not be compared, and for a measure that is no share.
    """
    a, b = (Run.load(path) for path in runs)
    check_allowed(allow, [a, b])
    comparison = compare_runs(a, b, allow=allow, resamples=1, breakdown=False)
    absent = comparison.absent
    for run, other, rows in ((a, b, absent.only_b), (b, a, absent.only_a)):
        if rows:
            note(f"{run.path} lacks {rows:,} rows of {other.path}, which the pilot leaves out; predict it again")
    if absent.both:
        note(f"both runs lack {absent.both:,} rows of the split, which the pilot leaves out")
    measures, seen, size, correlation = [], [], 1.0, 0.0
    for gate in comparison.gates:
        evidence = gate.evidence
        if not isinstance(evidence, (PairedProportion, EffectiveProportion)) or not evidence.n:
            raise UserError(f"{gate.field} {gate.label} cannot be planned from a pilot; give --discordance")
        rate = (evidence.only_a + evidence.only_b + 1) / (evidence.n + 2)
        measures.append(Measure(f"{gate.field} {gate.label}", rate, gate.margin if margin is None else margin))
        seen.append(evidence.estimate)
        if isinstance(evidence, EffectiveProportion) and evidence.spread.clusters < evidence.n:
            size = max(size, evidence.n / evidence.spread.clusters)
            correlation = max(correlation, _correlation(evidence))
    hashes = [run.manifest.get("hashes", {}).get("adapter") for run in (a, b)]
    same = hashes[0] is not None and hashes[0] == hashes[1]
    return Pilot(measures, seen, comparison.joined, same, size, correlation if size > 1 else 1.0)


def _correlation(evidence: EffectiveProportion) -> float:
    """Of the rows of one product, from the design effect; 1 where no row is discordant."""
    per_row = (evidence.only_a + evidence.only_b) / evidence.n - evidence.estimate**2
    if per_row <= 0:
        return 1.0
    effect = evidence.spread.rows * evidence.n / per_row
    return min(1.0, max(0.0, (effect - 1) / (evidence.n / evidence.spread.clusters - 1)))
