"""Ask the model about a photo, greedily or by sampling, streamed as it answers.

python -m mlx_phi3v.generate --image photo.jpg --model tiny --adapter runs/mine
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import cli
from .adapters import load_adapter
from .backend import BACKENDS, DTYPES, Backend, default_backend, load_backend
from .batches import Example, ExampleMaker, collate
from .cli import option
from .errors import UserError, run_cli
from .images import process_image
from .photo import open_photo
from .progress import result, say
from .prompts import IGNORE, PromptProcessor
from .rope import uses_long_factor
from .task import Task
from .weights import base_fingerprint, resolve_model


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: temperature 0 takes the likeliest."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_k_logged: int = 0


@dataclass
class Generation:
    """An answer: ids without the stop token's text, natural-log probabilities, and how it ended ("end" or "length").

    top_k holds, per token, the likeliest (id, log-probability) pairs where asked for.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_k: list[list[tuple[int, float]]] = field(default_factory=list)
    finish: str = "length"


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural-log probabilities over the last axis, fp64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def choose(logprobs: np.ndarray, sampling: Sampling, random: np.random.Generator) -> int:
    """The next token of one row from its log-probabilities [V]: greedy, or nucleus sampling (Holtzman et al., 2020)."""
    if sampling.temperature <= 0:
        return int(logprobs.argmax())
    weights = np.exp(log_softmax(logprobs / sampling.temperature))
    if sampling.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[before >= sampling.top_p]] = 0
    return int(random.choice(len(weights), p=weights / weights.sum()))


