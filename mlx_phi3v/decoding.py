"""A loaded model and how it answers: greedily or by sampling, row by row in a batch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .adapters import load_adapter
from .backend import Backend, load_backend
from .batches import Example, collate
from .checkpoint.fingerprint import base_fingerprint
from .checkpoint.hub import resolve_model
from .prompts import IGNORE, PromptProcessor
from .rope import uses_long_factor


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
