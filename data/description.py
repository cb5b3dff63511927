"""What a careful person looks at before training on a catalogue, as plain figures.

Counts, categories, prices and duplicates are of all rows; picture sizes and tokens are of a seeded sample. Memory: the
sample, and 24 bytes a row for prices and duplicates.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlx_phi3v.errors import UserError
from mlx_phi3v.photo import open_photo
from mlx_phi3v.progress import Progress
from mlx_phi3v.task import Field, Task, is_missing

from .catalogue import Catalogue

if TYPE_CHECKING:
    from mlx_phi3v.config import ModelConfig, VisionConfig
    from mlx_phi3v.prompts import PromptProcessor

_BINS = 24
_SHEET_SIDE = 112


@dataclass(frozen=True)
class Bin:
    """One bar of a histogram: values from `low` to below `high`."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class FieldFigures:
    """One field over all rows: missing values by split; counts by category and split; a histogram of numbers."""

    field: Field
    missing: dict[str, int]
    categories: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    histogram: tuple[Bin, ...] = ()
    quantiles: dict[str, float] = dataclasses.field(default_factory=dict)
    lengths: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class TokenFigures:
    """Tokens of the sampled rows at one `num_crops`; `over` of them are longer than the limit."""

    num_crops: int
    median: int
    p95: int
    largest: int
    image_median: int
    over: int


@dataclass(frozen=True)
class Piece:
    """A run of an example's text: `trained` pieces are what the loss is taken over."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Preview:
    """One row as training sees it: its text in pieces and its picture as a data URI."""

    row: str
    pieces: tuple[Piece, ...]
    picture: str | None


@dataclass(frozen=True)
class Description:
    """All figures of a catalogue. `limit` is the most tokens a row may take, where it is known."""

    folder: str
    name: str
    fingerprint: str
    task: Task
    rows: dict[str, int]
    counts: dict[str, Any]
    products: dict[str, Any]
    fields: tuple[FieldFigures, ...]
    duplicates: dict[str, int]
    sampled: int
    widths: tuple[Bin, ...]
    heights: tuple[Bin, ...]
    sides: dict[str, float]
    unreadable: tuple[str, ...]
    tokens: tuple[TokenFigures, ...]
    with_text: bool
    limit: int | None
    previews: tuple[Preview, ...]
    sheet: tuple[tuple[str, str], ...]


def describe(
    catalogue: Catalogue,
    *,
    model: Path | None = None,
    num_crops: Sequence[int] = (1, 4, 16),
    max_length: int | None = None,
    sample: int = 1000,
    pictures: int = 48,
    previews: int = 3,
    seed: int = 0,
    as_json: bool = False,
) -> Description:
    """Look at a catalogue. With the folder of a `model` its tokenizer counts the text and shows the labels.

    Raises UserError for a catalogue or model that cannot be read.
    """
    scan = _Scan(catalogue, as_json)
    chosen = _sample(catalogue, scan.rows, sample, seed)
    prompts, config = _open_model(model)
    vision = config.vision if config else _default_vision()
    limit = max_length or (config.max_position_embeddings if config else None)
    looks = list(_look(chosen, catalogue.task, prompts, as_json))
    sizes = [size for look in looks for size in look.sizes]
    tokens = tuple(_token_figures(crops, looks, vision, limit) for crops in num_crops) if looks else ()
    crops = config.num_crops if config else num_crops[0]
    return Description(
        folder=str(catalogue.folder),
        name=str(catalogue.info.get("name", "")),
        fingerprint=catalogue.fingerprint,
        task=catalogue.task,
        rows=scan.rows,
        counts=catalogue.info.get("counts", {}),
        products=catalogue.info.get("products", {}),
        fields=scan.figures(),
        duplicates=scan.duplicates(),
        sampled=len(looks),
        widths=histogram([width for width, _ in sizes]),
        heights=histogram([height for _, height in sizes]),
        sides=quantiles([min(size) for size in sizes]),
        unreadable=tuple(look.fault for look in looks if look.fault)[:20],
        tokens=tokens,
        with_text=prompts is not None,
        limit=limit,
        previews=tuple(_preview(look, catalogue.task, prompts, vision, crops) for look in looks[:previews]) if prompts else (),
        sheet=tuple(_sheet(looks, catalogue.task, pictures)),
    )


def histogram(values: Sequence[float] | NDArray[np.float64], *, logarithmic: bool = False) -> tuple[Bin, ...]:
    """Up to 24 bars from the smallest to the largest value, evenly wide or evenly wide in logarithm."""
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        return ()
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:
        return (Bin(low, high, int(numbers.size)),)
    if logarithmic and low > 0:
        edges = np.geomspace(low, high, _BINS + 1)
    else:
        edges = np.linspace(low, high, _BINS + 1)
    edges[0], edges[-1] = low, high  # geomspace may round its ends inward
    counts, _ = np.histogram(numbers, edges)
    return tuple(Bin(float(a), float(b), int(n)) for a, b, n in zip(edges, edges[1:], counts))


def quantiles(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Smallest, 5 %, median, 95 % and largest value; empty for no values."""
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        return {}
    names = ("smallest", "5 %", "median", "95 %", "largest")
    return dict(zip(names, map(float, np.quantile(numbers, (0, 0.05, 0.5, 0.95, 1)))))


