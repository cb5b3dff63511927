"""Rows -> batches of numpy arrays, and the seeded order of rows, the same on both backends.

Letters in shapes: B rows, T tokens, N crops of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import CROP_SIZE, ModelArgs
from .crops import ProcessedImage, crop_grid_of, image_token_count, image_token_index, process_image
from .errors import UserError
from .photo import Photo, photo_size
from .prompts import IGNORE, PromptProcessor
from .task import END, Task
from .turns import row_exchanges, task_prompt

if TYPE_CHECKING:  # it loads pyarrow, which a question about one photo does not need
    from .catalogue import Split


@dataclass(frozen=True)
class Example:
    """One row, ready to be batched. For a prompt that is to be answered all `labels` are -100."""

    id: str
    input_ids: np.ndarray  # int64 [T], image k as -k
    labels: np.ndarray  # int64 [T]
    images: tuple[ProcessedImage, ...]


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length, on the right.

    input_ids, labels, positions: int64 [B, T]; attention_mask: bool [B, T], False on padding.
    pixel_values: fp32 [N, 3, 336, 336], only real crops; none where the features are given.
    image_index: int64 [B, T], the row of the feature table (see `crops.image_token_index`) or -1 for text.
    features: fp32 [N * g^2 + 2, H], the feature table where it is known (see `training.feature_cache.FeatureCache`).
    """

    ids: tuple[str, ...]
    input_ids: np.ndarray
    labels: np.ndarray
    attention_mask: np.ndarray
    positions: np.ndarray
    pixel_values: np.ndarray
    image_index: np.ndarray
    features: np.ndarray | None = None

    @property
    def answer_tokens(self) -> int:
        """Labels the loss is taken over (the first position of a row predicts nothing)."""
        return int((self.labels[:, 1:] != IGNORE).sum())

    def learnt(self, size: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The positions in the flattened [B * T] whose next token is learnt, and those tokens: int64 [labels] each.

        Fewer than `size` are padded to it: with position 0, whose token is IGNORE.
        """
        shifted = self.labels[:, 1:]
        rows, columns = np.nonzero(shifted != IGNORE)
        behind = max(0, size - len(rows))
        index = rows * self.labels.shape[1] + columns
        return np.pad(index, (0, behind)), np.pad(shifted[rows, columns], (0, behind), constant_values=IGNORE)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 [B]."""
        lengths: np.ndarray = self.attention_mask.sum(1)
        return lengths

    @property
    def tokens(self) -> int:
        """Positions that hold a token."""
        return int(self.attention_mask.sum())


def collate(examples: Sequence[Example], config: ModelArgs) -> Batch:
    """Pad `examples` to one length, on the right."""
    length = max(len(e.input_ids) for e in examples)
    images = [image for e in examples for image in e.images]
    total_crops = sum(image.crop_count for image in images)
    known = bool(images) and all(image.features is not None for image in images)
    shape = (len(examples), length)
    input_ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
    mask, image_index = np.zeros(shape, bool), np.full(shape, -1, np.int64)
    crops: list[np.ndarray] = []
    first_crop = 0
    for row, example in enumerate(examples):
        n = len(example.input_ids)
        input_ids[row, :n], labels[row, :n], mask[row, :n] = example.input_ids, example.labels, True
        index = np.full(n, -1, np.int64)
        for k, image in enumerate(example.images, start=1):
            last = first_crop + image.crop_count - 1
            source = image_token_index(image.grid, first_crop, last, total_crops, config.vision, config.hd_transform_order)
            where = np.flatnonzero(example.input_ids == -k)
            index[where] = np.tile(source, len(where) // len(source))  # a tag may appear twice
            first_crop += image.crop_count
            crops.append(image.features[:-2] if known and image.features is not None else image.distinct_crops)
        image_index[row, :n] = index
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    pixel_values, features = np.zeros((0, 3, CROP_SIZE, CROP_SIZE), np.float32), None
    if known and images[-1].features is not None:
        features = np.concatenate([*crops, images[-1].features[-2:]])
    elif crops:
        pixel_values = np.concatenate(crops)
    return Batch(tuple(e.id for e in examples), input_ids, labels, mask, positions, pixel_values, image_index, features)


class ExampleMaker:
    """Catalogue rows -> Examples: opens photos, builds prompt and answer by the task.

    num_crops: the most crops a photo is cut into. max_length: the most tokens a row may take. process: makes crops of
    a photo in another way, such as with the features of a `training.feature_cache.FeatureCache`.
    """

    def __init__(
        self,
        prompts: PromptProcessor,
        config: ModelArgs,
        task: Task,
        num_crops: int,
        max_length: int | None = None,
        process: Callable[[Photo], ProcessedImage] | None = None,
    ) -> None:
        self.prompts = prompts
        self.config = config
        self.task = task
        self.num_crops = num_crops
        self.max_length = max_length or config.max_position_embeddings
        self.process = process or (lambda photo: process_image(photo.rgb, num_crops))

    def __call__(self, row: Mapping[str, Any], *, with_answer: bool) -> Example:
        """Raises UserError, naming the row, for a photo that cannot be read or a row too long."""
        return self.with_photos(row, with_answer=with_answer)[0]

    def with_photos(self, row: Mapping[str, Any], *, with_answer: bool) -> tuple[Example, list[Photo]]:
        """The Example of a row and the photos it was made of, each read once. Raises UserError as `__call__`."""
        name = row["id"]
        try:
            photos = [Photo.read(path) for path in row["images"]]
            images = tuple(map(self.process, photos))
            return self.from_row(row, images, with_answer=with_answer), photos
        except UserError as error:
            raise UserError(f"row {name!r}: {error}") from None

    def of_split(self, split: Split, number: int, *, with_answer: bool) -> tuple[Example, list[Photo]]:
        """`with_photos` of a row of a split; a UserError names its shard too."""
        row = split[number]
        try:
            return self.with_photos(row, with_answer=with_answer)
        except UserError as error:
            raise UserError(f"catalogue shard {split.shard_of(number)}, {error}") from None

    def length(self, row: Mapping[str, Any]) -> int:
        """Tokens of a row with its answer, from the headers of its photos; 0 where one cannot be read."""
        try:
            grids = [crop_grid_of(photo_size(path), self.num_crops) for path in row["images"]]
        except UserError:
            return 0  # opening it raises the error that names the cause
        counts = [image_token_count(grid, self.config.vision) for grid in grids]
        return len(self.prompts.conversation(row_exchanges(self.task, row, len(counts)), counts)[0])

    def from_row(self, row: Mapping[str, Any], images: tuple[ProcessedImage, ...], *, with_answer: bool) -> Example:
        """The Example of a row whose photos are processed; without its last answer it is a prompt to be answered.

        Raises UserError if it takes more than `max_length` tokens.
        """
        *earlier, (prompt, answer) = row_exchanges(self.task, row, len(images))
        if not earlier:
            return self.from_images(row["id"], images, answer if with_answer else None, prompt)
        counts = [image_token_count(image.grid, self.config.vision) for image in images]
        if with_answer:
            self._require_short(*(text for pair in (*earlier, (prompt, answer)) for text in pair))
            return self._checked(row["id"], *self.prompts.conversation([*earlier, (prompt, answer)], counts), images)
        asked = "".join(f"{before}{said}{END}" for before, said in earlier) + prompt
        return self.from_images(row["id"], images, None, asked)

    def from_images(
        self, name: str, images: tuple[ProcessedImage, ...], answer: str | None, prompt: str | None = None
    ) -> Example:
        """An Example of already processed images; `answer` None makes a prompt to be answered.

        Raises UserError if it takes more than `max_length` tokens.
        """
        counts = [image_token_count(image.grid, self.config.vision) for image in images]
        prompt = self.task_prompt(len(images)) if prompt is None else prompt
        self._require_short(prompt, answer or "")
        if answer is None:
            input_ids = np.asarray(self.prompts.tokenize(prompt, counts), np.int64)
            labels = np.full(len(input_ids), IGNORE, np.int64)
        else:
            input_ids, labels = self.prompts.example(prompt, answer, counts)
        return self._checked(name, input_ids, labels, images)

    def _require_short(self, *texts: str) -> None:
        """Raise UserError for text that is too long by its letters alone: a tokenizer takes a second for a million."""
        least = sum(map(len, texts)) // self.prompts.longest_token
        if least > self.max_length:
            raise UserError(f"takes {least} tokens or more, more than {self.max_length}; shorten its text or raise max_length")

    def _checked(self, name: str, input_ids: np.ndarray, labels: np.ndarray, images: tuple[ProcessedImage, ...]) -> Example:
        if len(input_ids) > self.max_length:
            raise UserError(f"takes {len(input_ids)} tokens, more than {self.max_length}; lower num_crops or raise max_length")
        return Example(name, input_ids, labels, images)

    def task_prompt(self, images: int) -> str:
        """The task's prompt for a row with that many images: the tag is repeated, or left out where there is none."""
        return task_prompt(self.task, images)


def epoch_order(rows: int, epoch: int, seed: int) -> np.ndarray:
    """The order of rows in an epoch: a permutation fixed by (seed, epoch), int64 [rows]."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(rows)


def batch_rows(
    rows: int, batch_size: int, seed: int, start: int = 0, length: Callable[[int], int] | None = None
) -> Iterator[list[int]]:
    """Endless batches of row numbers, epoch after epoch, from batch `start` on.

    A batch never spans two epochs; the last one of an epoch may be short. Batch `start` is found without reading
    those before it. With `length` (row number -> tokens) rows of like length share a batch: they are sorted within
    windows of `GROUP_BATCHES` batches, whose order is then drawn.
    """
    per_epoch = -(-rows // batch_size)
    epoch, first = divmod(start, per_epoch)
    while True:
        order = epoch_order(rows, epoch, seed).tolist()
        window = 1 if length is None else GROUP_BATCHES
        for begin in range(first - first % window, per_epoch, window):
            window_rows = order[begin * batch_size : (begin + window) * batch_size]
            if length is not None:
                window_rows = _grouped(
                    window_rows, batch_size, length, np.random.Generator(np.random.PCG64([seed, epoch, begin]))
                )
            for i in range(max(first, begin), min(begin + window, per_epoch)):
                yield window_rows[(i - begin) * batch_size : (i - begin + 1) * batch_size]
        epoch, first = epoch + 1, 0


GROUP_BATCHES = 50  # as many as transformers' LengthGroupedSampler sorts together


def _grouped(rows: list[int], batch_size: int, length: Callable[[int], int], random: np.random.Generator) -> list[int]:
    """Rows sorted by length, the longest first, and then their batches shuffled; a short batch stays the last."""
    rows = sorted(rows, key=length, reverse=True)
    whole = len(rows) // batch_size
    batches = [rows[i * batch_size : (i + 1) * batch_size] for i in random.permutation(whole)]
    return [row for batch in batches for row in batch] + rows[whole * batch_size :]
