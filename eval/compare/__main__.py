"""Compare two finished runs: the verdict, every measure with its interval, and why answers diverge.

    python -m eval.compare RUN_A RUN_B                            two runs
    python -m eval.compare RUN_A RUN_B --one-sided                only a loss of RUN_B counts
    python -m eval.compare RUN --baseline baseline.jsonl          a regression gate: only a loss counts
    python -m eval.compare RUN_A RUN_B RUN_C --reference RUN_A    a table over any number of runs
    python -m eval.compare --a RUN... --b RUN...                  two ways to train: several trainings a side

Two runs of one adapter show whether two backends compute the same; two runs of two adapters speak of these adapters only.
Whether one way to train is as good as another takes trainings with several seeds on both sides.

It needs neither torch nor mlx. Exit status: 0 EQUIVALENT or NO WORSE, 1 WORSE or BETTER by more than a margin, or a guard
is raised (a measure that is not judged got worse; --guards off), 3 INCONCLUSIVE, 4 NOT MEANINGFUL (a run does not beat a
simple predictor), 2 wrong usage or runs that must not be compared. A table exits 0.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from mlx_phi3v.cli import option, parse
from mlx_phi3v.errors import UserError, run_cli, shown
from mlx_phi3v.loggers.choice import LOGGERS
from mlx_phi3v.progress import stages
from mlx_phi3v.ranges import MAX_RESAMPLES, MAX_ROWS, MAX_SEED

from ..report import page, sets_terminal, terminal
from ..report.page import sets_page
from ..report.training_run import find_reported
from ..runs.run import Run
from . import cross_scores, run_table
from .comparable import check_allowed
from .compare_runs import RESAMPLES, compare_runs
from .compare_sets import compare_sets
from .comparison import Comparison
from .training_sets import allowed_names

__all__ = ["Comparison", "compare_runs", "main"]


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


def read_config(argv: Sequence[str] | None) -> CompareConfig:
    """The config. Raises UserError where the runs do not fit the flags."""
    config = parse(CompareConfig, "python -m eval.compare", __doc__ or "", argv)
    if config.a or config.b:
        return _of_sets(config)
    if config.baseline and len(config.runs) != 1:
        raise UserError("--baseline takes exactly one RUN; see --help")
    if not config.baseline and len(config.runs) < 2:
        raise UserError("give two runs to compare, or one and --baseline FILE; see --help")
    if len(config.runs) > 2 and (config.html or config.floor or config.trace or config.report_to or config.report_run):
        raise UserError("--html, --floor, --trace, --report-to and --report-run are for two runs; see --help")
    if len(config.runs) <= 2 and config.reference:
        raise UserError("--reference is for a table of three runs or more; with two, the first is the reference")
    return config


def _of_sets(config: CompareConfig) -> CompareConfig:
    """The config of a comparison of two ways to train. Raises UserError for flags of two runs."""
    if not (config.a and config.b):
        raise UserError("give the trainings of both sides: --a RUN... --b RUN...; see --help")
    if config.runs:
        raise UserError(f"{config.runs[0]} is on neither side; give every run after --a or --b")
    if config.baseline or config.floor or config.trace or config.reference or config.near_tie is not None:
        raise UserError("--baseline, --floor, --trace, --reference and --near-tie are for single runs, not for --a and --b")
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Exit status 1 means WORSE or BETTER here, so every error leaves with 2."""
    try:
        return _run(read_config(argv))
    except UserError as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
    return 2


def _run(config: CompareConfig) -> int:
    console = Console(highlight=False)
    if config.a:
        return _sets(console, config)
    if len(config.runs) > 2:
        return _table(console, config)
    runs = [Run.load(path) for path in ([config.baseline] if config.baseline else []) + list(config.runs)]
    check_allowed(config.allow, runs)
    reported = find_reported(config.report_to, config.report_run, runs)
    with stages() as say:
        comparison = compare_runs(
            *runs,
            margins=config.margins,
            seed=config.seed,
            resamples=config.resamples,
            allow=config.allow,
            near_tie=config.near_tie,
            floor=[Run.load(path) for path in config.floor],
            one_sided=config.one_sided or config.baseline is not None,
            guards=config.guards == "on",
            cluster=config.cluster,
            say=say,
        )
        if config.trace:
            say("reading the traces")
            comparison.trace = cross_scores.cross_score(comparison.data)
        if config.html:
            say("drawing the page")
            page.write_page(config.html, comparison)

    def show(console: Console) -> None:
        terminal.print_comparison(console, comparison, rows=config.rows)

    _write(console, config, comparison.to_dict(), show)
    if reported:
        reported.add(comparison, show, config.html, as_json=config.json)
    return comparison.exit_status


def _sets(console: Console, config: CompareConfig) -> int:
    """Compare two ways to train."""
    runs_a, runs_b = ([Run.load(path) for path in paths] for paths in (config.a, config.b))
    check_allowed(config.allow, [*runs_a, *runs_b], allowed_names(runs_a, runs_b))
    reported = find_reported(config.report_to, config.report_run, [])
    with stages() as say:
        found = compare_sets(
            runs_a,
            runs_b,
            margins=config.margins,
            seed=config.seed,
            resamples=config.resamples,
            allow=config.allow,
            one_sided=config.one_sided,
            guards=config.guards == "on",
            cluster=config.cluster,
            say=say,
        )
        if config.html:
            say("drawing the page")
            sets_page.write_sets_page(config.html, found)

    def show(console: Console) -> None:
        sets_terminal.print_sets(console, found)

    _write(console, config, found.to_dict(), show)
    if reported:
        reported.add(found, show, config.html, as_json=config.json)
    return found.exit_status


def _table(console: Console, config: CompareConfig) -> int:
    runs = [Run.load(path) for path in config.runs]
    reference = Run.load(config.reference) if config.reference else runs[0]
    check_allowed(config.allow, [reference, *runs])
    with stages() as say:
        found = run_table.tabulate(
            runs,
            reference,
            margins=config.margins,
            allow=config.allow,
            seed=config.seed,
            resamples=config.resamples,
            cluster=config.cluster,
            say=say,
        )
    _write(console, config, found.to_dict(), lambda console: terminal.print_rows(console, found))
    return 0


def _write(console: Console, config: CompareConfig, value: object, show: Callable[[Console], None]) -> None:
    if config.json:
        print(json.dumps(value, indent=2))
        return
    show(console)
    if config.html:
        console.print(f"wrote {config.html}", markup=False, style="dim", soft_wrap=True)


console = partial(run_cli, main, mistake=2)

if __name__ == "__main__":
    console()
