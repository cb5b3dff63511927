"""Answer every product of a split, in batches made ahead, resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mlx_phi3v.batches import Example, ExampleMaker
from mlx_phi3v.catalogue import Catalogue, Split
from mlx_phi3v.decoding import Generation, LoadedModel, Sampling, answer_text, generate, load_model
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_bytes, sha256_json
from mlx_phi3v.photo import Photo
from mlx_phi3v.progress import Progress, note, say
from mlx_phi3v.task import Task
from mlx_phi3v.training.feature_cache import FeatureCache

from ..runs.prediction import predicted_values, true_values
from ..runs.writer import RunWriter
from .describe_run import TOP_K, describe_run
from .score_tokens import trace
from .settings import PredictConfig, chosen_rows, parse_shard


@dataclass(frozen=True)
class Question:
    """A product to answer for: its catalogue row, the prompt, and hashes of all that goes into the model."""

    row: dict[str, Any]
    example: Example
    fingerprints: dict[str, str | None]


def fingerprints(photos: Sequence[Photo], example: Example) -> dict[str, str | None]:
    """Hashes of a row's inputs, stage by stage: photo file, decoded pixels, pixel values, token ids."""
    values = b"".join(image.pixel_values.tobytes() for image in example.images)
    return {
        "file": sha256_json([photo.sha256 for photo in photos]) if photos else None,
        "pixels": sha256_bytes(b"".join(photo.rgb.tobytes() for photo in photos)) if photos else None,
        "pixel_values": sha256_bytes(values) if photos else None,
        "input_ids": sha256_bytes(example.input_ids.astype("<i8").tobytes()),
    }


def questions_ahead(split: Split, rows: Sequence[int], maker: ExampleMaker, size: int) -> Iterator[list[Question]]:
    """The questions of these rows, batch by batch, the next one made while the last is answered."""

    def make(numbers: Sequence[int]) -> list[Question]:
        made = []
        for number in numbers:
            row = split[number]
            example, photos = maker.with_photos(row, with_answer=False)
            made.append(Question(row, example, fingerprints(photos, example)))
        return made

    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make, parts[0]) if parts else None
        for i in range(len(parts)):
            assert waiting is not None
            ready = waiting.result()
            waiting = pool.submit(make, parts[i + 1]) if i + 1 < len(parts) else None
            yield ready


def task_to_answer(model: LoadedModel, catalogue: Catalogue) -> tuple[Task, str | None]:
    """The task to ask by, and what to say of it.

    An adapter is asked the question it was trained on, where the catalogue has the true values of its fields.
    """
    if model.trained is None or model.trained.task == catalogue.task:
        return catalogue.task, None
    lacking = {item.name for item in model.trained.task.fields} - {item.name for item in catalogue.task.fields}
    if not lacking:
        return model.trained.task, f"asking the question of the adapter's training, not that of {catalogue.folder}"
    fields = ", ".join(sorted(lacking))
    return catalogue.task, f"the adapter was trained to answer {fields}, which {catalogue.folder} lacks: asking the catalogue's"


def predict(config: PredictConfig) -> dict[str, Any]:
    """Answer for all rows that are not answered yet; a summary. Raises UserError for wrong settings or data."""
    if config.batch_size < 1:
        raise UserError(f"--batch-size is {config.batch_size}; it must be 1 or more")
    catalogue = Catalogue(config.data)
    split = catalogue.split(config.split)
    rows = chosen_rows(split, config.limit, parse_shard(config.shard))
    say(f"loading {config.model} on {config.backend}", as_json=config.json)
    options = {"attn_implementation": config.attn_implementation} if config.backend == "torch" else {}
    model = load_model(config.model, config.backend, config.adapter, config.dtype, **options)
    task, remark = task_to_answer(model, catalogue)
    for line in (*model.differences(config.num_crops), *filter(None, [remark])):
        note(line)
    num_crops = model.num_crops(config.num_crops)
    cache = _feature_cache(config, model, num_crops)
    # With its crops, for their fingerprints.
    process = (lambda photo: cache.image(photo, with_crops=True)) if cache else None
    maker = ExampleMaker(model.prompts, model.backend.config, task, num_crops, process=process)
    if config.trace:
        return trace(config, model.backend, maker, split)
    started = time.perf_counter()
    with RunWriter.open(config.output, describe_run(config, catalogue, model, task)) as writer:
        _answer_rows(config, model, maker, cache, split, rows, writer)
        writer.finish(seconds=time.perf_counter() - started)
    if cache:
        say(cache.summary(), as_json=config.json)
    return {"run": str(config.output), "rows": len(rows), "seconds": round(time.perf_counter() - started, 1)}


def _answer_rows(
    config: PredictConfig, model: LoadedModel, maker: ExampleMaker, cache: FeatureCache | None,
    split: Split, rows: range, writer: RunWriter,
) -> None:  # fmt: skip
    """Answer for the rows that the run lacks, writing each batch as it is answered."""
    ids = split.column("id")
    left = [i for i in rows if ids[i] not in writer.done]
    sampling = Sampling(config.temperature, config.top_p, config.seed, top_k_logged=TOP_K)
    started, answered = time.perf_counter(), 0
    with Progress(f"answering on {config.backend}", len(rows), as_json=config.json, done=len(rows) - len(left)) as progress:
        for batch in questions_ahead(split, left, maker, config.batch_size):
            began = time.perf_counter()
            examples = [question.example for question in batch]
            answers = generate(
                model.backend,
                cache.fill(examples) if cache else examples,
                max_new_tokens=config.max_new_tokens,
                stop_ids=model.prompts.stop_ids,
                sampling=sampling,
            )
            seconds = (time.perf_counter() - began) / len(batch)
            for question, answer in zip(batch, answers):
                writer.write(_prediction(maker.task, question, answer, answer_text(answer, model.prompts), seconds))
            answered += len(batch)
            progress.advance(len(batch), rows_per_second=round(answered / (time.perf_counter() - started), 2))


def _feature_cache(config: PredictConfig, model: LoadedModel, num_crops: int) -> FeatureCache | None:
    if config.feature_cache is None:
        return None
    adapter = (model.adapter.config, model.adapter.tensors) if model.adapter else None
    return FeatureCache(config.feature_cache, model.backend, num_crops, config.feature_cache_gb, adapter)


def _prediction(task: Task, question: Question, answer: Generation, text: str, seconds: float) -> dict[str, Any]:
    row = question.row
    return {
        "id": row["id"],
        "true": true_values(task, row),
        "predicted": predicted_values(task, text, truncated=answer.finish != "end"),
        "text": text,
        "token_ids": answer.token_ids,
        "logprobs": [round(value, 6) for value in answer.logprobs],
        "top_k": [[[i, round(value, 6)] for i, value in step] for step in answer.top_k],
        "finish": answer.finish,
        "fingerprints": question.fingerprints,
        "seconds": round(seconds, 4),
        "image": row["images"][0] if row["images"] else None,
    }
