"""The first records of a CSV file: what separates its cells is found in them."""

from __future__ import annotations

import io
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..row import RowError
from .csv_dialect import QUOTED, AmbiguousError, Dialect
from .csv_records import Lines, shape_of
from .header import find_header
from .options import Quoting

_DELIMITERS = ",;\t|"
_MOST_RECORDS = 2000
_LEAST_QUOTED = 0.9  # of the lines

Score = tuple[float, float, int]


@dataclass(frozen=True)
class Sample:
    """The first records of a file: (first line, last line, cells), without those that are broken.

    score: whether the header has the width that most records have, the share of those that have it, that width.
    quoting: the way in which they were read.
    """

    delimiter: str
    records: list[tuple[int, int, list[Any]]]
    score: Score
    quoting: Quoting = "rfc"


def take_sample(text: str, delimiter: str, *, cut: bool = False, quoting: Quoting | None = None) -> Sample:
    """The records of a piece of a file, read in the way that makes most of them alike.

    cut: the file goes on behind the piece, which may end inside a record. quoting: the one way to read it.
    """
    ways: list[Quoting] = ["rfc"]
    ways += ["spaced"] if re.search(rf'{re.escape(delimiter)} +"', text) else []
    ways += ["backslash"] if '\\"' in text or "\\N" in text else []
    ways += ["none"] if '"' in text else []
    best: Sample | None = None
    for way in ways if quoting is None else [quoting]:
        sample = _in_one_way(text, Dialect(delimiter, way), cut)
        if way == "none" and best is not None and _has_quoted(sample):
            continue
        if best is None or sample.score > best.score:
            best = sample
        if way == "rfc" and sample.score[:2] == (1.0, 1.0) and "spaced" not in ways:
            break
    assert best is not None
    if quoting is None and _in_single_quotes(text, delimiter):
        single = _in_one_way(text, Dialect(delimiter, "single"), cut)
        best = single if single.score >= best.score else best
    return best


def _in_single_quotes(text: str, delimiter: str) -> bool:
    """Whether most lines have a cell in single quotes, and none has one in double quotes."""
    lines = text.splitlines()[:_MOST_RECORDS]
    if text.count("'") < len(lines):
        return False
    mark = re.escape(delimiter)
    found = [sum(re.search(rf"(?:^|{mark}) ?{cell}\s*(?:{mark}|$)", line) is not None for line in lines)
             for cell in ("'(?:[^']|'')*'", '"(?:[^"]|"")*"')]  # fmt: skip
    return len(lines) > 1 and found[0] >= max(2, _LEAST_QUOTED * (len(lines) - 1)) and not found[1]


def _has_quoted(sample: Sample) -> bool:
    return any(QUOTED.fullmatch(cell) for _, _, cells in sample.records for cell in cells)


def _in_one_way(text: str, dialect: Dialect, cut: bool) -> Sample:
    lines = Lines(io.StringIO(text, newline=""))
    found: list[tuple[int, int, list[Any]]] = []
    widths = []
    for first, cells in itertools.islice(dialect.records_of(lines, None, mend=False), _MOST_RECORDS):
        if isinstance(cells, RowError):
            if cut and lines.has_ended:
                break
            widths.append(0)
            continue
        found.append((first, lines.number, cells))
        if any(cell and cell.strip() for cell in cells):
            widths.append(len(cells))
    return Sample(dialect.delimiter, found, _score(widths), dialect.quoting)


def find_delimiter(text: str, *, first: str | None = None, cut: bool = False, quoting: Quoting | None = None) -> Sample:
    """The sample with the delimiter that cuts its rows alike, and the header too; `first` where it cuts the header.

    Raises AmbiguousError where two do.
    """
    samples = [take_sample(text, mark, cut=cut, quoting=quoting) for mark in _DELIMITERS]
    for sample in samples:
        if sample.delimiter == first and sample.records and len(sample.records[0][2]) > 1:
            return sample
    samples = [sample for sample in samples if sample.score[0] != 0.5 or _has_title(sample)] or samples[:1]
    best = max(samples, key=lambda sample: sample.score)
    if best.score[1] <= 0:
        header = max(samples, key=lambda sample: len(sample.records[0][2]) if sample.records else 0)
        return header
    for sample in samples:
        if sample is not best and sample.score == best.score:
            raise AmbiguousError(f"its columns may be separated by {best.delimiter!r} or by {sample.delimiter!r}", "delimiter")
    return best


def _has_title(sample: Sample) -> bool:
    """Whether a header that is narrower than the rows is none, but a title above a table with numbers or photos."""
    rows = [cells for _, _, cells in sample.records]
    if len(rows[0]) > 1:
        return True  # rows are short
    place = find_header(rows) or 0
    return place > 0 and bool(shape_of(rows[place + 1 :], sample.score[2], sample.delimiter).typed)


def _score(widths: Sequence[int]) -> Score:
    if not widths:
        return 0.0, 0.0, 0
    usual, count = max(Counter(widths[1:] or widths).items(), key=lambda item: (item[1], item[0]))
    if usual < 2:
        return 0.0, 0.0, usual
    # Above the header there may be a title, but a delimiter that the first row lacks is more often part of the text.
    head = 1.0 if widths[0] == usual else 0.5 if usual in widths[:3] else 0.0
    return head, round(count / max(1, len(widths) - 1), 3), usual
