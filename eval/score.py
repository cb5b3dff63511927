"""Score a finished run again, without a model: parse every answer again, measure every field.

    python -m eval.score RUN                         print the measures
    python -m eval.score RUN --output RUN2           also write the run, its answers parsed again
    python -m eval.score RUN --baseline FILE.jsonl   also save it as a baseline for eval.compare --baseline
    python -m eval.score RUN --csv FILE.csv          also write its rows as a table

RUN is a folder written by eval.predict, eval.import_run or eval.merge.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlx_phi3v.cli import option, parse
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.outputs import is_own_file
from mlx_phi3v.progress import stages
from mlx_phi3v.ranges import MAX_RESAMPLES, MAX_SEED

from .compare.settings import RESAMPLES


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
    from rich.console import Console

    from mlx_phi3v.files import atomic_path

    from .compare.score_run import score_run  # with all that measures: --help and a wrong flag need none of it
    from .report import terminal
    from .runs.rescored import RescoredRun, table, write_scored
    from .runs.writer import write_baseline

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
                table(run).to_csv(temporary, index=False)
    if config.json:
        print(json.dumps(scores, indent=2))
    else:
        terminal.print_scores(Console(highlight=False), scores)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
