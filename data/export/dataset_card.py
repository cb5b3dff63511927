"""The card of an exported catalogue: fields, rows, splits, fingerprint and licence, as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mlx_phi3v import __version__
from mlx_phi3v.hub.markdown import block, code, number, table, text
from mlx_phi3v.task import Task, is_missing

from .export_record import ExportRecord

# The sizes of data sets that the hub has names for.
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_WORDS = {"id": "the row's name, unique in its split", "images": "photos, as they were stored"}


class Counted:
    """Counts rows, photos and missing values as they are written."""

    def __init__(self) -> None:
        self.rows, self.photos, self.missing = Counter[str](), Counter[str](), Counter[str]()

    def add(self, split: str, row: Mapping[str, Any]) -> None:
        """Count one row."""
        self.rows[split] += 1
        self.photos[split] += len(row["images"])
        self.missing.update(name for name, value in row.items() if name != "images" and is_missing(value))


def dataset_card(task: Task, record: ExportRecord, columns: Mapping[str, str], counted: Counted) -> str:
    """The card as Markdown with YAML in front. columns: name -> type."""
    lines = [
        f"# {text(record.name)}",
        "",
        f"A catalogue of products with photos, exported by mlx-phi3v {__version__}: {number(counted.rows.total())} rows, "
        f"{number(counted.photos.total())} photos. A photo of several rows is counted in each.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'rows = load_dataset("OWNER/NAME")  # or this folder',
        "```",
        "",
        "`mlx_phi3v.ingest OWNER/NAME --output FOLDER` makes the same catalogue of it again, with the fingerprint below.",
        "",
        "## Splits",
        "",
        *table(
            ["split", "rows", "photos"], ([text(s), number(counted.rows[s]), number(counted.photos[s])] for s in record.splits)
        ),
        "## Columns",
        "",
        *_columns(task, columns, counted),
        "## The question and its answer",
        "",
        *block(task.prompt),
        "",
        *block(task.template),
        "",
        "## Where it comes from",
        "",
        *table(["", ""], [["fingerprint of the catalogue", code(text(record.fingerprint))]]),
        "## Licence",
        "",
        text(record.license) if record.license else "Unknown: who exported it did not say. The photos may belong to others.",
        "",
    ]
    return f"---\n{_head(record, counted)}\n---\n\n" + "\n".join(lines)


def _columns(task: Task, columns: Mapping[str, str], counted: Counted) -> list[str]:
    fields = {item.name: item for item in task.fields}
    rows = []
    for name, kind in columns.items():
        item = fields.get(name)
        currency = f", {text(item.currency)}" if item and item.currency else ""
        use = f"field: {item.kind}{currency}" if item else _WORDS.get(name, "")
        shown = "list of photos" if name == "images" else text(kind)
        rows.append([text(name), shown, use, number(counted.missing[name]) if name != "images" else ""])
    return table(["column", "type", "use", "missing"], rows)


def _head(record: ExportRecord, counted: Counted) -> str:
    from huggingface_hub import DatasetCardData

    rows = counted.rows.total()
    files = [{"split": name, "path": split.files} for name, split in record.splits.items()]
    data = DatasetCardData(
        license=record.license,
        pretty_name=record.name,
        task_categories=["image-text-to-text"],
        tags=["mlx-phi3v", "products"],
        size_categories=[next((name for most, name in _SIZES if rows < most), "n>10M")],
        configs=[{"config_name": "default", "data_files": files}],
    )
    found: str = data.to_yaml(line_break="\n")
    return found
