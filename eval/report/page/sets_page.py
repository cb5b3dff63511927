"""The report on two ways to train as one self-contained page; see `eval.report.page`."""

from __future__ import annotations

from pathlib import Path

import jinja2

from mlx_phi3v.files import write_text

from ...compare.compare_sets import SetComparison
from .. import phrases, sets_phrases
from . import by_field, csp_hash
from .charts import forest_scale, interval_bar

_FOLDER = Path(__file__).parent


def write_sets_page(path: Path | str, found: SetComparison) -> None:
    """Write the comparison as one HTML file, whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    scale = forest_scale(found.metrics)
    text = environment.get_template("sets.html").render(
        c=found,
        phrases=phrases,
        sets_phrases=sets_phrases,
        style=style,
        style_hash=csp_hash(style),
        by_field=by_field,
        gates={(gate.field, gate.metric): gate for gate in found.gates},
        bar=lambda row, gate=None: interval_bar(row, scale, gate),
    )
    write_text(path, text)
