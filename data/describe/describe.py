"""What to look at before training on a catalogue, as plain figures.

Counts, categories, prices and duplicates are of all rows; photo sizes, faults and tokens are of a seeded sample. Memory:
the sample, and 32 bytes a row for prices and duplicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.config import VisionArgs
from mlx_phi3v.errors import UserError

from .all_rows import AllRows
from .figures import Description, histogram, quantiles
from .long_rows import count_long_rows
from .sampled_rows import contact_sheet, draw_rows, fault_figures, look_at_rows, open_model, preview, token_figures

_SHOWN_PROBLEMS = 20


def describe(
    catalogue: Catalogue, *, model: Path | None = None, num_crops: Sequence[int] = (1, 4, 16), max_length: int | None = None,
    sample: int = 1000, pictures: int = 48, previews: int = 3, seed: int = 0, as_json: bool = False,
) -> Description:  # fmt: skip
    """Look at a catalogue. With the folder of a `model` its tokenizer counts the text and shows the labels.

    Raises UserError for a catalogue or model that cannot be read.
    """
    task, info = catalogue.task, catalogue.info
    every = AllRows(catalogue, as_json)
    chosen = draw_rows(catalogue, every.rows, sample, seed)
    prompts, config = open_model(model)
    vision = config.vision if config else VisionArgs()
    limit = max_length or (config.max_position_embeddings if config else None)
    rows = list(look_at_rows(chosen, task, prompts, as_json))
    sizes = [size for row in rows for size in row.sizes]
    if not sizes and (problem := next((row.problem for row in rows if row.problem), None)):
        raise UserError(f"no photo looked at in {catalogue.folder} can be opened ({problem}); make the catalogue again")
    crops = config.num_crops if config else num_crops[0]
    return Description(
        folder=str(catalogue.folder), name=str(info.get("name", "")), fingerprint=catalogue.fingerprint, task=task,
        rows=every.rows, counts=info.get("counts", {}), products=info.get("products", {}),
        fields=every.figures(), duplicates=every.duplicates(),
        sampled=len(rows),
        widths=histogram([width for width, _ in sizes]), heights=histogram([height for _, height in sizes]),
        sides=quantiles([min(size) for size in sizes]),
        unreadable=tuple(row.problem for row in rows if row.problem)[:_SHOWN_PROBLEMS],
        tokens=tuple(token_figures(crops, rows, vision, limit) for crops in num_crops) if rows else (),
        with_text=prompts is not None, limit=limit,
        previews=tuple(preview(row, task, prompts, vision, crops) for row in rows[:previews]) if prompts else (),
        sheet=tuple(contact_sheet(rows, task, pictures)),
        faults=fault_figures(rows, task),
        long_rows=count_long_rows(catalogue, prompts, config, crops, limit, as_json) if prompts and config and limit else None,
    )  # fmt: skip
