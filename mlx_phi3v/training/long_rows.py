"""Rows that take more tokens than a run allows: found before its first step, refused or left out, never met half-way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..batches import ExampleMaker
from ..catalogue import Split
from ..crops import image_token_count
from ..errors import UserError
from ..progress import note
from ..turns import TURNS
from .row_lengths import RowLengths, measure_rows

_NUMBER = 24  # characters of the longest number as Python writes it
_PIECE = 4  # tokens that a piece of text may have beyond its bytes: BOS, a blank put before it


@dataclass(frozen=True)
class ShortRows:
    """The rows that fit. numbers: int64 [kept], None for all. lengths: theirs, in that order, where they were measured."""

    numbers: np.ndarray | None
    lengths: RowLengths | None


def short_rows(
    split: Split, maker: ExampleMaker, *, skip: bool, first: int | None = None, lengths: RowLengths | None = None,
    as_json: bool = False, leads: bool = True,
) -> ShortRows:  # fmt: skip
    """The rows of a split, or of its first ones, that take at most `maker.max_length` tokens.

    They are measured where `lengths` are not known and a row may be too long at all. With `skip` longer ones are left out,
    with a note; else they are a UserError, which names their number, the longest and what to change.
    """
    if lengths is None and at_most(split, maker) <= maker.max_length:
        return ShortRows(None, None)
    lengths = lengths or measure_rows(split, maker, as_json=as_json).lengths(maker.num_crops, maker.config.vision)
    tokens = lengths.tokens[:first]
    long = np.flatnonzero(tokens > maker.max_length)
    if not len(long):
        return ShortRows(None, lengths)
    kept = np.setdiff1d(np.arange(len(tokens)), long)
    worst = int(long[np.argmax(tokens[long])])
    said = (
        f"{len(long):,} of {len(tokens):,} rows of split {split.name!r} take more than {maker.max_length:,} tokens with "
        f"--num-crops {maker.num_crops} (the longest, row {split[worst]['id']!r}, takes {int(tokens[worst]):,})"
    )
    if not skip:
        raise UserError(
            f"{said}; raise --max-length (at most {maker.config.max_position_embeddings:,}), lower --num-crops, or leave them "
            "out with --skip-long"
        )
    if not len(kept) and first is None:
        raise UserError(f"{said}: none is left; raise --max-length or lower --num-crops")
    if leads:
        note(f"left out: {said}")
    return ShortRows(kept, RowLengths(lengths.tokens[kept], lengths.labels[kept], lengths.crops[kept]))


def at_most(split: Split, maker: ExampleMaker) -> int:
    """Tokens that no row of the split exceeds, from the sizes of its columns, without tokenizing anything.

    A token is at least one byte of text. Far above what rows take, but mostly far below what a model can.
    """
    if TURNS in split.columns:
        return 2**62
    task, crops = maker.task, maker.num_crops
    grids = [(h, w) for h in range(1, crops + 1) for w in range(1, crops // h + 1)]
    photo = max(image_token_count(grid, maker.config.vision) for grid in grids)
    photos = max(split.longest("images"), 1)
    prompt = maker.task_prompt(photos)
    pieces = 2 + prompt.count("<|image_")
    text = len((prompt + task.template).encode()) + _PIECE * pieces
    text += sum(_NUMBER if field.kind == "number" else split.longest(field.name) for field in task.fields)
    return text + photo * max(prompt.count("<|image_"), photos)
