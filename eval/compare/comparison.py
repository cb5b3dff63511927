"""A comparison of two runs: all figures of a report, and their JSON form."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .absent_rows import AbsentRows
from .claims import Claim, claim_of_runs
from .comparable import RunDifference
from .cross_scores import CrossScores
from .diverged_rows import DivergedRow, count_all_causes, count_causes
from .error_places import ErrorPlaces, find_error_places
from .guards import Guard
from .judged import JSON_KEYS, Judged, plain
from .noise import Floor, LogitNoise, Noise, measure_noise
from .notes import make_notes
from .paired_measures import PairedMeasure
from .paired_runs import PairedRuns
from .products import Products
from .run_summary import RunSummary, summarize_run
from .simple_predictors import SimpleCheck
from .trainings import Trainings, compare_trainings
from .verdict import Decision
from .wording import first_line

# What `--json` holds after schema, verdict and exit_status.
_REPORTED = (
    "decision", "a", "b", "joined", "differences", "notes", "metrics", "both_parsed", "by_category", "agreement", "outcomes",
    "inputs", "cause_counts", "diverged", "noise", "floors", "near_tie", "seed", "resamples", "one_sided", "trace",
    "first_line", "remarks", "guards", "guards_count", "simple", "absent",
    "logit_noise", "all_cause_counts", "trainings", "products", "claim", "error_places",
)  # fmt: skip


@dataclass
class Comparison(Judged):
    """All that the report, the page and `--json` show. Shares are 0 to 1, differences B - A."""

    decision: Decision
    differences: list[RunDifference]
    metrics: list[PairedMeasure]
    both_parsed: list[PairedMeasure]
    by_category: dict[str, list[PairedMeasure]]
    diverged: list[DivergedRow]  # worst first
    floors: list[Floor]
    near_tie: float  # nats: the widest near-tie by the dtype or the user; `logit_noise` has what these runs allow
    logit_noise: LogitNoise
    seed: int
    resamples: int
    one_sided: bool
    remarks: list[str]  # what is said before the verdict's reasons
    guards: list[Guard]  # the raised ones first
    simple: list[SimpleCheck]
    absent: AbsentRows
    guards_count: bool = True  # whether a raised guard keeps the exit status from being 0
    trace: list[CrossScores] | None = None
    data: PairedRuns = field(repr=False, kw_only=True)

    @property
    def first_line(self) -> str:
        """The verdict and what stands beside it, in one line."""
        return first_line(self.verdict, self.gates, self.raised, self.shortfalls, self.claim.scope)

    @cached_property
    def claim(self) -> Claim:
        """What was tested."""
        runs = self.data.run_a, self.data.run_b
        return claim_of_runs(*runs, self.differences, self.logit_noise, self.floors, self.cause_counts)

    @cached_property
    def a(self) -> RunSummary:
        """The first run."""
        return summarize_run(self.data.run_a, self.data.columns_a, self.data.join.only_a)

    @cached_property
    def b(self) -> RunSummary:
        """The second run."""
        return summarize_run(self.data.run_b, self.data.columns_b, self.data.join.only_b)

    @property
    def joined(self) -> int:
        """Rows that both runs have."""
        return len(self.data.join.ids)

    @property
    def products(self) -> Products:
        """Which rows count as one."""
        return self.data.products

    @cached_property
    def notes(self) -> list[str]:
        """What a reader must know before trusting the figures."""
        return make_notes(self.data)

    @cached_property
    def agreement(self) -> dict[str, tuple[int, int]]:
        """Of text, tokens and parsed fields: (equal rows, rows where both are recorded)."""
        return self.data.agreement()

    @cached_property
    def outcomes(self) -> dict[str, int]:
        """Outcome -> rows."""
        return self.data.outcome_counts()

    @cached_property
    def inputs(self) -> dict[str, tuple[int, int]]:
        """Of each input stage: (rows that differ, rows where both are recorded)."""
        return self.data.differing_inputs()

    @cached_property
    def cause_counts(self) -> dict[str, int]:
        """Rows of each cause."""
        return count_causes(self.diverged)

    @cached_property
    def all_cause_counts(self) -> dict[str, int]:
        """Rows of which each cause is one."""
        return count_all_causes(self.diverged)

    @cached_property
    def trainings(self) -> Trainings | None:
        """Both runs' trainings, where their folders are here."""
        return compare_trainings(self.data.run_a, self.data.run_b)

    @cached_property
    def error_places(self) -> ErrorPlaces:
        """In which prices and categories the runs err, and how sure they were."""
        return find_error_places(self.data, self.gates, seed=self.seed, resamples=self.resamples)

    @cached_property
    def noise(self) -> Noise:
        """How far apart the two runs' log-probabilities are."""
        return measure_noise(self.data.columns_a, self.data.columns_b, self.data.join)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: everything but the columns. NaN and infinity become null."""
        values = {JSON_KEYS.get(name, name): getattr(self, name) for name in _REPORTED}
        whole = {"schema": 1, "verdict": self.verdict, "exit_status": self.exit_status, **values}
        return {key: plain(value) for key, value in whole.items()}
