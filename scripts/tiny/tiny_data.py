"""What the tiny model learns from, step by step: pictures, what was drawn, questions and answers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from tiny_pictures import Pictures, patches, vary
from tiny_settings import PretrainConfig
from tiny_texts import BRAND, COPY_PROMPT, question, scribble

from data.sample.brands import get_brand
from data.sample.products import choose_appearance
from mlx_phi3v.batches import Batch, Example, collate
from mlx_phi3v.config import CROP_SIZE, ModelArgs
from mlx_phi3v.crops import ProcessedImage, image_token_count, normalise
from mlx_phi3v.prompts import PromptProcessor

LOOKS = ("shape", "material", "colour", "pattern", "size", "logo")
TESTED = 1000  # the last products, held out for testing
_VOICES = (0.5, 0.25, 0.25)


@dataclass
class Step:
    """What one worker needs for one step; `batch` is None where the tower learns alone."""

    patches: torch.Tensor | None
    shown: torch.Tensor
    looks: torch.Tensor
    share: torch.Tensor
    place: torch.Tensor
    batch: Batch | None


class Data:
    """Pictures, looks and answers of all products, step by step."""

    def __init__(self, settings: PretrainConfig, config: ModelArgs, prompts: PromptProcessor, pictures: Pictures) -> None:
        self.settings, self.config, self.prompts, self.pictures = settings, config, prompts, pictures
        self.size, self.count = config.vision.patch_size, image_token_count((1, 1), config.vision)
        looks = [choose_appearance(get_brand(BRAND), settings.seed, i) for i in range(settings.products)]
        columns = [[str(getattr(look, name)) for look in looks] for name in LOOKS]
        names = [sorted(set(column)) for column in columns]
        self.classes = [len(column) for column in names]
        self.looks = torch.tensor([[n.index(v) for n, v in zip(names, row)] for row in zip(*columns)])

    def step(self, rows: np.ndarray, rng: np.random.Generator, *, keep: float, joint: bool) -> Step:
        """One worker's rows; `keep` is the share of patches to see."""
        grid = CROP_SIZE // self.size
        crops, share, place = (np.stack(x) for x in zip(*(vary(self.pictures, i, self.size, rng) for i in rows)))
        shown = np.sort(np.argsort(rng.random((len(rows), grid * grid)), axis=1)[:, : round(keep * grid * grid)], axis=1)
        at = np.arange(len(rows))[:, None]
        rest = torch.from_numpy(shown), self.looks[rows], torch.from_numpy(share[at, shown]), torch.from_numpy(place[at, shown])
        if not joint:
            return Step(torch.from_numpy(patches(crops, shown, self.size)), *rest, None)
        return Step(None, *rest, collate([*self._answers(rows, crops, rng), *self._copies(rng)], self.config))

    def _answers(self, rows: np.ndarray, crops: np.ndarray, rng: np.random.Generator) -> Iterator[Example]:
        """A question about each picture, and its answer."""
        for crop, i in zip(crops, rows):
            prompt, answer = question(int(rng.choice(3, p=_VOICES)), self.settings.seed, int(i))
            image = ProcessedImage(np.broadcast_to(normalise(crop), (2, 3, CROP_SIZE, CROP_SIZE)), (1, 1))
            yield Example(str(i), *self.prompts.example(prompt, answer, [self.count]), (image,))

    def _copies(self, rng: np.random.Generator) -> Iterator[Example]:
        """Rows of text to copy."""
        for _ in range(self.settings.copies // self.settings.workers):
            text = scribble(rng)
            yield Example("copy", *self.prompts.example(COPY_PROMPT.format(text=text), text, []), ())

    def steps(self, rank: int, first: int, last: int) -> Iterator[Step]:
        """Some steps of one worker, each made while the one before it is learnt."""
        s = self.settings
        size = s.batch_size // s.workers
        per_epoch = (s.products - TESTED) // s.batch_size

        def make(step: int) -> Step:
            order = np.random.default_rng([s.seed, step // per_epoch]).permutation(s.products - TESTED)
            start = step % per_epoch * s.batch_size + rank * size
            rng = np.random.default_rng([s.seed, step, rank, 5])
            keep = 0.5 if step < s.half_steps else 1.0
            return self.step(order[start : start + size], rng, keep=keep, joint=step >= s.alone)

        with ThreadPoolExecutor(1) as pool:
            upcoming = pool.submit(make, first)
            for step in range(first, last):
                ready = upcoming.result()
                if step + 1 < last:
                    upcoming = pool.submit(make, step + 1)
                yield ready
