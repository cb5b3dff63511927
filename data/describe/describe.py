"""What a careful person looks at before training on a catalogue, as plain figures.

Counts, categories, prices and duplicates are of all rows; picture sizes and tokens are of a seeded sample. Memory: the
sample, and 24 bytes a row for prices and duplicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlx_phi3v.catalogue import Catalogue

from .figures import Description, histogram, quantiles
from .look import _default_vision, _look, _open_model, _preview, _sample, _sheet, _token_figures
from .scan import _Scan


def describe(
    catalogue: Catalogue,
    *,
    model: Path | None = None,
    num_crops: Sequence[int] = (1, 4, 16),
    max_length: int | None = None,
    sample: int = 1000,
    pictures: int = 48,
    previews: int = 3,
    seed: int = 0,
    as_json: bool = False,
) -> Description:
    """Look at a catalogue. With the folder of a `model` its tokenizer counts the text and shows the labels.

    Raises UserError for a catalogue or model that cannot be read.
    """
    scan = _Scan(catalogue, as_json)
    chosen = _sample(catalogue, scan.rows, sample, seed)
    prompts, config = _open_model(model)
    vision = config.vision if config else _default_vision()
    limit = max_length or (config.max_position_embeddings if config else None)
    looks = list(_look(chosen, catalogue.task, prompts, as_json))
    sizes = [size for look in looks for size in look.sizes]
    tokens = tuple(_token_figures(crops, looks, vision, limit) for crops in num_crops) if looks else ()
    crops = config.num_crops if config else num_crops[0]
    return Description(
        folder=str(catalogue.folder),
        name=str(catalogue.info.get("name", "")),
        fingerprint=catalogue.fingerprint,
        task=catalogue.task,
        rows=scan.rows,
        counts=catalogue.info.get("counts", {}),
        products=catalogue.info.get("products", {}),
        fields=scan.figures(),
        duplicates=scan.duplicates(),
        sampled=len(looks),
        widths=histogram([width for width, _ in sizes]),
        heights=histogram([height for _, height in sizes]),
        sides=quantiles([min(size) for size in sizes]),
        unreadable=tuple(look.fault for look in looks if look.fault)[:20],
        tokens=tokens,
        with_text=prompts is not None,
        limit=limit,
        previews=tuple(_preview(look, catalogue.task, prompts, vision, crops) for look in looks[:previews]) if prompts else (),
        sheet=tuple(_sheet(looks, catalogue.task, pictures)),
    )
