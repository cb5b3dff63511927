"""Long prompts in chunks: each is read against the keys and values of those before it, so that no T x T matrix is made.

Shapes: T tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .batches import Batch

# Tokens of the longest chunk. A chunk's activations take about 45,000 numbers a token at the published width (90 MB of bf16
# for 1,024), and from some hundred tokens on a chunk's products are as fast as longer ones.
CHUNK = 1024


@dataclass(frozen=True)
class Chunk:
    """Some neighbouring tokens of one row, int64 [1, T] each; see `batches.Batch`.

    lengths: [1], tokens of the whole prompt, which choose the RoPE factors of every chunk.
    """

    input_ids: np.ndarray
    image_index: np.ndarray
    positions: np.ndarray
    lengths: np.ndarray

    @property
    def tokens(self) -> int:
        """T."""
        tokens: int = self.input_ids.shape[1]
        return tokens


def in_one(tokens: int) -> bool:
    """Whether so many tokens are read at once."""
    return tokens <= CHUNK


def parts(tokens: int) -> Iterator[slice]:
    """Chunks of about the same size, none longer than CHUNK."""
    count = -(-tokens // CHUNK)
    return (slice(i * tokens // count, (i + 1) * tokens // count) for i in range(count))


def row_chunks(batch: Batch, row: int, read: int = 0) -> Iterator[Chunk]:
    """The chunks of one row of a padded batch, without its padding, behind `read` tokens that are cached."""
    columns = np.flatnonzero(batch.attention_mask[row])
    lengths = np.array([read + len(columns)])
    for part in parts(len(columns)):
        places = columns[part]
        yield Chunk(
            batch.input_ids[row : row + 1, places],
            batch.image_index[row : row + 1, places],
            read + np.arange(part.start, part.stop)[None],
            lengths,
        )
