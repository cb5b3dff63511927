"""The report as one self-contained page of a few MB at most: it loads nothing, whatever the number of rows.

Answers come from models and are not trusted: Jinja escapes every value, and a content security policy lets only
the page's own script run, by its hash.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from mlx_phi3v.files import write_text
from mlx_phi3v.page_policy import csp_hash

from ...compare.compare_sets import SetComparison
from ...compare.comparison import Comparison
from ...compare.paired_measures import PairedMeasure
from .. import phrases, place_phrases
from .charts import confusion_grids, forest_scale, interval_bar, scatters
from .losses import draw_losses
from .place_charts import category_scale, change_grids, draw_reliability, forest_bar, pair_scatters
from .rows import pick_rows

_FOLDER = Path(__file__).parent
_CATEGORIES = 60
_VALUE = 300  # characters of one manifest value shown


def write_page(path: Path | str, comparison: Comparison, *, worst: int = 100, sampled: int = 100, seed: int = 0) -> None:
    """Write the comparison as one HTML file, whole or not at all.

    Args:
        worst, sampled: how many of the worst rows, and of a sample over all outcomes, are shown with text and
            thumbnail. The others are counted.
        seed: of that sample and of the points drawn.
    """
    write_text(path, render(comparison, worst=worst, sampled=sampled, seed=seed))


def render(comparison: Comparison, *, worst: int, sampled: int, seed: int) -> str:
    """The page's text; see `write_page`."""
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    rows = pick_rows(comparison, worst=worst, sampled=sampled, seed=seed)
    return fill(
        "page.html",
        comparison,
        script=script,
        script_hash=csp_hash(script),
        scatters=scatters(comparison, seed=seed),
        **_places(comparison, [row.id for row in rows], seed),
        confusions=confusion_grids(comparison),
        curves=draw_losses(comparison.trainings) if comparison.trainings else "",
        categories=list(comparison.by_category.items())[:_CATEGORIES],
        most=max(comparison.cause_counts.values(), default=1),
        rows=rows,
        row_categories=sorted({row.category for row in rows}),
        row_causes=[cause for cause in (*comparison.cause_counts, "same answer") if any(row.cause == cause for row in rows)],
        manifest=manifest_rows(comparison),
    )


def fill(template: str, comparison: Comparison | SetComparison, **values: Any) -> str:
    """A template of this folder, with what every page shows of a comparison and these values beside it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    scale = forest_scale(comparison.metrics)
    return environment.get_template(template).render(
        c=comparison,
        phrases=phrases,
        style=style,
        style_hash=csp_hash(style),
        gates={(gate.field, gate.metric): gate for gate in comparison.gates},
        by_field=by_field,
        bar=lambda row, gate=None: interval_bar(row, scale, gate),
        **values,
    )


def _places(comparison: Comparison, shown: Sequence[str], seed: int) -> dict[str, Any]:
    """What the template shows of where the runs err."""
    places = comparison.error_places
    scale = category_scale(places.categories)
    calibrations = place_phrases.by_field(places.calibration)
    return {
        "places": place_phrases,
        "pairs": pair_scatters(comparison, seed=seed),
        "forest": [
            (item, forest_bar(item, scale)) for item in places.categories[: _CATEGORIES * max(1, len(comparison.gates))]
        ],
        "changes": change_grids(places.confusion, shown),
        "curves_of": [(name, items, draw_reliability(items)) for name, items in calibrations.items()],
    }


def by_field(rows: Sequence[PairedMeasure]) -> list[tuple[str, list[PairedMeasure]]]:
    """Measures grouped by field, in the task's order."""
    return [(name, list(group)) for name, group in itertools.groupby(rows, key=lambda row: row.field)]


def manifest_rows(comparison: Comparison) -> list[tuple[str, str, str, bool]]:
    """Both manifests: (key, A, B, whether they differ), those that differ first."""
    a, b = dict(_leaves("", comparison.a.manifest)), dict(_leaves("", comparison.b.manifest))
    rows = [(key, a.get(key, "–"), b.get(key, "–"), a.get(key) != b.get(key)) for key in {**a, **b}]
    return sorted(rows, key=lambda row: not row[3])


def _leaves(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _leaves(f"{name}.{key}" if name else str(key), item)]
    text = str(value)
    return [(name, text if len(text) <= _VALUE else text[:_VALUE] + "…")]
