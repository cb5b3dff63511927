"""The summary of an ingest, for `catalogue.json` and for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_phi3v.catalogue import SPLITS

from .notes import value_lines
from .shared_photos import shared_photos_line

_RARE = 5
MISSING = "paths of photos start from the table's folder; --image-root names another folder, or a URL"


def category_report(counts: Counter[str]) -> dict[str, Any]:
    """The entry of one category field in `catalogue.json`; `counts` are the rows of each value, "" for none."""
    named = Counter({name: count for name, count in counts.items() if name})
    folded: dict[str, list[str]] = {}
    for name in sorted(named):
        folded.setdefault(name.casefold(), []).append(name)
    return {
        "distinct": len(named),
        "missing": counts.get("", 0),
        "largest": dict(named.most_common(20)),
        "rare": {name: count for name, count in sorted(named.items()) if count < _RARE},
        "differ_only_in_case": [names for names in folded.values() if len(names) > 1],
    }


def summary(info: Mapping[str, Any], output: Path) -> str:
    """The summary of a run for the terminal, in a few lines."""
    splits = ", ".join(f"{name} {entry['rows']}" for name, entry in info["splits"].items())
    if "counts" not in info:  # of an exported catalogue, whose rows are taken as they are
        return f"{output}: {sum(entry['rows'] for entry in info['splits'].values())} rows as they were exported; {splits}"
    counts, products = info["counts"], info["products"]
    lines = [
        f"{output}: {counts['kept']} of {counts['read']} rows kept, {counts['pictures']} photos; {splits}",
        f"{products['rows_held_together']} rows joined with others into {products['products']} products "
        f"(links by {', '.join(f'{cause}: {count}' for cause, count in products['joined_by'].items())})",
    ]
    if counts["rejected"]:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in counts["rejected"].items())
        lines.append(f"rejected, see rejected.csv: {reasons}")
    if counts["rejected"].get("too_few_pictures"):
        lines.append("too_few_pictures: --photos rows makes a row of each photo, --photos first takes the first of each row")
    if counts["rejected"].get("picture_missing"):
        lines.append(f"picture_missing: {MISSING}")
    if line := shared_photos_line(info["shared_photos"]):
        lines.append(line)
    if counts["pictures_left_out"]:
        lines.append(f"{counts['pictures_left_out']} further photos of rows were left out: the prompt does not show them")
    lines += value_lines(info.get("values", {}), counts["kept"])
    if products["leaking_products"]:
        lines.append(f"warning: {products['leaking_products']} products are in several of the source's own splits")
    for name, report in info["categories"].items():
        if report["rare"]:
            lines.append(f"{name}: {report['distinct']} categories, {len(report['rare'])} with fewer than {_RARE} rows")
    if not any(name in info["splits"] for name in SPLITS[1:]):
        lines.append("warning: there is only a train split; the source has too few products for another")
    return "\n".join(lines)
