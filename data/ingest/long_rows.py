"""How many rows of a new catalogue are longer than a model, or a given limit, allows."""

from __future__ import annotations

from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.config import load_model_config
from mlx_phi3v.prompts import PromptProcessor

from ..describe.figures import LongRows
from ..describe.long_rows import count_long_rows
from .ingest_config import IngestConfig


class LongRowCounter:
    """Counts with the tokenizer, the number of crops and, without --max-length, the limit of a model.

    Raises UserError where the folder holds no model.
    """

    def __init__(self, settings: IngestConfig) -> None:
        assert settings.model is not None
        self.output = settings.output
        self.prompts = PromptProcessor(settings.model)
        self.config = load_model_config(settings.model)
        self.limit = settings.max_length or self.config.max_position_embeddings
        self.as_json = settings.json

    def count(self) -> LongRows | None:
        """The rows of the finished catalogue that are too long; None where none is."""
        return count_long_rows(
            Catalogue(self.output), self.prompts, self.config, self.config.num_crops, self.limit, self.as_json
        )

    def line(self, found: LongRows | None) -> str:
        """A line of the summary."""
        if found is None:
            return f"no row takes more than {self.limit:,} tokens at {self.config.num_crops} crops"
        return (
            f"warning: {sum(found.over.values()):,} rows take more than {self.limit:,} tokens at {found.num_crops} crops (the "
            f"longest, row {found.longest_row}, takes {found.longest:,}); train refuses them, --skip-long leaves them out"
        )
