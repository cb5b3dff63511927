"""A run whose answers are parsed again by this version's code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_phi3v.progress import note
from mlx_phi3v.text import csv_cell

from .made_from import KEY, is_made, made_from, said
from .prediction import Prediction, parsed_again
from .run import Run
from .writer import RunWriter

if TYPE_CHECKING:
    import pandas as pd


class RescoredRun(Run):
    """A run whose answers are parsed again as its rows are streamed. `changed` counts those with another result."""

    changed = 0

    def numbered(self) -> Iterator[tuple[int, int, Prediction]]:
        """As `Run.numbered`, each row's fields parsed again from its text."""
        self.changed = 0
        for number, offset, row in super().numbered():
            again = parsed_again(row, self.task)
            self.changed += again != row.predicted
            yield number, offset, replace(row, predicted=again)


def table(run: RescoredRun) -> pd.DataFrame:
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
