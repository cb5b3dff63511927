"""The settings of an import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from data.ingest.reading.options import Quoting, Reading
from mlx_phi3v.cli import option
from mlx_phi3v.documents import shown
from mlx_phi3v.errors import UserError
from mlx_phi3v.ranges import MAX_ROWS


@dataclass(frozen=True)
class ImportConfig:
    """Settings of an import."""

    input: Path = option(help="predictions as a table (.csv, .tsv, .jsonl, .xlsx, .parquet), or the sample log of a harness")
    data: Path | None = option(None, help="the catalogue of the predictions; none for the log of a harness")
    output: Path | None = option(None, help="the run folder to write", writes="new")
    split: str = option("test", help="the catalogue's split")
    id: str = option("id", help="column with the row's id")
    text: str | None = option(None, help="column with the whole answer")
    fields: tuple[str, ...] = option((), help="FIELD=COLUMN pairs, where each field has its own column")
    label: str | None = option(None, help="what to call the run (default: the input's name)")
    partial: bool = option(False, help="accept rows of the split without a prediction")
    encoding: str | None = option(None, help="encoding of a CSV file; found in its bytes if not given")
    delimiter: str | None = option(None, help="column delimiter of a CSV file; found in its rows if not given")
    quoting: str | None = option(
        None,
        choices=("rfc", "backslash", "none"),
        help="quotes of a CSV file: doubled (rfc), escaped by a backslash, or text (none); found in its rows if not given",
    )
    header_line: int | None = option(
        None, at_least=1, at_most=MAX_ROWS, help="line or row of a table, from 1, that names the columns; found if not given"
    )
    sheet: str | None = option(None, help="sheet of a workbook; the one with most cells if not given")
    score: tuple[str, ...] = option((), help="of a harness' log: the scores to take (default: all from 0 to 1)")

    @property
    def reading(self) -> Reading:
        """How the table is read."""
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"'):
            raise UserError(f"--delimiter is {shown(self.delimiter)}; it must be one character, such as ; or a tab")
        return Reading(self.encoding, self.delimiter, cast("Quoting | None", self.quoting), self.header_line, self.sheet)
