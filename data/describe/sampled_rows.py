"""A closer look at a seeded sample of rows: photo sizes, tokens, what is trained, a contact sheet."""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.config import ModelArgs, VisionArgs, load_model_config
from mlx_phi3v.crops import crop_grid_of, image_token_count
from mlx_phi3v.photo import PhotoError, photo_size, small_photo, thumbnail
from mlx_phi3v.progress import Progress
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Task
from mlx_phi3v.turns import row_exchanges

from .figures import FaultFigures, Piece, Preview, TokenFigures
from .photo_faults import FAULTS, SIDE, photo_faults

_SHEET_SIDE, _PREVIEW_SIDE = 112, 224  # pixels of a thumbnail's longer side
_SHOWN_FAULTS = 8


@dataclass(frozen=True)
class SampledRow:
    """A sampled row, its photo sizes (width, height) and the length of its text in tokens without photos."""

    row: dict[str, Any]
    split: str
    sizes: tuple[tuple[int, int], ...]
    text_tokens: int
    problem: str | None
    faults: tuple[tuple[str, str], ...] = ()  # (photo, name of a fault)

    @property
    def first_photo(self) -> str | None:
        """The row's first photo, where all of its photos can be opened."""
        return self.row["images"][0] if self.row["images"] and not self.problem else None


def open_model(folder: Path | None) -> tuple[PromptProcessor | None, ModelArgs | None]:
    """Tokenizer and configuration of a model's folder, where one is given."""
    return (None, None) if folder is None else (PromptProcessor(folder), load_model_config(folder))


def draw_rows(catalogue: Catalogue, rows: dict[str, int], sample: int, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """(split, row) of a seeded sample over all splits; `rows` are the splits' lengths."""
    total = sum(rows.values())
    picked = np.random.default_rng(seed).choice(total, size=min(sample, total), replace=False)
    names, ends = list(rows), np.cumsum(list(rows.values())).tolist()
    splits = {name: catalogue.split(name) for name, count in rows.items() if count}
    found = []
    for index in picked.tolist():
        place = bisect.bisect_right(ends, index)
        name = names[place]
        found.append((name, splits[name][index - ends[place] + rows[name]]))
    return found


def look_at_rows(
    chosen: list[tuple[str, dict[str, Any]]], task: Task, prompts: PromptProcessor | None, as_json: bool
) -> Iterator[SampledRow]:
    """Open the photos of every row chosen and count the tokens of its text."""
    with Progress("reading photos", len(chosen), as_json=as_json) as bar:
        for split, row in chosen:
            sizes, problem = _photo_sizes(row["images"])
            faults = () if problem else _faults(row["images"], sizes)
            text = 0
            if prompts and not problem:
                ids, _ = prompts.conversation(row_exchanges(task, row, len(sizes)), [0] * len(sizes))
                text = len(ids)
            bar.advance()
            yield SampledRow(row, split, tuple(sizes), text, problem, faults)


def _photo_sizes(paths: list[str]) -> tuple[list[tuple[int, int]], str | None]:
    """(sizes of the photos that open, as training sees them, what is wrong with the last of those that do not)."""
    sizes, problem = [], None
    for path in paths:
        try:
            sizes.append(photo_size(path))
        except PhotoError as error:
            problem = str(error)
    return sizes, problem


def _faults(paths: list[str], sizes: list[tuple[int, int]]) -> tuple[tuple[str, str], ...]:
    """(photo, fault) of each fault of a row's photos; none of a photo that does not decode."""
    found: list[tuple[str, str]] = []
    for path, size in zip(paths, sizes):
        with contextlib.suppress(PhotoError):
            found += [(path, name) for name in photo_faults(small_photo(path, SIDE), size)]
    return tuple(found)


def fault_figures(rows: list[SampledRow], task: Task) -> tuple[FaultFigures, ...]:
    """How many of the sampled rows have a photo with each fault, and the first of them."""
    found = []
    for name, meaning in FAULTS.items():
        having = [(row, path) for row in rows for path, fault in row.faults if fault == name]
        distinct = {row.row["id"]: (row, path) for row, path in reversed(having)}
        if distinct:
            first = list(distinct.values())[::-1][:_SHOWN_FAULTS]
            shown = [(small, f"{row.split} {row.row['id']}") for row, path in first if (small := thumbnail(path, _SHEET_SIDE))]
            ids = tuple(f"{row.split} {row.row['id']}" for row, _ in first)
            found.append(FaultFigures(name, meaning, len(distinct), ids, tuple(shown)))
    return tuple(found)


def token_figures(num_crops: int, rows: list[SampledRow], vision: VisionArgs, limit: int | None) -> TokenFigures:
    """Tokens of the sampled rows at one `num_crops`."""
    images = np.array([sum(_image_tokens(row, num_crops, vision)) for row in rows])
    totals = images + np.array([row.text_tokens for row in rows])
    over = int((totals > limit).sum()) if limit else 0
    p50, p95 = np.quantile(totals, (0.5, 0.95))
    return TokenFigures(num_crops, int(p50), int(p95), int(totals.max()), int(np.median(images)), over)


def _image_tokens(row: SampledRow, num_crops: int, vision: VisionArgs) -> list[int]:
    """Tokens of each photo of a row."""
    return [image_token_count(crop_grid_of(size, num_crops), vision) for size in row.sizes]


def preview(row: SampledRow, task: Task, prompts: PromptProcessor, vision: VisionArgs, num_crops: int) -> Preview:
    """The row as training sees it."""
    counts = _image_tokens(row, num_crops, vision)
    ids, labels = prompts.conversation(row_exchanges(task, row.row, len(counts)), counts)
    pieces: list[Piece] = []
    for token, label in zip(ids.tolist(), labels.tolist()):
        if token < 0:
            text = f"[photo {-token}: {counts[-token - 1]} tokens]"
            if pieces and pieces[-1].text == text:
                continue
        else:
            text = (prompts.tokenizer.id_to_token(token) or "?").replace("▁", " ").replace("<0x0A>", "⏎")
        pieces.append(Piece(text, label >= 0))
    photo = thumbnail(row.first_photo, _PREVIEW_SIDE) if row.first_photo else None
    return Preview(f"{row.split} {row.row['id']}", tuple(pieces), photo)


def contact_sheet(rows: list[SampledRow], task: Task, count: int) -> Iterator[tuple[str, str]]:
    """(thumbnail as data URI, the row's answer) of the first `count` rows with a photo."""
    usable = (row for row in rows if row.first_photo)
    for row in itertools.islice(usable, count):
        assert row.first_photo
        if small := thumbnail(row.first_photo, _SHEET_SIDE):
            yield small, task.answer(row.row)