def generate(
    backend: Backend,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    sampling: Sampling | None = None,
    cached: bool = True,
    on_token: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Answer a batch of prompts; rows leave the batch as they end.

    Where a row grows past `original_max_position_embeddings`, RoPE changes to the long factors for the whole text, so
    the cache is built again once. cached=False builds it at every step (for parity tests). on_token(row, id) streams.
    """
    sampling = sampling or Sampling()
    results = [Generation() for _ in examples]
    # A row's random numbers depend on the seed and its id, not on its neighbours in the batch.
    randoms = [np.random.Generator(np.random.PCG64([sampling.seed, zlib.crc32(e.id.encode())])) for e in examples]
    alive = list(range(len(examples)))
    texts = list(examples)
    limit = backend.config.max_position_embeddings
    logits, cache = backend.prefill(collate(texts, backend.config, pad_left=True))
    for _ in range(max_new_tokens):
        logprobs = log_softmax(logits)
        chosen = []
        for row, of in enumerate(alive):
            token = choose(logprobs[row], sampling, randoms[of])
            result = results[of]
            result.token_ids.append(token)
            result.logprobs.append(float(logprobs[row, token]))
            if sampling.top_k_logged:
                best = np.argsort(-logprobs[row], kind="stable")[: sampling.top_k_logged]
                result.top_k.append([(int(i), float(logprobs[row, i])) for i in best])
            if token in stop_ids:
                result.finish = "end"
            elif on_token:
                on_token(of, token)
            chosen.append(token)
        lengths = [len(texts[of].input_ids) for of in alive]
        staying = [row for row, of in enumerate(alive) if results[of].finish != "end" and lengths[row] < limit]
        if not staying or len(results[alive[staying[0]]].token_ids) >= max_new_tokens:
            break
        crossing = False
        for row in staying:
            crossing |= bool(
                uses_long_factor(backend.config, lengths[row] + 1) and not uses_long_factor(backend.config, lengths[row])
            )
            texts[alive[row]] = extended(texts[alive[row]], chosen[row])
        left = len(staying) < len(alive)
        alive = [alive[row] for row in staying]
        if crossing or not cached:
            logits, cache = backend.prefill(collate([texts[of] for of in alive], backend.config, pad_left=True))
        else:
            if left:
                backend.keep_rows(cache, staying)
            logits = backend.decode(cache, np.array([chosen[row] for row in staying], np.int64))
    return results


def extended(example: Example, token: int) -> Example:
    """The example with one more token."""
    return replace(example, input_ids=np.append(example.input_ids, token), labels=np.append(example.labels, IGNORE))


def answer_text(generation: Generation, prompts: PromptProcessor) -> str:
    """The answer's text, without the stop token."""
    ids = generation.token_ids
    return prompts.decode(ids[:-1] if generation.finish == "end" else ids)


def load_model(
    model: str, backend: str, adapter: str | Path | None = None, dtype: str | None = None, **options: Any
) -> tuple[Backend, PromptProcessor]:
    """A model with its adapter, ready to answer, and its tokenizer."""
    folder = resolve_model(model)
    loaded = load_backend(backend, folder, dtype=dtype, **options)
    if adapter is not None:
        config, tensors = load_adapter(adapter, loaded.config, base_fingerprint(folder))
        loaded.set_adapter(config, tensors, trainable=False)
    return loaded, PromptProcessor(folder)


@dataclass(frozen=True)
class GenerateConfig:
    """Settings of one question."""

    image: tuple[str, ...] = option((), help="photo file; several for several <|image_k|> tags")
    prompt: str | None = option(None, help="full prompt with <|image_1|> tags; by default the product task's")
    question: str | None = option(None, help="plain question about the photo, put into the chat template")
    model: str = option("tiny", help="checkpoint folder, hub id, or 'tiny' (built in)")
    adapter: str | None = option(None, help="LoRA adapter or training run")
    backend: str = option(default_backend(), help="framework to run on", choices=BACKENDS)
    dtype: str | None = option(None, help="compute dtype; by default fp32 on a CPU, bf16 on an accelerator", choices=DTYPES)
    num_crops: int | None = option(None, help="most crops a photo is cut into; by default the model's own")
    max_new_tokens: int = option(128, help="longest answer, in tokens", flags=("--max-tokens",))
    temperature: float = option(0.0, help="0 is greedy; above it samples", flags=("--temp",))
    top_p: float = option(1.0, help="nucleus of sampling")
    seed: int = option(0, help="seed of sampling")
    json: bool = option(False, help="one JSON line with text, fields, ids and log-probabilities")


def chat_prompt(question: str, images: int) -> str:
    """The published chat template for one user turn."""
    tags = "".join(f"<|image_{k}|>\n" for k in range(1, images + 1))
    return f"<|user|>\n{tags}{question}<|end|>\n<|assistant|>\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(GenerateConfig, "python -m mlx_phi3v.generate", __doc__ or "", argv)
    if config.prompt and config.question:
        raise UserError("give --prompt or --question, not both")
    task = Task()
    if not config.image and not config.prompt and not config.question:
        raise UserError("nothing to ask about: give --image photo.jpg, or --prompt/--question for a question without a photo")
    photos = [open_photo(Path(path).expanduser()) for path in config.image]
    say(f"loading {config.model} on {config.backend}", as_json=config.json)
    started = time.perf_counter()
    backend, prompts = load_model(config.model, config.backend, config.adapter, config.dtype)
    images = tuple(process_image(photo, config.num_crops or backend.config.num_crops) for photo in photos)
    maker = ExampleMaker(prompts, backend.config, task, config.num_crops or backend.config.num_crops)
    prompt = chat_prompt(config.question, len(images)) if config.question else config.prompt
    example = maker.from_images("question", images, None, prompt)
    loaded = time.perf_counter()
    shown: list[int] = []
    printed = ""

    def stream(_: int, token: int) -> None:
        nonlocal printed
        shown.append(token)
        text = prompts.decode(shown)
        if not config.json and text.startswith(printed) and not text.endswith("\ufffd"):
            sys.stdout.write(text[len(printed) :])
            sys.stdout.flush()
            printed = text

    sampling = Sampling(config.temperature, config.top_p, config.seed, top_k_logged=5 if config.json else 0)
    [answer] = generate(
        backend, [example], max_new_tokens=config.max_new_tokens, stop_ids=prompts.stop_ids, sampling=sampling, on_token=stream
    )
    text = answer_text(answer, prompts)
    if not config.json:
        print(text[len(printed) :] if text.startswith(printed) else "")
        seconds = time.perf_counter() - loaded
        say(f"{len(answer.token_ids)} tokens in {seconds:.1f} s (loading {loaded - started:.1f} s), ended by {answer.finish}")
    result(
        config.json,
        text=text,
        fields={k: v.__dict__ for k, v in task.parse(text, truncated=answer.finish != "end").items()},
        finish=answer.finish,
        token_ids=answer.token_ids,
        logprobs=answer.logprobs,
        top_k=answer.top_k,
    )
    return 0


if __name__ == "__main__":
    run_cli(main)
