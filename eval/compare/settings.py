"""The settings of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_phi3v.cli import option
from mlx_phi3v.errors import UserError
from mlx_phi3v.loggers.choice import LOGGERS
from mlx_phi3v.ranges import MAX_RESAMPLES, MAX_ROWS, MAX_SEED

RESAMPLES = 2000  # of a bootstrap: two digits of an interval


@dataclass(frozen=True)
class CompareConfig:
    """Settings of a comparison."""

    runs: tuple[Path, ...] = option(
        (), help="run folders written by eval.predict or eval.import_run", positional=True, metavar="RUN"
    )
    a: tuple[Path, ...] = option(
        (), help="instead of RUN: several trainings of one kind, to compare ways to train", metavar="RUN"
    )
    b: tuple[Path, ...] = option((), help="the trainings to compare with those of --a, best of the same seeds", metavar="RUN")
    margin_category: float | None = option(
        2.0, help="points of category accuracy by which equal runs may differ", at_least=0, at_most=100
    )
    margin_price: float | None = option(
        2.0, help="points of price within 10 % by which equal runs may differ", at_least=0, at_most=100
    )
    margin_title: float | None = option(
        None, help="points of title ratio by which equal runs may differ (default: not judged)", at_least=0, at_most=100
    )
    margin_score: float | None = option(
        2.0, help="points of a harness' score by which equal runs may differ", at_least=0, at_most=100
    )
    margin_parse: float | None = option(
        None,
        help="points of answers not parsed by which equal runs may differ (default: not judged)",
        at_least=0,
        at_most=100,
    )
    allow: tuple[str, ...] = option((), help="differences between the runs to accept, by the name in the error message")
    baseline: Path | None = option(None, help="a baseline (eval.score RUN --baseline FILE) to compare one run with")
    one_sided: bool = option(False, help="only a loss of RUN_B counts: NO WORSE, WORSE or INCONCLUSIVE")
    guards: str = option(
        "on",
        help="whether a measure that is not judged but got worse keeps the exit status from being 0",
        choices=("on", "off"),
    )
    cluster: str | None = option(
        None, help="what rows of one product share: a field or a column of the catalogue, or none (default: the product that "
        "data.ingest found)",
    )  # fmt: skip
    floor: tuple[Path, ...] = option((), help="other runs of the reference (RUN_A), for the noise floor")
    reference: Path | None = option(None, help="of a table: the run to compare the others with (default: the first)")
    trace: bool = option(False, help="report each run's tokens scored under the other's model")
    near_tie: float | None = option(
        None, help="widest margin called a near-tie, in nats (default: 0.01 in fp32, else 0.25)", at_least=0
    )
    report_to: tuple[str, ...] = option(
        (), help=f"also show the verdict there, in the run of the training: {', '.join(LOGGERS)}, several with commas"
    )
    report_run: Path | None = option(
        None, help="output folder of that training (default: of RUN_B's adapter, else RUN_A's); alone, wherever it is reported"
    )
    html: Path | None = option(None, help="write the whole report as one self-contained page", writes="html")
    json: bool = option(False, help="print the whole report as JSON instead of tables")
    rows: int = option(10, help="how many of the worst rows the terminal lists", at_least=0, at_most=MAX_ROWS)
    seed: int = option(0, help="seed of the bootstrap", at_least=0, at_most=MAX_SEED)
    resamples: int = option(RESAMPLES, help="bootstrap resamples", at_least=1, at_most=MAX_RESAMPLES)

    @property
    def margins(self) -> dict[str, float | None]:
        """Metric name -> margin as a share; None takes a measure out of the verdict."""
        points = {"accuracy": self.margin_category, "within_10": self.margin_price, "score": self.margin_score}
        more = {"ratio": self.margin_title, "parse_failures": self.margin_parse}
        points |= {name: value for name, value in more.items() if value is not None}
        return {name: None if value is None else value / 100 for name, value in points.items()}


def check_runs(config: CompareConfig) -> None:
    """Raise UserError where the runs do not fit the flags."""
    if config.a or config.b:
        _check_sets(config)
    elif config.baseline and len(config.runs) != 1:
        raise UserError("--baseline takes exactly one RUN; see --help")
    elif not config.baseline and len(config.runs) < 2:
        raise UserError("give two runs to compare, or one and --baseline FILE; see --help")
    elif len(config.runs) > 2 and (config.html or config.floor or config.trace or config.report_to or config.report_run):
        raise UserError("--html, --floor, --trace, --report-to and --report-run are for two runs; see --help")
    elif len(config.runs) > 2 and (config.near_tie is not None or config.guards == "off"):
        raise UserError("--near-tie and --guards off are for two runs: a table tells no causes and exits 0; see --help")
    elif len(config.runs) <= 2 and config.reference:
        raise UserError("--reference is for a table of three runs or more; with two, the first is the reference")


def _check_sets(config: CompareConfig) -> None:
    """Raise UserError for flags of two runs."""
    if not (config.a and config.b):
        raise UserError("give the trainings of both sides: --a RUN... --b RUN...; see --help")
    if config.runs:
        raise UserError(f"{config.runs[0]} is on neither side; give every run after --a or --b")
    if config.baseline or config.floor or config.trace or config.reference or config.near_tie is not None:
        raise UserError("--baseline, --floor, --trace, --reference and --near-tie are for single runs, not for --a and --b")
