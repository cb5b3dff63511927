"""Answer every product of a split, in batches made ahead, resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mlx_phi3v.adapters import load_adapter
from mlx_phi3v.backend import Backend
from mlx_phi3v.batches import Example, ExampleMaker
from mlx_phi3v.catalogue import Catalogue, Split
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.decoding import Generation, Sampling, answer_text, generate, load_model
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_bytes, sha256_file, sha256_json
from mlx_phi3v.photo import open_photo
from mlx_phi3v.progress import Progress, say
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.training.features import FeatureCache

from ..runs.prediction import predicted_values, true_values
from ..runs.writer import RunWriter
from .describe_run import _TOP_K, manifest
from .score_tokens import trace
from .settings import PredictConfig, chosen_rows, parse_shard


def fingerprints(row: dict[str, Any], example: Example) -> dict[str, str | None]:
    """Hashes of a row's inputs, stage by stage: photo file, decoded pixels, pixel values, token ids."""
    files = [sha256_file(path) for path in row["images"]]
    pixels = b"".join(open_photo(path).tobytes() for path in row["images"])
    values = b"".join(image.pixel_values.tobytes() for image in example.images)
    return {
        "file": sha256_json(files) if files else None,
        "pixels": sha256_bytes(pixels) if files else None,
        "pixel_values": sha256_bytes(values) if files else None,
        "input_ids": sha256_bytes(example.input_ids.astype("<i8").tobytes()),
    }


def batches_ahead(
    split: Split, rows: Sequence[int], maker: ExampleMaker, size: int
) -> Iterator[list[tuple[dict[str, Any], Example, dict]]]:
    """Rows with their examples and fingerprints, batch by batch, the next one made while the last is answered."""

    def make(numbers: Sequence[int]) -> list[tuple[dict[str, Any], Example, dict]]:
        made = []
        for number in numbers:
            row = split[number]
            example = maker(row, with_answer=False)
            made.append((row, example, fingerprints(row, example)))
        return made

    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make, parts[0]) if parts else None
        for i in range(len(parts)):
            assert waiting is not None
            ready = waiting.result()
            waiting = pool.submit(make, parts[i + 1]) if i + 1 < len(parts) else None
            yield ready


def predict(config: PredictConfig) -> dict[str, Any]:
    """Answer for all rows that are not answered yet; a summary. Raises UserError for wrong settings or data."""
    catalogue = Catalogue(config.data)
    split = catalogue.split(config.split)
    if config.batch_size < 1:
        raise UserError(f"--batch-size is {config.batch_size}; it must be 1 or more")
    rows = chosen_rows(split, config.limit, parse_shard(config.shard))
    say(f"loading {config.model} on {config.backend}", as_json=config.json)
    options = {"attn_implementation": config.attn_implementation} if config.backend == "torch" else {}
    backend, prompts = load_model(config.model, config.backend, config.adapter, config.dtype, **options)
    num_crops = config.num_crops or backend.config.num_crops
    cache = _feature_cache(config, backend, num_crops)
    # With its crops, for their fingerprints.
    open_image = (lambda path: cache.image(path, with_crops=True)) if cache else None
    maker = ExampleMaker(prompts, backend.config, catalogue.task, num_crops, open_image=open_image)
    if config.trace:
        return trace(config, backend, maker, split)
    sampling = Sampling(config.temperature, config.top_p, seed=config.seed, top_k_logged=_TOP_K)
    started = time.perf_counter()
    with RunWriter.open(config.output, manifest(config, catalogue, backend)) as writer:
        left = [i for i, identity in zip(rows, _ids(split, rows)) if identity not in writer.done]
        with Progress(f"answering on {config.backend}", len(rows), as_json=config.json, done=len(rows) - len(left)) as progress:
            for batch in batches_ahead(split, left, maker, config.batch_size):
                began = time.perf_counter()
                examples = [example for _, example, _ in batch]
                answers = generate(
                    backend,
                    cache.complete(examples) if cache else examples,
                    max_new_tokens=config.max_new_tokens,
                    stop_ids=prompts.stop_ids,
                    sampling=sampling,
                )
                seconds = (time.perf_counter() - began) / len(batch)
                for (row, _, marks), answer in zip(batch, answers):
                    writer.write(_prediction(catalogue, row, marks, answer, prompts, seconds))
                elapsed = time.perf_counter() - started
                progress.advance(
                    len(batch), rows_per_second=round((progress.done + len(batch) - len(rows) + len(left)) / elapsed, 2)
                )
        writer.finish(seconds=time.perf_counter() - started)
    if cache:
        say(cache.summary(), as_json=config.json)
    return {"run": str(config.output), "rows": len(rows), "seconds": round(time.perf_counter() - started, 1)}


def _feature_cache(config: PredictConfig, backend: Backend, num_crops: int) -> FeatureCache | None:
    if config.feature_cache is None:
        return None
    fingerprint = base_fingerprint(backend.folder)
    adapter = load_adapter(config.adapter, backend.config, fingerprint) if config.adapter else None
    return FeatureCache(config.feature_cache, backend, num_crops, config.feature_cache_gb, adapter)


def _ids(split: Split, rows: range) -> list[str]:
    ids = split.column("id")
    return [ids[i] for i in rows]


def _prediction(
    catalogue: Catalogue, row: dict[str, Any], marks: dict, answer: Generation, prompts: PromptProcessor, seconds: float
) -> dict[str, Any]:
    text = answer_text(answer, prompts)
    return {
        "id": row["id"],
        "true": true_values(catalogue.task, row),
        "predicted": predicted_values(catalogue.task, text, truncated=answer.finish != "end"),
        "text": text,
        "token_ids": answer.token_ids,
        "logprobs": [round(value, 6) for value in answer.logprobs],
        "top_k": [[[i, round(value, 6)] for i, value in step] for step in answer.top_k],
        "finish": answer.finish,
        "fingerprints": marks,
        "seconds": round(seconds, 4),
        "image": row["images"][0] if row["images"] else None,
    }
