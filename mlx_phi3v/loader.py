"""Batches of a split in the seeded order, made ahead of the step that takes them."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from .batches import Batch, Example, ExampleMaker, batch_rows, collate
from .catalogue import Split
from .training.features import FeatureCache


class BatchLoader:
    """Batches of a split in the seeded order, made a few ahead by threads. Each rank takes its share of every batch."""

    def __init__(
        self, split: Split, maker: ExampleMaker, cache: FeatureCache | None, *, batch_size: int, seed: int,
        group_by_length: bool, world: tuple[int, int],
    ) -> None:  # fmt: skip
        """world: (rank, ranks)."""
        self.split, self.maker, self.cache = split, maker, cache
        self.batch_size, self.seed, self.group_by_length = batch_size, seed, group_by_length
        self.rank, self.ranks = world
        self.waited = 0.0  # seconds that the model had no batch to work on

    def make(self, rows: Sequence[int]) -> Batch | None:
        """The batch of these rows (right-padded), None where this rank has none of them."""
        return self._finish(self._begin(rows))

    def _begin(self, rows: Sequence[int]) -> Batch | list[Example] | None:
        """What can be done beside the model's own work: all, unless features of pictures are to be looked up."""
        mine = rows[self.rank :: self.ranks]
        examples = [self.maker(self.split[row], with_answer=True) for row in mine]
        if self.cache and examples:
            return examples
        return collate(examples, self.maker.config) if examples else None

    def _finish(self, begun: Batch | list[Example] | None) -> Batch | None:
        if self.cache and isinstance(begun, list):
            return collate(self.cache.complete(begun), self.maker.config)
        assert not isinstance(begun, list)
        return begun

    def __call__(self, start: int, ahead: int = 4) -> Generator[tuple[list[int], Batch | None], None, None]:
        """Endless (rows, batch) from batch number `start` on."""
        length = (lambda row: self.maker.length(self.split[row])) if self.group_by_length else None
        rows = batch_rows(len(self.split), self.batch_size, self.seed, start, length)
        with ThreadPoolExecutor(2) as pool:
            waiting: list[tuple[list[int], Future[Batch | list[Example] | None]]] = []
            try:
                while True:
                    while len(waiting) < ahead:
                        upcoming = next(rows)
                        waiting.append((upcoming, pool.submit(self._begin, upcoming)))
                    ready, future = waiting.pop(0)
                    asked = time.perf_counter()
                    begun = future.result()
                    self.waited += time.perf_counter() - asked
                    yield ready, self._finish(begun)
            finally:
                for _, future in waiting:
                    future.cancel()
