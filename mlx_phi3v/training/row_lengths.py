"""The length of every row of a split, from the catalogue's columns, without opening a photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..batches import ExampleMaker
from ..catalogue import ImageSizes, Split
from ..config import VisionArgs
from ..crops import crop_grid_of, encoded_crops, image_token_count
from ..photo import photo_size
from ..progress import watched
from ..turns import TURNS, row_exchanges


@dataclass(frozen=True)
class RowLengths:
    """Of each row: tokens with the answer, tokens that have a label, crops to encode. int64 [N] each.

    All are 0 for a row with a photo that cannot be read.
    """

    tokens: np.ndarray
    labels: np.ndarray
    crops: np.ndarray


@dataclass(frozen=True)
class MeasuredRows:
    """Texts and photos of rows, from which their lengths follow for any number of crops.

    text: (tokens without photos, labels), int64 [N, 2]. images: the photos' sizes. tags: how often the prompt names
    each photo, int64 [photos].
    """

    text: np.ndarray
    images: ImageSizes
    tags: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], images: ImageSizes, maker: ExampleMaker) -> MeasuredRows:
        """Measure rows whose photos have these sizes.

        Raises UserError where the prompt's image tags do not fit the number of a row's photos.
        """
        text = np.zeros((len(rows), 2), np.int64)
        tags = np.zeros(len(images.sizes), np.int64)
        starts = np.cumsum(images.counts) - images.counts
        own = np.array([bool(row.get(TURNS)) for row in rows], bool)
        for i in np.flatnonzero(own).tolist():
            count = int(images.counts[i])
            ids, labels = maker.prompts.conversation(row_exchanges(maker.task, rows[i], count), [0] * count)
            text[i] = len(ids), int((labels >= 0).sum())
            tags[starts[i] : starts[i] + count] = 1  # each photo is shown once
        for count in np.unique(images.counts[~own]).tolist():
            numbers = np.flatnonzero((images.counts == count) & ~own)
            prompt = maker.task_prompt(count)
            named = [-token for token in maker.prompts.tokenize(prompt, [1] * count) if token < 0]
            text[numbers] = maker.prompts.answer_lengths(prompt, [maker.task.answer(rows[i]) for i in numbers.tolist()])
            for k in range(count):
                tags[starts[numbers] + k] = named.count(k + 1)
        return cls(text, images, tags)

    def lengths(self, num_crops: int, vision: VisionArgs) -> RowLengths:
        """Exactly the lengths of each row's Example, where a photo is cut into at most so many crops."""
        distinct, which = np.unique(self.images.sizes, axis=0, return_inverse=True)
        grids = [crop_grid_of((width, height), num_crops) if width else None for width, height in distinct.tolist()]
        tokens = np.array([image_token_count(grid, vision) if grid else 0 for grid in grids], np.int64)[which.ravel()]
        crops = np.array([encoded_crops(grid) if grid else 0 for grid in grids], np.int64)[which.ravel()]
        row_of = np.repeat(np.arange(len(self.text)), self.images.counts)
        lengths = np.stack([*self.text.T, np.zeros(len(self.text), np.int64)])
        np.add.at(lengths[0], row_of, tokens * self.tags)
        np.add.at(lengths[2], row_of, crops)
        lengths[:, self.unreadable] = 0
        return RowLengths(*lengths)

    @property
    def unreadable(self) -> np.ndarray:
        """Numbers of the rows with a photo that cannot be read, int64 [rows]."""
        rows = np.repeat(np.arange(len(self.text)), self.images.counts)
        return np.unique(rows[self.images.sizes[:, 0] == 0])

    def require_readable(self, split: Split) -> None:
        """Raises the PhotoError of the first photo that cannot be read, if there is one."""
        for row in self.unreadable[:1].tolist():
            for path in split[row]["images"]:
                photo_size(path)


def measure_rows(split: Split, maker: ExampleMaker, *, as_json: bool = False) -> MeasuredRows:
    """Measure all rows of `split`, in order. Shows a bar where that takes more than two seconds.

    Raises UserError as `MeasuredRows.of`.
    """
    columns = [field.name for field in maker.task.fields] + [TURNS] * (TURNS in split.columns)
    batches = zip(split.batches(columns), split.image_sizes())
    measured = [
        MeasuredRows.of(rows, images, maker)
        for rows, images in watched(batches, "measuring rows", len(split), lambda batch: len(batch[0]), as_json=as_json)
    ]
    images = ImageSizes(
        np.concatenate([one.images.counts for one in measured]), np.concatenate([one.images.sizes for one in measured])
    )
    return MeasuredRows(np.concatenate([one.text for one in measured]), images, np.concatenate([one.tags for one in measured]))
