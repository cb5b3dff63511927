"""How many rows of a catalogue are longer than a model or a run allows, exactly, of all rows."""

from __future__ import annotations

import numpy as np

from mlx_phi3v.batches import ExampleMaker
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.config import ModelArgs
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.training.long_rows import at_most
from mlx_phi3v.training.row_lengths import measure_rows

from .figures import LongRows


def count_long_rows(
    catalogue: Catalogue, prompts: PromptProcessor, config: ModelArgs, num_crops: int, limit: int, as_json: bool = False
) -> LongRows | None:
    """The rows that take more than `limit` tokens with their answer at `num_crops`; None where none can.

    Raises UserError where the prompt does not fit a row's photos.
    """
    over: dict[str, int] = {}
    longest, longest_row = 0, ""
    maker = ExampleMaker(prompts, config, catalogue.task, num_crops, limit)
    for name, entry in catalogue.info["splits"].items():
        split = catalogue.split(name) if entry["rows"] else None
        if split is None or at_most(split, maker) <= limit:
            continue
        tokens = measure_rows(split, maker, as_json=as_json).lengths(num_crops, config.vision).tokens
        over[name] = int((tokens > limit).sum())
        if tokens.max() > longest:
            longest, longest_row = int(tokens.max()), str(split[int(np.argmax(tokens))]["id"])
    return LongRows(num_crops, limit, over, longest, longest_row) if sum(over.values()) else None
