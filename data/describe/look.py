"""A closer look at a sample of rows: pictures, tokens, what is trained."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.config import ModelConfig, VisionConfig
from mlx_phi3v.errors import UserError
from mlx_phi3v.photo import open_photo
from mlx_phi3v.progress import Progress
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Task

from .figures import Piece, Preview, TokenFigures

_SHEET_SIDE = 112


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
    from mlx_phi3v.crops import crop_grid_of, image_token_count

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
