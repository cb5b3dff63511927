"""Draw the built-in sample catalogue, in worker processes."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from mlx_phi3v.cli import check_ranges
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_json
from mlx_phi3v.prefetch import prefetch
from mlx_phi3v.progress import note
from mlx_phi3v.task import Task
from mlx_phi3v.worker_context import WorkerPool, begin_worker

from ..writer import CatalogueWriter, made_before
from .brands import get_brand
from .products import Product, draw_product, permute
from .settings import SampleConfig

_CHUNK = 25  # products a worker draws at a time
_AHEAD = 4  # chunks in flight per worker: bounds memory


def split_counts(settings: SampleConfig) -> tuple[int, int]:
    """(validation, test) rows. Raises UserError where they leave nothing to train on."""
    count = settings.products
    validation = settings.validation if settings.validation is not None else round(count * settings.validation_share)
    test = settings.test if settings.test is not None else round(count * settings.test_share)
    if validation + test >= count:
        raise UserError(
            f"{validation} validation and {test} test products leave none of {count} to train on; "
            "lower them or raise --products"
        )
    return validation, test


def split_of(index: int, count: int, validation: int, test: int, seed: int) -> str:
    """The split of product `index`: by its place in a seeded permutation, so the counts are exact."""
    place = permute(index, count, seed)
    return "test" if place < test else "validation" if place < test + validation else "train"


def _draw_chunk(brand: str, seed: int, span: tuple[int, int]) -> list[Product]:
    return [draw_product(get_brand(brand), seed, index) for index in range(*span)]


def _start_worker() -> None:
    import cv2

    begin_worker()
    cv2.setNumThreads(1)  # one core per worker: OpenCV's own threads would only compete


def draw_products(brand: str, seed: int, count: int, processes: int) -> Iterator[Product]:
    """Products 0 to `count` in order, drawn by `processes` workers with a bounded number of them in flight.

    Raises UserError if a worker is killed.
    """
    spans = ((start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))
    draw = functools.partial(_draw_chunk, brand, seed)
    if processes == 1:
        for span in spans:
            yield from draw(span)
        return
    pool = WorkerPool(processes, _start_worker)
    try:
        with contextlib.closing(prefetch(draw, spans, ahead=processes * _AHEAD, pool=pool)) as chunks:
            for chunk in chunks:
                yield from chunk
    except BrokenProcessPool:
        raise UserError("a drawing process was killed, probably by lack of memory; lower --processes") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def sample(settings: SampleConfig) -> dict[str, Any]:
    """Draw the catalogue of `settings` -> a summary (folder, fingerprint, rows per split, seconds, rate).

    A catalogue that the same settings made before stays as it is. Raises UserError for an unknown brand, counts that do
    not fit, an output folder that is not empty, and where another process is writing it.
    """
    check_settings(settings)
    validation, test = split_counts(settings)
    processes = _processes(settings)
    chosen = _chosen(settings, validation, test)
    began = time.monotonic()
    if made := made_before(settings.output, chosen):
        note(f"{settings.output} is there already, drawn with the same settings; nothing was done")
        return _summary(settings, made, processes, began)
    with _open_writer(settings, chosen) as writer, _bar(settings) as advance:
        for index, product in enumerate(draw_products(settings.brand, settings.seed, settings.products, processes)):
            image = writer.add_image(product.picture, product.suffix)
            split = split_of(index, settings.products, validation, test, settings.seed)
            writer.add(split, {**product.row, "images": [image]})
            advance()
    return _summary(settings, writer.info, processes, began)


def _summary(settings: SampleConfig, info: Mapping[str, Any], processes: int, began: float) -> dict[str, Any]:
    seconds = max(time.monotonic() - began, 1e-9)
    return {
        "output": str(settings.output),
        "fingerprint": info["fingerprint"],
        "rows": {name: entry["rows"] for name, entry in info["splits"].items()},
        "processes": processes,
        "seconds": round(seconds, 2),
        "products_per_second": round(settings.products / seconds, 1),
    }


def check_settings(settings: SampleConfig) -> None:
    """Raise UserError for an unknown brand or a number out of range."""
    get_brand(settings.brand)
    check_ranges(settings)


def _processes(settings: SampleConfig) -> int:
    # Starting workers costs more than a second, so a small catalogue is drawn here.
    return settings.processes or (1 if settings.products < 300 else os.cpu_count() or 1)


def _chosen(settings: SampleConfig, validation: int, test: int) -> dict[str, Any]:
    """The entries of `catalogue.json` that hold all that decides the content."""
    chosen = {
        "brand": settings.brand,
        "products": settings.products,
        "seed": settings.seed,
        "validation": validation,
        "test": test,
    }
    source = {"generator": "data.sample", "brand": settings.brand, "settings": sha256_json(chosen)}
    return {"source": source, "settings": chosen}


def _open_writer(settings: SampleConfig, chosen: Mapping[str, Any]) -> CatalogueWriter:
    import pyarrow as pa

    text = ("product_code", "brand", "currency", "material", "colour", "pattern", "size")
    return CatalogueWriter(
        settings.output,
        Task(),
        name=f"{settings.brand}-{settings.products}-{settings.seed}",
        **chosen,
        extra={**dict.fromkeys(text, pa.string()), "logo": pa.bool_(), "season": pa.string()},
    )


@contextlib.contextmanager
def _bar(settings: SampleConfig) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal -> what to call for each product drawn."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} products/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=console, disable=settings.json or not console.is_terminal) as progress:
        bar = progress.add_task(f"drawing {settings.brand}", total=settings.products, rate=0.0)

        def advance() -> None:
            done = progress.tasks[0].completed + 1
            progress.update(bar, advance=1, rate=done / max(time.monotonic() - began, 1e-9))

        yield advance