class _Scan:
    """One pass over all rows, a batch at a time."""

    def __init__(self, catalogue: Catalogue, as_json: bool) -> None:
        self.task = catalogue.task
        self.rows = {name: entry["rows"] for name, entry in catalogue.info["splits"].items()}
        self._missing = {item.name: Counter[str]() for item in self.task.fields}
        self._categories = {item.name: dict[str, Counter[str]]() for item in self.task.fields if item.kind == "category"}
        self._numbers = {item.name: array("d") for item in self.task.fields if item.kind == "number"}
        self._lengths = {item.name: Counter[int]() for item in self.task.fields if item.kind == "text"}
        self._pictures = {name: array("Q") for name in self.rows}
        self._answers = array("Q")
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
        for image in row["images"] or ():
            self._pictures[split].append(int(Path(image).stem[:16], 16))
        answer = self.task.answer(row).encode("utf-8", "replace")
        self._answers.append(int.from_bytes(hashlib.blake2b(answer, digest_size=8).digest(), "big"))

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
        """How often pictures and whole answers come again, and pictures that stand in several splits."""
        by_split = [np.unique(np.asarray(pictures, dtype=np.uint64)) for pictures in self._pictures.values()]
        distinct = np.unique(np.concatenate(by_split)) if by_split else np.zeros(0)
        total = sum(len(pictures) for pictures in self._pictures.values())
        answers = np.asarray(self._answers, dtype=np.uint64)
        return {
            "pictures used again": total - len(distinct),
            "pictures in several splits": sum(map(len, by_split)) - len(distinct),
            "answers that come again": len(answers) - len(np.unique(answers)),
        }


@dataclass(frozen=True)
class _Look:
    """A sampled row, its picture sizes (width, height) and the length of its text in tokens without pictures."""

    row: dict[str, Any]
    split: str
    sizes: tuple[tuple[int, int], ...]
    text_tokens: int
    fault: str | None


def _sample(catalogue: Catalogue, rows: dict[str, int], sample: int, seed: int) -> list[tuple[str, dict[str, Any]]]:
    total = sum(rows.values())
    picked = np.random.default_rng(seed).choice(total, size=min(sample, total), replace=False)
    found, start = [], 0
    ranges = []
    for name, count in rows.items():
        ranges.append((name, start, start + count))
        start += count
    splits = {name: catalogue.split(name) for name, count in rows.items() if count}
    for index in picked.tolist():
        name, first, _ = next(entry for entry in ranges if entry[1] <= index < entry[2])
        found.append((name, splits[name][index - first]))
    return found


def _look(
    chosen: list[tuple[str, dict[str, Any]]], task: Task, prompts: PromptProcessor | None, as_json: bool
) -> Iterator[_Look]:
    with Progress("looking at pictures", len(chosen), as_json=as_json) as bar:
        for split, row in chosen:
            sizes, fault = [], None
            for path in row["images"]:
                try:
                    with Image.open(path) as image:
                        sizes.append(image.size)
                except OSError as error:
                    fault = f"{path}: {error}"
            text = 0
            if prompts and not fault:
                ids, _ = prompts.example(task.prompt, task.answer(row), [0] * len(sizes))
                text = len(ids)
            bar.advance()
            yield _Look(row, split, tuple(sizes), text, fault)


def _token_figures(num_crops: int, looks: list[_Look], vision: VisionConfig, limit: int | None) -> TokenFigures:
    images = np.array([sum(_image_tokens(size, num_crops, vision) for size in look.sizes) for look in looks])
    totals = images + np.array([look.text_tokens for look in looks])
    over = int((totals > limit).sum()) if limit else 0
    p50, p95 = np.quantile(totals, (0.5, 0.95))
    return TokenFigures(num_crops, int(p50), int(p95), int(totals.max()), int(np.median(images)), over)


def _image_tokens(size: tuple[int, int], num_crops: int, vision: VisionConfig) -> int:
    from mlx_phi3v.images import crop_grid_of, image_token_count

    return image_token_count(crop_grid_of(size, num_crops), vision)


def _open_model(folder: Path | None) -> tuple[PromptProcessor | None, ModelConfig | None]:
    if folder is None:
        return None, None
    from mlx_phi3v.config import load_model_config
    from mlx_phi3v.prompts import PromptProcessor

    return PromptProcessor(folder), load_model_config(folder)


def _default_vision() -> VisionConfig:
    from mlx_phi3v.config import VisionConfig

    return VisionConfig()


def _preview(look: _Look, task: Task, prompts: PromptProcessor, vision: VisionConfig, num_crops: int) -> Preview:
    counts = [_image_tokens(size, num_crops, vision) for size in look.sizes]
    ids, labels = prompts.example(task.prompt, task.answer(look.row), counts)
    pieces: list[Piece] = []
    for token, label in zip(ids.tolist(), labels.tolist()):
        trained = label >= 0
        if token < 0:
            text = f"[picture {-token}: {counts[-token - 1]} tokens]"
            if pieces and pieces[-1].text == text:
                continue
        else:
            text = (prompts.tokenizer.id_to_token(token) or "?").replace("▁", " ").replace("<0x0A>", "⏎")
        pieces.append(Piece(text, trained))
    picture = _thumbnail(look.row["images"][0], 224) if look.row["images"] and not look.fault else None
    return Preview(f"{look.split} {look.row['id']}", tuple(pieces), picture)


def _sheet(looks: list[_Look], task: Task, count: int) -> Iterator[tuple[str, str]]:
    """(thumbnail as data URI, what the row says) for the contact sheet."""
    usable = (look for look in looks if look.row["images"] and not look.fault)
    for look, _ in zip(usable, range(count)):
        if thumbnail := _thumbnail(look.row["images"][0], _SHEET_SIDE):
            yield thumbnail, task.answer(look.row)


def _thumbnail(path: str, side: int) -> str | None:
    try:
        image = open_photo(path)
    except UserError:
        return None
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
