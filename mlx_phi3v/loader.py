"""Batches of a split for given rows, made ahead of the step that takes them."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from .batches import Batch, Example, ExampleMaker, collate
from .catalogue import Split
from .prefetch import prefetch
from .training.feature_cache import FeatureCache


@dataclass(frozen=True)
class Pass:
    """The rows that go through the model together. batch: None if this rank has none of the rows."""

    rows: list[int]
    batch: Batch | None
    ends_step: bool


class BatchLoader:
    """Batches of a split, made a few ahead by threads. Each rank takes its share of every batch."""

    def __init__(self, split: Split, maker: ExampleMaker, cache: FeatureCache | None, world: tuple[int, int]) -> None:
        """world: (rank, ranks)."""
        self.split, self.maker, self.cache = split, maker, cache
        self.rank, self.ranks = world
        self.waited = 0.0  # seconds that the model had no batch to work on

    def make(self, rows: Sequence[int]) -> Batch | None:
        """The batch of these rows (right-padded), None where this rank has none of them."""
        return self._finish(self._begin(rows))

    def _begin(self, rows: Sequence[int]) -> Batch | list[Example] | None:
        """The work of the helper threads: the whole batch or, with a feature cache, the examples without their features."""
        mine = rows[self.rank :: self.ranks]
        examples = [self.maker.of_split(self.split, row, with_answer=True)[0] for row in mine]
        if self.cache and examples:
            return examples
        return collate(examples, self.maker.config) if examples else None

    def _finish(self, begun: Batch | list[Example] | None) -> Batch | None:
        if self.cache and isinstance(begun, list):
            return collate(self.cache.fill(begun), self.maker.config)
        assert not isinstance(begun, list)
        return begun

    def __call__(self, passes: Iterable[tuple[list[int], bool]], ahead: int = 3) -> Generator[Pass, None, None]:
        """The batches of `passes`: (rows, whether they end a step). Raises UserError as `batches.ExampleMaker`."""
        begun_passes = prefetch(lambda one: (*one, self._begin(one[0])), passes, ahead=ahead, threads=2)
        with closing(begun_passes):
            while True:
                asked = time.perf_counter()
                one = next(begun_passes, None)
                self.waited += time.perf_counter() - asked
                if one is None:
                    return
                rows, ends_step, begun = one
                yield Pass(rows, self._finish(begun), ends_step)
