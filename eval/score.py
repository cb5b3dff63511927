"""Score a finished run again, without a model: read every answer anew, measure every field.

python -m eval.score RUN                         print the measures
python -m eval.score RUN --output RUN2           also write the run with its answers read anew
python -m eval.score RUN --baseline FILE.jsonl   also keep it as a baseline for eval.compare --baseline
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mlx_phi3v.cli import add_arguments, build, option
from mlx_phi3v.errors import run_cli

from .compare.__main__ import progress
from .compare.compare_runs import RESAMPLES
from .compare.score_run import score_run
from .report import terminal
from .runs.prediction import predicted_values
from .runs.run import Run
from .runs.writer import RunWriter, write_baseline


@dataclass(frozen=True)
class ScoreSettings:
    """Flags of `python -m eval.score`."""

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
    parser = argparse.ArgumentParser(
        prog="python -m eval.score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    add_arguments(parser, ScoreSettings)
    flags = vars(parser.parse_args(argv))
    run = Reread.load(flags.pop("run"))
    settings = build(ScoreSettings, flags, "the flags")
    with progress() as say:
        say(f"scoring {run.label}")
        scores = score_run(run, seed=settings.seed, resamples=settings.resamples)
        scores["read_differently"] = run.changed
        if settings.output:
            say(f"writing {settings.output}")
            _write_run(run, settings.output)
        if settings.baseline:
            write_baseline(run, settings.baseline)
    if settings.json:
        print(json.dumps(scores, ensure_ascii=False, indent=2))
    else:
        terminal.print_scores(Console(highlight=False), scores)
    return 0


def _write_run(run: Reread, output: Path) -> None:
    with RunWriter.open(output, run.manifest, resume=False) as writer:
        for _, row in run.stream():
            writer.write(row)
        writer.finish(seconds=float(run.manifest.get("seconds") or 0.0))


if __name__ == "__main__":
    run_cli(main)
