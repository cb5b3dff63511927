"""Photos that stand for no product, such as "no image available": one photo at many rows with answers that contradict it.

What a photo at several rows means is judged by their products and answers. Rows of one code or group are one product.
Names that share most of their words are variants of one product, and several questions or captions a photo are wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlx_phi3v.task import Task

from .chunk_store import CODE, GROUP, ROW, ChunkStore

REASON = "photo_of_many_products"
_FEW, _MANY = 4, 12  # different answers: with few of them their words decide, many are never one product's
_COMMON_WORDS = 0.5  # of a name, that variants of one product share
_MOST_PHOTOS, _MOST_SHARE = 20, 0.02  # with more such photos the source gives several rows a photo on purpose
_KEPT_NAMES = 50  # of a photo, whose words are compared


@dataclass
class _Seen:
    """The rows of one photo."""

    rows: int = 0
    products: set[str] = field(default_factory=set)
    answers: set[int] = field(default_factory=set)
    categories: set[str] = field(default_factory=set)
    names: list[frozenset[str]] = field(default_factory=list)
    path: str = ""

    def is_of_many_products(self) -> bool:
        if len(self.answers) < _FEW or (self.products and len(self.products) < _FEW):
            return False
        if len(self.answers) >= _MANY or len(self.categories) > 1 or not self.names:
            return True
        common = frozenset[str].intersection(*self.names)
        return len(common) < _COMMON_WORDS * float(np.mean([len(words) for words in self.names]))


@dataclass(frozen=True)
class SharedPhotos:
    """The photos found: path in the catalogue -> (rows, different answers)."""

    found: Mapping[str, tuple[int, int]]

    def of_row(self, row: Mapping[str, Any]) -> str | None:
        """The first such photo of a row, or None."""
        return next((image for image in row["images"] if image in self.found), None)

    def report(self, *, kept: bool) -> dict[str, Any]:
        """The entry of `catalogue.json`."""
        photos = [{"photo": path, "rows": rows, "answers": answers} for path, (rows, answers) in self.found.items()]
        return {"kept": kept, "photos": photos}


def find_shared_photos(chunks: ChunkStore, count: int, task: Task) -> SharedPhotos:
    """Look through the rows of `count` chunks. Memory: 8 bytes a photo of a row."""
    keys = np.fromiter((_key(image) for row in chunks.rows(count, ["images"]) for image in row["images"]), np.uint64)
    values, counts = np.unique(keys, return_counts=True)
    often = {int(value) for value in values[counts >= _FEW]}
    if not often or len(often) > max(_MOST_PHOTOS, _MOST_SHARE * len(values)):
        return SharedPhotos({})
    seen: dict[int, _Seen] = {}
    for key, image, row in _rows_of(often, chunks, count, task):
        _add(seen.setdefault(key, _Seen(path=image)), row, task)
    return SharedPhotos({item.path: (item.rows, len(item.answers)) for item in seen.values() if item.is_of_many_products()})


def kept_rows(
    chunks: ChunkStore, count: int, shared: SharedPhotos, columns: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows without those of a shared photo."""
    return (row for row in chunks.rows(count, columns) if not shared.found or shared.of_row(row) is None)


def rejected_rows(chunks: ChunkStore, count: int, shared: SharedPhotos) -> Iterator[dict[str, Any]]:
    """The entries of rejected.csv for rows of a shared photo."""
    for row in chunks.rows(count, [ROW, "images"]) if shared.found else ():
        if (image := shared.of_row(row)) is not None:
            rows, answers = shared.found[image]
            value = f"{Path(image).name} at {rows} rows with {answers} different answers"
            yield {"row": row[ROW], "reason": REASON, "value": value, "place": ""}


def _rows_of(often: set[int], chunks: ChunkStore, count: int, task: Task) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for row in chunks.rows(count, ["images", CODE, GROUP, *(item.name for item in task.fields)]):
        for image in row["images"]:
            if (key := _key(image)) in often:
                yield key, image, row


def _add(seen: _Seen, row: Mapping[str, Any], task: Task) -> None:
    seen.rows += 1
    seen.products.update(str(row[name]) for name in (GROUP, CODE) if row[name])
    # Prices apart: sizes of one product share their photo, but not their price.
    texts = {item.name: row[item.name] for item in task.fields if item.kind != "number" and row[item.name]}
    if len(seen.answers) < 1_000_000:
        seen.answers.add(hash(tuple(texts.items())))
    seen.categories.update(
        texts[item.name].casefold() for item in task.fields if item.kind == "category" and item.name in texts
    )
    name = next((texts[item.name] for item in task.fields if item.kind == "text" and item.name in texts), None)
    if name and len(seen.names) < _KEPT_NAMES:
        seen.names.append(frozenset(name.casefold().split()))


def _key(image: str) -> int:
    return int(Path(image).stem[:16], 16)


def shared_photos_line(report: Mapping[str, Any]) -> str | None:
    """The line of the summary, or None where there is nothing to say."""
    photos = report["photos"]
    if not photos:
        return None
    rows, answers = (sum(photo[name] for photo in photos) for name in ("rows", "answers"))
    subject = "1 photo is" if len(photos) == 1 else f"{len(photos)} photos are"
    done = "were kept" if report["kept"] else "were left out; --keep-shared-photos keeps them"
    return f"{subject} at {rows} rows with {answers} different answers, as of products without a photo: they {done}"
