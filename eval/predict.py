"""Let a model answer for every product of a split, row by row, resumable.

    python -m eval.predict --backend mlx --model tiny --adapter runs/mine --data catalogue --split test --output runs/mine-test
    python -m eval.predict ... --shard 2/4 --output part2      (then eval.merge)
    python -m eval.predict ... --trace OTHER_RUN               (score another run's answers under this model)

The run folder says what was run and on what (see `eval.run`), so that `eval.compare` can hold it against any other.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.catalogue import Catalogue, Split, iterate
from mlx_phi3v import __version__, cli
from mlx_phi3v.adapters import CONFIG_FILE, WEIGHTS_FILE, load_adapter, resolve_adapter
from mlx_phi3v.backend import BACKENDS, DTYPES, Backend, default_backend
from mlx_phi3v.batches import Example, ExampleMaker, collate
from mlx_phi3v.cli import option
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.features import FeatureCache
from mlx_phi3v.files import atomic_path, read_json, sha256_bytes, sha256_file, sha256_json
from mlx_phi3v.generate import Generation, Sampling, answer_text, generate, load_model, log_softmax
from mlx_phi3v.photo import open_photo
from mlx_phi3v.progress import Progress, result, say
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.weights import base_fingerprint, resolve_model

from .run import Run, RunWriter, predicted_values, split_hash, true_values
from .trace import trace_path

_PACKAGES = ("mlx", "mlx-vlm", "torch", "transformers", "peft", "numpy", "pillow", "tokenizers")
_TOP_K = 5


@dataclass(frozen=True)
class PredictConfig:
    """Settings of a prediction run."""

    data: Path = option(help="catalogue folder, made by data.ingest or data.sample")
    output: Path = option(help="run folder; an unfinished one is continued")
    model: str = option("tiny", help="checkpoint folder, hub id, or 'tiny' (built in)")
    adapter: str | None = option(None, help="LoRA adapter or training run; none scores the base model")
    backend: str = option(default_backend(), help="framework to run on", choices=BACKENDS)
    dtype: str | None = option(None, help="compute dtype; by default fp32 on a CPU, bf16 on an accelerator", choices=DTYPES)
    attn_implementation: str = option(
        "sdpa", help="torch only: attention kernel (for the noise floor)", choices=("sdpa", "eager")
    )
    split: str = option("test", help="split to answer for")
    limit: int | None = option(None, help="only the first rows")
    shard: str | None = option(None, help="i/n: only every n-th row from the i-th on (from 1), to share the work")
    batch_size: int = option(16, help="rows answered together; does not change the answers")
    num_crops: int | None = option(None, help="most crops a photo is cut into; by default the model's own")
    max_new_tokens: int = option(96, help="longest answer, in tokens")
    temperature: float = option(0.0, help="0 is greedy")
    seed: int = option(0, help="seed of sampling")
    label: str | None = option(None, help="name of the run in reports; by default the folder's")
    feature_cache: Path | None = option(None, help="folder of photo features, kept so that each photo is encoded once")
    feature_cache_gb: float = option(20.0, help="most gigabytes that folder may take")
    trace: Path | None = option(None, help="score this run's tokens under the model, into OUTPUT, instead of answering")
    json: bool = option(False, help="progress as JSON lines on stdout")


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """ "2/4" -> (2, 4). Raises UserError for anything else."""
    if text is None:
        return None
    try:
        i, n = (int(part) for part in text.split("/"))
    except ValueError:
        i, n = 0, 0
    if not 1 <= i <= n:
        raise UserError(f"--shard {text} is not of the form i/n with 1 <= i <= n, such as 2/4")
    return i, n


def chosen_rows(split: Split, limit: int | None, shard: tuple[int, int] | None) -> range:
    """Row numbers of the part of the split to answer for."""
    rows = range(len(split))[:limit]
    return rows[shard[0] - 1 :: shard[1]] if shard else rows


def manifest(config: PredictConfig, catalogue: Catalogue, backend: Backend) -> dict[str, Any]:
    """What was run and on what; see `eval.run`."""
    folder = resolve_model(config.model)
    decoding = {"max_new_tokens": config.max_new_tokens, "temperature": config.temperature, "seed": config.seed}
    quantization = backend.config.quantization
    shard = parse_shard(config.shard)
    return {
        "backend": config.backend,
        "label": config.label or config.output.name,
        "hashes": {
            "base": base_fingerprint(folder),
            "adapter": sha256_file(resolve_adapter(config.adapter) / WEIGHTS_FILE) if config.adapter else None,
            "catalogue": catalogue.fingerprint,
            "split": split_hash(catalogue.task, iterate(catalogue.split(config.split))),
            "template": sha256_json(catalogue.task.to_dict()),
            "tokenizer": sha256_file(folder / "tokenizer.json"),
            "decoding": sha256_json(decoding),
        },
        "settings": {
            "dtype": backend.dtype,
            "quantization": quantization.__dict__ if quantization else None,
            "num_crops": config.num_crops or backend.config.num_crops,
            "attn_implementation": config.attn_implementation,
            **decoding,
        },
        "task": catalogue.task.to_dict(),
        "catalogue": str(config.data.resolve()),
        "split": config.split,
        "limit": config.limit,
        "shard": list(shard) if shard else None,
        "model": config.model,
        "adapter": config.adapter,
        "model_config": asdict(backend.config),
        "adapter_config": read_json(resolve_adapter(config.adapter) / CONFIG_FILE, "adapter") if config.adapter else None,
        "code": code_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "device": backend.device_info(),
        "batch_size": config.batch_size,
    }


def code_version() -> dict[str, Any]:
    """Version, and commit and whether files were changed where the code lies in a git checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"version": __version__, "commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


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
    sampling = Sampling(config.temperature, seed=config.seed, top_k_logged=_TOP_K)
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


