"""Answer every row of a split in one batch that others join as rows end; they are prepared meanwhile."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from mlx_phi3v.answer_batch import Generation, RowState, answers
from mlx_phi3v.batches import Example, ExampleMaker
from mlx_phi3v.catalogue import PRODUCT, Catalogue, Split
from mlx_phi3v.cli import check_ranges
from mlx_phi3v.decoding import LoadedModel, answer_text, load_model
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_bytes, sha256_json
from mlx_phi3v.photo import Photo
from mlx_phi3v.prefetch import prefetch
from mlx_phi3v.progress import Progress, note, say
from mlx_phi3v.sampling import Sampling
from mlx_phi3v.task import Task
from mlx_phi3v.training.feature_cache import FeatureCache

from ..runs.prediction import Prediction, true_values
from ..runs.writer import RunWriter
from .run_manifest import TOP_K, make_manifest
from .score_tokens import trace
from .settings import PredictConfig, chosen_rows, parse_shard
from .several_ranks import make_one_run, own_share


@dataclass(frozen=True)
class PreparedRow:
    """A row to answer: its catalogue values, its example without an answer, and hashes of the model's inputs."""

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


def prepare_ahead(split: Split, rows: Sequence[int], maker: ExampleMaker, ahead: int) -> Generator[PreparedRow, None, None]:
    """These rows; so many of the next are prepared while those before them are answered."""

    def prepare(number: int) -> PreparedRow:
        example, photos = maker.of_split(split, number, with_answer=False)
        return PreparedRow(split[number], example, fingerprints(photos, example))

    return prefetch(prepare, rows, ahead=ahead)


def choose_task(model: LoadedModel, catalogue: Catalogue) -> tuple[Task, str | None]:
    """The task to answer, and a note on it where it is not the catalogue's.

    An adapter gets the task it was trained on, where the catalogue has all of its fields.
    """
    if model.trained is None or model.trained.task == catalogue.task:
        return catalogue.task, None
    lacking = {item.name for item in model.trained.task.fields} - {item.name for item in catalogue.task.fields}
    if not lacking:
        return model.trained.task, f"using the prompt of the adapter's training, not that of {catalogue.folder}"
    fields = ", ".join(sorted(lacking))
    return catalogue.task, f"the adapter was trained on {fields}, which {catalogue.folder} lacks: using the catalogue's task"


def predict(config: PredictConfig) -> dict[str, Any]:
    """Answer all rows that are not answered yet; returns a summary. Raises UserError for wrong settings or data."""
    check_ranges(config)
    catalogue = Catalogue(config.data)
    split = catalogue.split(config.split)
    rows = chosen_rows(split, config.limit, parse_shard(config.shard))
    ids = _distinct_ids(split, rows)
    say(f"loading {config.model} on {config.backend}", as_json=config.json)
    options: dict[str, Any] = {"kv_bits": config.kv_bits, "compiled": config.compile}
    if config.backend == "torch":
        options["attn_implementation"] = config.attn_implementation
    model = load_model(config.model, config.backend, config.adapter, config.dtype, **options)
    whole, config = config, own_share(config, model.backend)
    if config is not whole:  # of the rows from the first on: several ranks take no --shard
        rows = chosen_rows(split, config.limit, parse_shard(config.shard))
        ids = [ids[number] for number in rows]
    task, remark = choose_task(model, catalogue)
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
    manifest = make_manifest(config, catalogue, model, task)
    with RunWriter.open(config.output, manifest, ids=ids) as writer:
        _answer_rows(config, model, maker, cache, split, rows, writer)
        writer.finish(seconds=time.perf_counter() - started)
    make_one_run(whole, model.backend)
    if cache:
        say(cache.summary(), as_json=config.json)
    summary = {"run": str(whole.output), "rows": len(rows), "seconds": round(time.perf_counter() - started, 1)}
    return summary | ({"compilations": model.backend.compilations} if config.compile else {})


def _distinct_ids(split: Split, rows: range) -> list[str]:
    """The ids of these rows. Raises UserError for one that comes twice: a run knows its rows by them."""
    column = split.column("id")
    numbers: dict[str, int] = {}
    for number in rows:
        name = str(column[number])
        if numbers.setdefault(name, number) != number:
            raise UserError(
                f"catalogue shard {split.shard_of(number)} has the id {name!r} a second time (first in "
                f"{split.shard_of(numbers[name]).name}); make the catalogue again"
            )
    return list(numbers)


def _answer_rows(
    config: PredictConfig, model: LoadedModel, maker: ExampleMaker, cache: FeatureCache | None,
    split: Split, rows: range, writer: RunWriter,
) -> None:  # fmt: skip
    """Answer the rows that the run lacks, writing each as its answer ends; others then take its place."""
    ids = split.column("id")
    left = [i for i in rows if ids[i] not in writer.done]
    sampling = Sampling(config.temperature, config.top_p, config.seed, top_k_logged=TOP_K)
    answering: dict[int, PreparedRow] = {}

    def waiting(all_prepared: Iterable[PreparedRow]) -> Iterator[RowState]:
        for prepared in all_prepared:
            [example] = cache.fill([prepared.example]) if cache else [prepared.example]
            row = RowState(example, sampling, config.max_new_tokens)
            answering[id(row)] = prepared
            yield row

    started, answered = time.perf_counter(), 0
    with (
        Progress(f"answering on {config.backend}", len(rows), as_json=config.json, done=len(rows) - len(left)) as progress,
        closing(prepare_ahead(split, left, maker, config.batch_size)) as prepared,
    ):
        for step in answers(model.backend, waiting(prepared), model.prompts.stop_ids, config.batch_size):
            ended = [row for row, _ in step if row.ended]
            for row in ended:
                text = answer_text(row.answer, model.prompts)
                writer.write(_prediction(maker.task, answering.pop(id(row)), row.answer, text, row.seconds))
            if ended:
                answered += len(ended)
                progress.advance(len(ended), rows_per_second=round(answered / (time.perf_counter() - started), 2))


def _feature_cache(config: PredictConfig, model: LoadedModel, num_crops: int) -> FeatureCache | None:
    if config.feature_cache is None:
        return None
    adapter = (model.adapter.config, model.adapter.tensors) if model.adapter else None
    return FeatureCache(config.feature_cache, model.backend, num_crops, config.feature_cache_gb, adapter)


def _prediction(task: Task, prepared: PreparedRow, answer: Generation, text: str, seconds: float) -> Prediction:
    row = prepared.row
    return Prediction(
        id=str(row["id"]),
        true=true_values(task, row),
        predicted=task.parse(text, truncated=answer.finish != "end"),
        text=text,
        token_ids=answer.token_ids,
        logprobs=[round(value, 6) for value in answer.logprobs],
        top_k=[[(i, round(value, 6)) for i, value in step] for step in answer.top_k],
        finish=answer.finish,
        fingerprints=prepared.fingerprints,
        seconds=round(seconds, 4),
        image=row["images"][0] if row["images"] else None,
        product=row.get(PRODUCT),
    )
