"""Figures of all rows of a catalogue, gathered in one pass."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.progress import Progress
from mlx_phi3v.task import Field, is_missing

from .figures import FieldFigures, histogram, quantiles

_MASK = 2**64 - 1

_NONE = np.zeros(0, np.uint64)


def _photo_key(image: str) -> int:
    """64 bits of what a photo is: its name begins with the hash of its bytes, where a writer of ours made it."""
    try:
        return int(Path(image).stem[:16], 16) & _MASK
    except ValueError:
        return int.from_bytes(hashlib.blake2b(image.encode(), digest_size=8).digest(), "big")


class AllRows:
    """One pass over all rows, a batch at a time. Memory: 32 bytes a row for prices and duplicates."""

    def __init__(self, catalogue: Catalogue, as_json: bool) -> None:
        self.task = catalogue.task
        self.rows = {name: entry["rows"] for name, entry in catalogue.info["splits"].items()}
        self._missing = {item.name: Counter[str]() for item in self.task.fields}
        self._categories = {item.name: dict[str, Counter[str]]() for item in self.task.fields if item.kind == "category"}
        self._numbers = {item.name: array("d") for item in self.task.fields if item.kind == "number"}
        self._lengths = {item.name: Counter[int]() for item in self.task.fields if item.kind == "text"}
        self._photos = {name: array("Q") for name in self.rows}
        self._said = {name: array("Q") for name in self.rows}  # the answer at each photo
        self._answers = array("Q")
        self._read(catalogue, as_json)

    def _read(self, catalogue: Catalogue, as_json: bool) -> None:
        columns = ["images", *(item.name for item in self.task.fields)]
        with Progress("reading rows", sum(self.rows.values()), as_json=as_json) as bar:
            for name, count in self.rows.items():
                if count:
                    for batch in catalogue.split(name).batches(columns):
                        for row in batch:
                            self._take(name, row)
                        bar.advance(len(batch))

    def _take(self, split: str, row: dict[str, Any]) -> None:
        for item in self.task.fields:
            value = row[item.name]
            if is_missing(value):
                self._missing[item.name][split] += 1
            elif item.kind == "category":
                self._categories[item.name].setdefault(value, Counter())[split] += 1
            elif item.kind == "number":
                self._numbers[item.name].append(value)
            else:
                self._lengths[item.name][len(value)] += 1
        answer = self.task.answer(row).encode("utf-8", "replace")
        key = int.from_bytes(hashlib.blake2b(answer, digest_size=8).digest(), "big")
        self._answers.append(key)
        for image in row["images"] or ():
            self._photos[split].append(_photo_key(image))
            self._said[split].append(key)

    def figures(self) -> tuple[FieldFigures, ...]:
        """Figures of every field."""
        return tuple(self._field(item) for item in self.task.fields)

    def _field(self, item: Field) -> FieldFigures:
        missing = dict(self._missing[item.name])
        if item.kind == "category":
            counts = sorted(self._categories[item.name].items(), key=lambda entry: (-entry[1].total(), entry[0]))
            return FieldFigures(item, missing, categories={name: dict(count) for name, count in counts})
        if item.kind == "number":
            values = np.asarray(self._numbers[item.name])
            return FieldFigures(item, missing, histogram=histogram(values, logarithmic=True), quantiles=quantiles(values))
        lengths = np.repeat(list(self._lengths[item.name].keys()), list(self._lengths[item.name].values()))
        return FieldFigures(item, missing, lengths=quantiles(lengths))

    def duplicates(self) -> dict[str, int]:
        """How often photos and whole answers repeat, and the photos that are in several splits."""
        by_split = [np.unique(np.asarray(photos, dtype=np.uint64)) for photos in self._photos.values()]
        distinct = np.unique(np.concatenate(by_split)) if by_split else np.zeros(0)
        total = sum(len(photos) for photos in self._photos.values())
        answers = np.asarray(self._answers, dtype=np.uint64)
        return {
            "pictures used again": total - len(distinct),
            "pictures in several splits": sum(map(len, by_split)) - len(distinct),
            "answers that come again": len(answers) - len(np.unique(answers)),
        } | self._contradictions()

    def _contradictions(self) -> dict[str, int]:
        """Exact copies of a photo that are trained with different answers: the photos, and the rows that show them."""
        photos = np.concatenate([np.asarray(found, dtype=np.uint64) for found in self._photos.values()] or [_NONE])
        said = np.concatenate([np.asarray(found, dtype=np.uint64) for found in self._said.values()] or [_NONE])
        if not len(photos):
            return {}
        pairs = np.unique(np.stack([photos, said]), axis=1)
        several, counts = np.unique(pairs[0], return_counts=True)
        several = several[counts > 1]
        return {"pictures with different answers": len(several), "rows of such pictures": int(np.isin(photos, several).sum())}
