"""What a batch's KV cache remembers of its rows, whatever framework holds the keys and values.

Shapes: B rows, S tokens so far with their padding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Self, TypeVar

import numpy as np

from .config import ModelArgs
from .errors import UserError

STEP = 256  # tokens: room is made for so many at a time, so that a token costs no copy of all before it
_SPARSE = 4  # where at most 1 / so much of the arrays is in use, the rows move to smaller ones, which is then a small copy
KV_BITS = (8, 4)
KV_GROUP = 32  # numbers of one token's keys, or values, that share a scale and a bias where they are stored in few bits


class LayerCache(ABC):
    """Keys and values of one layer for a left-padded batch: the first `rows` places, and some columns, of larger arrays.

    What a row that left had taken, and padding that no row has any more, is room for rows that join. So one that leaves costs a
    copy of one row at most, and one that joins a copy of itself. bits: 8 or 4 packs keys and values, 0 stores them as they are;
    expected: tokens to make room for at once; rounded: whether the places are as many as a power of two, for a compiled step of
    few shapes; prompts: tokens of each of the prompts that are appended first, padded on the right.
    """

    def __init__(self, bits: int = 0, expected: int = 0, rounded: bool = False, prompts: Sequence[int] = ()) -> None:
        self.bits, self.expected, self.rounded, self.prompts = bits, expected, rounded, prompts
        # Those of the keys, then those of the values: [places, heads, columns, D], or what the framework's `pack` makes. The
        # columns from `start` to `end` are filled. What stands in the others of the first `rows` places is finite.
        self.arrays: list[Any] = []
        self.rows = self.start = self.length = 0

    @abstractmethod
    def zeros(self, like: Any, places: int, columns: int) -> Any:
        """An array [places, heads, columns, D] of the kind of `like`."""

    @abstractmethod
    def copied(self, parts: list[Any]) -> list[Any]:
        """Copies of parts of the arrays, which hold on to nothing else."""

    @abstractmethod
    def move_rows(self, moves: list[tuple[int, int]]) -> None:
        """Copy rows up to `end` to other places of the same arrays: (to, from) each, none of which is in two."""

    @abstractmethod
    def settle(self) -> None:
        """Let what was written take place at once, so that no arrays of before are held on to."""

    @property
    def end(self) -> int:
        """The column behind the last token."""
        return self.start + self.length

    @property
    def places(self) -> int:
        """Rows that there is room for."""
        return int(self.arrays[0].shape[0]) if self.arrays else 0

    @property
    def columns(self) -> int:
        """Tokens that there is room for, `start` included."""
        return int(self.arrays[0].shape[2]) if self.arrays else 0

    def size(self) -> int:
        """S."""
        return self.length

    def append(self, new: Sequence[Any]) -> Sequence[Any]:
        """Store new tokens [B, heads, T, D] of each array behind the last; what is filled then, [B, heads, S, D] each.

        Of prompts padded on the right: these, as they are. They are stored with their padding on the left.
        """
        tokens = int(new[0].shape[2])
        if not self.length:
            self.rows, self.start = int(new[0].shape[0]), 0
            places, columns = self._places(self.rows), room(max(tokens, self.expected))
            self.arrays = [self.zeros(array, places, columns) for array in new]
            if any(count < tokens for count in self.prompts):
                self.length = tokens
                for array, added in zip(self.arrays, new):
                    for row, count in enumerate(self.prompts):
                        array[row : row + 1, :, tokens - count : tokens] = added[row : row + 1, :, :count]
                return new
        self.make_room(tokens)
        for array, added in zip(self.arrays, new):
            array[: self.rows, :, self.end : self.end + tokens] = added
        self.length += tokens
        return [array[: self.rows, :, self.start : self.end] for array in self.arrays]

    def make_room(self, tokens: int) -> None:
        """Have room for so many tokens behind the last."""
        if self.end + tokens > self.columns:
            places = self.places if 2 * self.rows >= self.places else self._places(self.rows)
            self._move(range(self.rows), places, self.length, max(self.length + tokens, self.expected))

    def filter(self, rows: Sequence[int], padding: int = 0) -> None:
        """Let only these rows stay, in this order, and drop their first `padding` tokens."""
        self.start, self.length = self.start + padding, self.length - padding
        moved = [(place, row) for place, row in enumerate(rows) if place != row]
        sparse = self._places(len(rows)) * room(self.length) * _SPARSE <= self.places * self.columns
        if sparse or any(row < len(rows) for _, row in moved):
            self._move(rows, self._places(len(rows)), self.length, self.length)
        else:
            self.rows = len(rows)
            if moved:
                self.move_rows(moved)

    def row(self, row: int, padding: int, tokens: int, expected: int = 0) -> Self:
        """A copy of some tokens of one row, behind its padding: in no more room than they need, or with room for `expected`."""
        copy = type(self)(self.bits, rounded=self.rounded)
        copy.rows, copy.length = 1, tokens
        begin = self.start + padding
        parts = [array[row : row + 1, :, begin : begin + tokens] for array in self.arrays]
        if expected > tokens:
            copy.arrays = [self.zeros(part, 1, room(expected)) for part in parts]
            for array, part in zip(copy.arrays, parts):
                array[:, :, :tokens] = part
            copy.settle()
        else:
            copy.arrays = self.copied(parts)
        return copy

    def join(self, others: Sequence[Self], columns: int) -> None:
        """Take the rows of the others behind its own, each padded on the left to so many tokens."""
        rows = self.rows + sum(other.rows for other in others)
        if rows > self.places or columns > self.end:
            self._move(range(self.rows), self._places(rows), columns, columns)
        self.start, self.length = self.end - columns, columns
        for other in others:
            places = slice(self.rows, self.rows + other.rows)
            for array, joining in zip(self.arrays, other.arrays):
                array[places, :, : self.end - other.length] = 0
                array[places, :, self.end - other.length : self.end] = joining[: other.rows, :, other.start : other.end]
            self.rows += other.rows
        self.settle()

    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(int(array.nbytes) for array in self.arrays)

    def token_bytes(self) -> int:
        """Bytes of one token of one row."""
        return sum(int(array.nbytes) // (int(array.shape[0]) * int(array.shape[2])) for array in self.arrays)

    def _places(self, rows: int) -> int:
        """Places to make for so many rows."""
        return 1 << (rows - 1).bit_length() if self.rounded else rows

    def _move(self, rows: Sequence[int], places: int, end: int, tokens: int) -> None:
        """Copy rows, in this order, into new arrays of so many places and room for so many tokens, where they end at `end`."""
        runs = [(0, 0, len(rows))] if list(rows) == list(range(len(rows))) else [(i, row, 1) for i, row in enumerate(rows)]
        for i, old in enumerate(self.arrays):
            new = self.zeros(old, places, room(tokens))
            for place, row, count in runs:
                new[place : place + count, :, end - self.length : end] = old[row : row + count, :, self.start : self.end]
            self.arrays[i] = new
        self.rows, self.start = len(rows), end - self.length


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

    def step_numbers(self) -> np.ndarray:
        """What a step over all places and columns needs of the last token, which was appended here: int64 [places + 1].

        The tokens of each row so far, 1 where no row is, and the column that this token goes to.
        """
        first = self.layers[0]
        return np.append(self.lengths, [1] * (first.places - len(self.lengths)) + [first.end])

    def keep_rows(self, rows: list[int]) -> None:
        """Drop all other rows, and the columns that only pad those that stay. Cheap where `rows` is of `fewest_moves`."""
        padding = int(self.valid[rows].any(0).argmax())
        self.valid = self.valid[rows, padding:]
        self.lengths = self.lengths[rows]
        for layer in self.layers:
            layer.filter(rows, padding)

    def row(self, row: int, tokens: int | None = None, expected: int = 0) -> Self:
        """A copy of one row without its padding, or of its first tokens; expected: see `LayerCache.row`."""
        padding = self.valid.shape[1] - int(self.lengths[row])
        tokens = int(self.lengths[row]) if tokens is None else tokens
        return type(self)([layer.row(row, padding, tokens, expected) for layer in self.layers], np.ones((1, tokens), bool))

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


def fewest_moves(rows: Sequence[int]) -> list[int]:
    """Rows that stay, of a batch: those at places that stay too are left there, and the others take places that became free."""
    stay = set(rows)
    later = sorted(row for row in stay if row >= len(stay))
    return [place if place in stay else later.pop() for place in range(len(stay))]


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
