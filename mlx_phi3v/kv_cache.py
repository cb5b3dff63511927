"""What a batch's KV cache remembers of its rows, whatever framework holds the keys and values.

Shapes: B rows, S tokens so far with their padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from .config import ModelArgs
from .errors import UserError

STEP = 256  # tokens: room is made for so many at a time, so that a token costs no copy of all before it
KV_BITS = (8, 4)
KV_GROUP = 32  # numbers of one token's keys, or values, that share a scale and a bias where they are stored in few bits


class LayerCache(Protocol):
    """Keys and values of one layer for a left-padded batch."""

    def filter(self, rows: list[int], padding: int = 0) -> None:
        """Drop all other rows, and the first `padding` tokens of those that stay."""

    def truncate(self, tokens: int) -> None:
        """Drop all but the first tokens."""

    def row(self, row: int, padding: int) -> Self:
        """A copy of one row without its padding, in no more room than it needs."""

    def join(self, others: Sequence[Self], columns: int) -> None:
        """Take the rows of the others behind its own, each padded on the left to so many tokens."""

    def nbytes(self) -> int:
        """Bytes of its arrays."""

    def token_bytes(self) -> int:
        """Bytes of one token of one row."""


Layer = TypeVar("Layer", bound=LayerCache)


class BatchCache(Generic[Layer]):
    """KV cache of a batch. valid: bool [B, S], False on padding; lengths: int64 [B], tokens of each row so far."""

    def __init__(self, layers: list[Layer], valid: np.ndarray) -> None:
        self.layers = layers
        self.valid = valid
        self.lengths = valid.sum(1)

    def append(self, tokens: int = 1) -> None:
        """So many tokens more in every row; their keys and values are the layers' to add."""
        self.valid = np.concatenate([self.valid, np.ones((len(self.valid), tokens), bool)], axis=1)
        self.lengths = self.lengths + tokens

    def keep_rows(self, rows: list[int]) -> None:
        """Drop all other rows, and the columns that only pad those that stay."""
        padding = int(self.valid[rows].any(0).argmax())
        self.valid = self.valid[rows, padding:]
        self.lengths = self.lengths[rows]
        for layer in self.layers:
            layer.filter(rows, padding)

    def truncate(self, tokens: int) -> None:
        """Drop all but the first tokens of a cache of one row."""
        self.valid = self.valid[:, :tokens]
        self.lengths = self.valid.sum(1)
        for layer in self.layers:
            layer.truncate(tokens)

    def row(self, row: int) -> Self:
        """A copy of one row without its padding."""
        padding = self.valid.shape[1] - int(self.lengths[row])
        return type(self)([layer.row(row, padding) for layer in self.layers], self.valid[row : row + 1, padding:])

    def join(self, *others: Self) -> None:
        """Take the rows of the others behind its own. They give up their layers, so that no two copies are whole at once."""
        if not others:
            return
        columns = max(cache.valid.shape[1] for cache in (self, *others))
        self.valid = np.concatenate(
            [np.pad(cache.valid, ((0, 0), (columns - cache.valid.shape[1], 0))) for cache in (self, *others)]
        )
        self.lengths = self.valid.sum(1)
        for layer in self.layers:
            layer.join([other.layers.pop(0) for other in others], columns)

    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(layer.nbytes() for layer in self.layers)

    def token_bytes(self) -> int:
        """Bytes of one token of one row."""
        return sum(layer.token_bytes() for layer in self.layers)


def put_behind(
    arrays: list[Any], new: Sequence[Any], tokens: int, expected: int, with_room: Callable[[Any, Any, int], Any]
) -> list[Any]:
    """Store new tokens [B, heads, T, D] of each array behind the first `tokens`; what is filled then, [B, heads, S, D] each.

    arrays: of a layer, changed in place. expected: tokens to make room for at least. with_room: of the framework's `cache`.
    """
    end = tokens + new[0].shape[2]
    for i, array in enumerate(new):
        whole = with_room(arrays[i] if tokens else None, array, max(end, expected))
        whole[:, :, tokens:end] = array
        arrays[i : i + 1] = [whole]
    return [array[:, :, :end] for array in arrays]


def room(tokens: int) -> int:
    """Tokens to make room for where `tokens` are needed."""
    return -(-tokens // STEP) * STEP


def check_kv_bits(config: ModelArgs, bits: int | None) -> int:
    """The bits of a stored key or value, 0 for those it is computed in. Raises UserError where a model's cannot be packed."""
    if bits not in (None, *KV_BITS):
        raise UserError(f"--kv-bits is {bits}; choose 8 or 4")
    width = config.num_key_value_heads * config.head_dim
    if bits and width % KV_GROUP:
        raise UserError(
            f"--kv-bits {bits} packs {KV_GROUP} numbers together, and the model's keys take {width} a token; leave the flag out"
        )
    return bits or 0


def kv_bytes(config: ModelArgs, tokens: int, item_size: int, bits: int = 0) -> int:
    """Bytes of the keys and values of so many tokens; item_size: bytes of a number, bits: see `check_kv_bits`."""
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * tokens
    each = bits / 8 + 2 * item_size / KV_GROUP if bits else item_size
    return int(numbers * each)
