"""Score a finished run again, without a model: read every answer anew, measure every field.

    python -m eval.score RUN                         print the measures
    python -m eval.score RUN --output RUN2           also write the run with its answers read anew
    python -m eval.score RUN --baseline FILE.jsonl   also keep it as a baseline for eval.compare --baseline

RUN is a folder written by eval.predict, eval.import_run or eval.merge.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from mlx_phi3v.cli import option, parse
from mlx_phi3v.errors import run_cli
from mlx_phi3v.progress import stages

from .compare.compare_runs import RESAMPLES
from .compare.score_run import score_run
from .report import terminal
from .runs.prediction import predicted_values
from .runs.run import Run
from .runs.writer import RunWriter, write_baseline


@dataclass(frozen=True)
class ScoreConfig:
    """Settings of a scoring."""

    run: Path = option(help="run folder", positional=True)
    output: Path | None = option(None, help="write the run, its answers read anew, to this folder")
    baseline: Path | None = option(None, help="keep the run as a baseline in this one file")
    json: bool = option(False, help="print the scores as JSON instead of the report")
    seed: int = option(0, help="seed of the bootstrap")
    resamples: int = option(RESAMPLES, help="bootstrap resamples")


def read_again(row: dict[str, Any], run: Run) -> dict[str, Any]:
    """The row with its answer read by this version's task; a row that kept no text stays as it is."""
    if row.get("text") is None:
        return row
    return {**row, "predicted": predicted_values(run.task, row["text"], truncated=row.get("finish") not in (None, "end"))}


class Reread(Run):
    """A run whose answers are read anew as its rows are streamed; counts those that read otherwise than stored."""

    changed = 0

    def stream(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """As `Run.stream`, each row's fields read again from its text."""
        self.changed = 0
        for offset, row in super().stream():
            again = read_again(row, self)
            self.changed += again["predicted"] != row["predicted"]
            yield offset, again


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    config = parse(ScoreConfig, "python -m eval.score", __doc__ or "", argv)
    run = Reread.load(config.run)
    with stages() as say:
        say(f"scoring {run.label}")
        scores = score_run(run, seed=config.seed, resamples=config.resamples)
        scores["read_differently"] = run.changed
        if config.output:
            say(f"writing {config.output}")
            _write_run(run, config.output)
        if config.baseline:
            write_baseline(run, config.baseline)
    if config.json:
        print(json.dumps(scores, ensure_ascii=False, indent=2))
    else:
        terminal.print_scores(Console(highlight=False), scores)
    return 0


def _write_run(run: Reread, output: Path) -> None:
    with RunWriter.open(output, run.manifest, resume=False) as writer:
        for _, row in run.stream():
            writer.write(row)
        writer.finish(seconds=float(run.manifest.get("seconds") or 0.0))


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
