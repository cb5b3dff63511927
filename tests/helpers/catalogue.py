"""Small catalogues of random pictures, made without data.sample."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.writer import CatalogueWriter
from mlx_phi3v.task import Task

Sizes = Sequence[Sequence[tuple[int, int]]]  # of each row's pictures, in turn
# Width x height of the shared catalogue's pictures: several crop counts, portrait and landscape; two and none in a row.
_SIZES: Sizes = (
    ((300, 300),),
    ((500, 200),),
    ((160, 420),),
    ((300, 310), (90, 60)),
    (),
    ((64, 64),),
)


def random_picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth coloured noise, so that resizing leaves something to see."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def write_catalogue(folder: Path, rows: dict[str, int], sizes: Sizes = _SIZES) -> Path:
    """A catalogue with that many rows per split, made without data.sample; the folder."""
    with CatalogueWriter(folder, Task(), name="test", source={}, settings={}) as writer:
        for split, count in rows.items():
            for i in range(count):
                images = []
                for k, (width, height) in enumerate(sizes[i % len(sizes)]):
                    buffer = io.BytesIO()
                    random_picture(width, height, seed=100 * i + k).save(buffer, "PNG")
                    images.append(writer.add_image(buffer.getvalue(), ".png"))
                title = f"Wool scarf {i}" + " striped" * (i % 3)
                row: dict[str, Any] = {"id": f"{split}-{i}", "images": images, "title": title}
                row |= {"category3_code": ("SCARVES", "BAGS")[i % 2], "full_price": 100.0 + i if i % 4 != 3 else None}
                writer.add(split, row)
    return folder
