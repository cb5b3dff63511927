"""Keys and values of texts that were read before, so that a prompt that begins like one of them reads only the rest.

A chat sends its whole history with each turn: the turn before, with its photos and its answer, is in here. Texts are compared
by token ids and by what the photos' crops hold. A text with another photo, or so long that its RoPE factors change, is read
anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from .batches import Example
from .config import ModelArgs
from .crops import ProcessedImage
from .kv_cache import BatchCache
from .rope import uses_long_factor

LEAST = 16  # tokens: to read fewer again costs less than a pass of their own


@dataclass(eq=False)
class _Text:
    """A text, the tokens of which are told apart by `token_keys`, and its cache of one row."""

    keys: np.ndarray
    long: bool  # whether its keys have the long RoPE factors
    cache: BatchCache[Any]


class PrefixCache:
    """The texts read last of one model, within so many bytes."""

    def __init__(self, config: ModelArgs, most_bytes: int) -> None:
        self.config, self.most_bytes = config, most_bytes
        self.reused = 0  # tokens that were not read again
        self._texts: list[_Text] = []  # the one used last at the end

    def find(self, example: Example) -> BatchCache[Any] | None:
        """A copy of what is cached of the beginning of this prompt, whole photos only; None where that is little.

        It has room for the whole prompt.
        """
        keys, total = token_keys(example), len(example.input_ids)
        best, shared = None, LEAST - 1
        for text in self._texts:
            if text.long == bool(uses_long_factor(self.config, total)):
                same = _whole_photos(example.input_ids, common_length(text.keys, keys))
                if same > shared:
                    best, shared = text, same
        if best is None:
            return None
        self._texts.remove(best)
        self._texts.append(best)
        self.reused += shared
        return best.cache.row(0, shared, expected=total)

    def store(self, example: Example, cache: BatchCache[Any], row: int) -> None:
        """Keep a copy of what a batch's cache holds of this row; `example` is its text, as far as it is cached or farther."""
        tokens = int(cache.lengths[row])
        if tokens < LEAST or cache.token_bytes() * tokens > self.most_bytes:
            return
        keys = token_keys(example)[:tokens]
        # What it goes on from is in it.
        self._texts = [text for text in self._texts if common_length(text.keys, keys) < len(text.keys)]
        self._texts.append(_Text(keys, bool(uses_long_factor(self.config, tokens)), cache.row(row)))
        while self.nbytes() > self.most_bytes:
            self._texts.pop(0)

    def nbytes(self) -> int:
        """Bytes of all texts' keys and values."""
        return sum(text.cache.nbytes() for text in self._texts)


def token_keys(example: Example) -> np.ndarray:
    """Token ids, int64 [T], with a number for each photo in place of its id: the same for the same crops, below 0."""
    keys = example.input_ids.copy()
    for k, image in enumerate(example.images, start=1):
        keys[example.input_ids == -k] = _photo_key(image)
    return keys


def _photo_key(image: ProcessedImage) -> int:
    values = image.pixel_values if image.features is None else image.features
    digest = blake2b(np.ascontiguousarray(values).data, digest_size=8, person=repr(image.grid).encode())
    return -1 - (int.from_bytes(digest.digest(), "little") >> 1)


def common_length(a: np.ndarray, b: np.ndarray) -> int:
    """How many numbers two arrays begin alike with."""
    shorter = min(len(a), len(b))
    differ = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(differ[0]) if len(differ) else shorter


def _whole_photos(ids: np.ndarray, tokens: int) -> int:
    """So many tokens of a prompt or fewer, so that none of its photos is cut, and at least one token is left."""
    tokens = min(tokens, len(ids) - 1)
    while tokens > 0 and ids[tokens] < 0 and ids[tokens] == ids[tokens - 1]:
        tokens -= 1
    return tokens


def rest_of(example: Example, read: int) -> Example:
    """A prompt without its first tokens, and with those of its photos that the rest shows."""
    ids = example.input_ids[read:]
    shown = sorted({-int(token) for token in ids[ids < 0]})
    renamed = ids.copy()
    for number, k in enumerate(shown, start=1):
        renamed[ids == -k] = -number
    return replace(example, input_ids=renamed, labels=example.labels[read:], images=tuple(example.images[k - 1] for k in shown))
