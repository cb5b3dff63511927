"""The report on two ways to train as one self-contained page; see `eval.report.page`."""

from __future__ import annotations

from pathlib import Path

from mlx_phi3v.files import write_text

from ...compare.compare_sets import SetComparison
from .. import sets_phrases
from . import fill


def write_sets_page(path: Path | str, found: SetComparison) -> None:
    """Write the comparison as one HTML file, whole or not at all."""
    write_text(path, fill("sets.html", found, sets_phrases=sets_phrases))