def trace(config: PredictConfig, backend: Backend, maker: ExampleMaker, split: Split) -> dict[str, Any]:
    """Score the tokens of run `config.trace` under this model, into OUTPUT/trace-OTHER.jsonl."""
    assert config.trace is not None
    run, other = Run.load(config.output), Run.load(config.trace)
    where = {row["id"]: i for i, row in enumerate(iterate(split))}
    path = trace_path(run, other)
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
        Progress("tracing", len(other.rows), as_json=config.json) as progress,
    ):
        for row in other.rows:
            if row["id"] not in where:
                raise UserError(
                    f"{config.trace} has the row {row['id']!r}, which split {config.split!r} lacks; give its --data"
                )
            example = maker(split[where[row["id"]]], with_answer=False)
            file.write(json.dumps({"id": row["id"], **scored(backend, example, row["token_ids"])}) + "\n")
            progress.advance()
    return {"trace": str(path), "rows": len(other.rows)}


def scored(backend: Backend, example: Example, token_ids: list[int]) -> dict[str, Any]:
    """Log-probabilities (nats) of given tokens after a prompt, and the likeliest tokens at each step."""
    ids = np.concatenate([example.input_ids, np.asarray(token_ids, np.int64)])
    whole = Example(example.id, ids, np.full(len(ids), -100, np.int64), example.images)
    prompt = len(example.input_ids)
    logprobs = log_softmax(backend.forward(collate([whole], backend.config), prompt - 1).logits[0][:-1])
    best = np.argsort(-logprobs, axis=-1, kind="stable")[:, :_TOP_K]
    return {
        "token_ids": token_ids,
        "logprobs": [round(float(logprobs[i, t]), 6) for i, t in enumerate(token_ids)],
        "top_k": [[[int(t), round(float(logprobs[i, t]), 6)] for t in row] for i, row in enumerate(best)],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(PredictConfig, "python -m eval.predict", __doc__ or "", argv)
    summary = predict(config)
    result(config.json, event="done", **summary)
    say(json.dumps(summary), as_json=config.json)
    return 0


if __name__ == "__main__":
    run_cli(main)
