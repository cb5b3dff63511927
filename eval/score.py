"""Score a finished run again, without a model: parse every answer again, measure every field.

    python -m eval.score RUN                         print the measures
    python -m eval.score RUN --output RUN2           also write the run, its answers parsed again
    python -m eval.score RUN --baseline FILE.jsonl   also save it as a baseline for eval.compare --baseline
    python -m eval.score RUN --csv FILE.csv          also write its rows as a table

RUN is a folder written by eval.predict, eval.import_run or eval.merge.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mlx_phi3v.cli import option, parse
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.files import atomic_path
from mlx_phi3v.outputs import is_own_file
from mlx_phi3v.progress import note, stages
from mlx_phi3v.ranges import MAX_RESAMPLES, MAX_SEED
from mlx_phi3v.task import Task
from mlx_phi3v.text import csv_cell

from .compare.compare_runs import RESAMPLES
from .compare.score_run import score_run
from .report import terminal
from .runs.made_from import KEY, is_made, made_from, said
from .runs.prediction import Prediction
from .runs.run import Run
from .runs.writer import RunWriter, write_baseline

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ScoreConfig:
    """Settings of a scoring."""

    run: Path = option(help="run folder", positional=True)
    output: Path | None = option(None, help="write the run, its answers parsed again, to this folder", writes="new")
    baseline: Path | None = option(None, help="save the run as a baseline in this one file", writes="baseline")
    csv: Path | None = option(
        None, help="write true values, predicted values and parse statuses as CSV, one line a row", writes="csv"
    )
    json: bool = option(False, help="print the scores as JSON instead of the report")
    seed: int = option(0, help="seed of the bootstrap", at_least=0, at_most=MAX_SEED)
    resamples: int = option(RESAMPLES, help="bootstrap resamples", at_least=1, at_most=MAX_RESAMPLES)


def reparse(row: Prediction, task: Task) -> Prediction:
    """The row with its answer parsed by this version's code; without its text, or scored elsewhere, it stays as it is."""
    if row.text is None or any(item.kind == "score" for item in task.fields):
        return row
    return replace(row, predicted=task.parse(row.text, truncated=row.finish not in (None, "end")))


class RescoredRun(Run):
    """A run whose answers are parsed again as its rows are streamed. `changed` counts those with another result."""

    changed = 0

    def numbered(self) -> Iterator[tuple[int, int, Prediction]]:
        """As `Run.numbered`, each row's fields parsed again from its text."""
        self.changed = 0
        for number, offset, row in super().numbered():
            again = reparse(row, self.task)
            self.changed += again.predicted != row.predicted
            yield number, offset, again


def check_outputs(config: ScoreConfig) -> None:
    """Raises UserError where one output would take another's place, or that of RUN."""
    chosen = {"RUN": config.run, "--output": config.output, "--baseline": config.baseline, "--csv": config.csv}
    seen: dict[Path, str] = {}
    for flag, path in chosen.items():
        if path is None:
            continue
        place = path.resolve()
        if place in seen:
            raise UserError(f"{flag} is {path}, and so is {seen[place]}; give each its own")
        seen[place] = flag
        if config.output and place.parent == config.output.resolve() and is_own_file(place):
            raise UserError(f"{flag} is {path}, a file that --output writes; choose another name")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    config = parse(ScoreConfig, "python -m eval.score", __doc__ or "", argv)
    check_outputs(config)
    run = RescoredRun.load(config.run)
    with stages() as say:
        say(f"scoring {run.label}")
        scores = score_run(run, seed=config.seed, resamples=config.resamples)
        scores["read_differently"] = run.changed
        if config.output:
            say(f"writing {config.output}")
            write_scored(run, config.output)
        if config.baseline:
            write_baseline(run, config.baseline)
        if config.csv:
            with atomic_path(config.csv) as temporary:
                _table(run).to_csv(temporary, index=False)
    if config.json:
        print(json.dumps(scores, indent=2))
    else:
        terminal.print_scores(Console(highlight=False), scores)
    return 0


def _table(run: RescoredRun) -> pd.DataFrame:
    """The run's rows, with a quote before text that a spreadsheet would run."""
    table = run.to_pandas()
    for name in table.select_dtypes(exclude="number").columns:
        table[name] = [csv_cell(value) for value in table[name]]
    return table


def write_scored(run: RescoredRun, output: Path) -> None:
    """Write the run, its answers parsed again, to a new folder; one that was made from the same run stays as it is.

    Raises UserError where a row repeats, naming its line. `output` appears whole or not at all.
    """
    entry = made_from("eval.score", [run.path])
    if is_made(output, entry):
        note(said(output))
        return
    with RunWriter.create(output, {**run.manifest, KEY: entry}) as writer:
        for row in run.distinct():
            writer.write(row)
        writer.finish(seconds=float(run.manifest.get("seconds") or 0.0), complete=run.finished)


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
