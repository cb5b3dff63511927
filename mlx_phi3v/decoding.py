"""A loaded model and how it answers: greedily or by sampling, row by row in a batch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .adapters import AdapterArgs, load_adapter, resolve_adapter, weights_name
from .backend import Backend, load_backend
from .batches import Example, collate
from .checkpoint.fingerprint import base_fingerprint
from .checkpoint.hub import resolve_model
from .config import ModelArgs
from .errors import UserError
from .next_tokens import NextTokens, Scores
from .overflow import not_finite
from .prompts import IGNORE, PromptProcessor
from .rope import uses_long_factor
from .task import Task
from .trained_task import TASK_FILE, TrainedTask

_GREEDY = 1e-6  # temperature: below it no other token has a chance, and the division overflows


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature: 0 takes the likeliest token. top_k_logged: likeliest tokens to record."""

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
    """Natural-log probabilities over the last axis: fp [..., V] -> fp64 [..., V]."""
    shifted: NDArray[np.float64] = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    total: NDArray[np.float64] = np.exp(shifted).sum(axis=-1, keepdims=True)
    return shifted - np.log(total)


def choose(logprobs: np.ndarray, sampling: Sampling, random: np.random.Generator) -> int:
    """The next token of one row from its log-probabilities [V]: greedy, or nucleus sampling (Holtzman et al., 2020)."""
    if sampling.temperature <= _GREEDY:
        return int(logprobs.argmax())
    weights = np.exp(log_softmax(logprobs / sampling.temperature))
    if sampling.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[before >= sampling.top_p]] = 0
    return int(random.choice(len(weights), p=weights / weights.sum()))


class RowState:
    """One row of a batch while it is answered: its text so far, its answer, and its own random numbers."""

    def __init__(self, example: Example, sampling: Sampling) -> None:
        self.example = example
        self.sampling = sampling
        self.answer = Generation()
        # They depend on the seed and the row's id, not on its neighbours in the batch.
        self.random = np.random.Generator(np.random.PCG64([sampling.seed, zlib.crc32(example.id.encode())]))

    @property
    def length(self) -> int:
        """Tokens of the text so far."""
        return len(self.example.input_ids)

    def sample(self, logits: np.ndarray) -> int:
        """The next token, drawn from its logits [V]."""
        return choose(log_softmax(logits), self.sampling, self.random)

    def record(self, read: NextTokens, row: int, stop_ids: Sequence[int]) -> int:
        """Add the token of this row of the batch to the answer."""
        token = int(read.ids[row])
        self.answer.token_ids.append(token)
        self.answer.logprobs.append(float(read.logprobs[row]))
        if self.sampling.top_k_logged:
            self.answer.top_k.append(read.pairs(row))
        if token in stop_ids:
            self.answer.finish = "end"
        return token

    def append(self) -> None:
        """Put the chosen token behind the text."""
        self.example = extended(self.example, self.answer.token_ids[-1])


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

    An accelerator begins the next step before the tokens of the last are read here: rows that they end are in it too,
    and leave afterwards.
    """
    sampling = sampling or Sampling()
    rows = [RowState(example, sampling) for example in examples]
    numbers = {id(row): number for number, row in enumerate(rows)}
    batch = _Batch(backend, list(rows), sampling, cached)
    for step in range(max_new_tokens):
        last = step + 1 == max_new_tokens
        read = batch.next_tokens(last)
        for place, row in enumerate(batch.rows):
            token = row.record(read, place, stop_ids)
            if on_token and row.answer.finish != "end":
                on_token(numbers[id(row)], token)
        staying = [i for i, row in enumerate(batch.rows) if _goes_on(row, backend.config)]
        if last or not staying:
            break
        batch.go_on(staying, read)
    return [row.answer for row in rows]


class _Batch:
    """The rows that are still answered, with their cache and the scores of their next tokens."""

    def __init__(self, backend: Backend, rows: list[RowState], sampling: Sampling, cached: bool) -> None:
        self.backend, self.rows, self.sampling, self.cached = backend, rows, sampling, cached
        self.begun: Scores | None = None  # those after the tokens that are being read
        self._prefill()

    def _prefill(self) -> None:
        examples = [row.example for row in self.rows]
        self.scores, self.cache = self.backend.prefill(collate(examples, self.backend.config, pad_left=True))

    def next_tokens(self, last: bool) -> NextTokens:
        """The next token of each row, waited for. Raises UserError for scores that are not finite."""
        tokens = self._choose()
        self.begun = self.backend.decode(self.cache, tokens) if not last and self._can_begin() else None
        read = self.scores.read(tokens, self.sampling.top_k_logged)
        if read is None:  # any token could be the next
            raise UserError(not_finite("the scores of the next token", self.backend.dtype))
        return read

    def go_on(self, staying: list[int], read: NextTokens) -> None:
        """Read on with the rows that stay, each longer by its token."""
        left = len(staying) < len(self.rows)
        self.rows = [self.rows[i] for i in staying]
        # A row whose next token needs the other RoPE factors changes the keys of its whole text.
        stale = any(_crosses(row.length, self.backend.config) for row in self.rows)
        for row in self.rows:
            row.append()
        if stale or not self.cached:
            self._prefill()
            return
        if left:
            self.backend.keep_rows(self.cache, staying)
        if self.begun is None:
            self.scores = self.backend.decode(self.cache, read.ids[staying])
        else:
            self.scores = self.begun.rows(staying) if left else self.begun

    def _choose(self) -> Any:
        """The next tokens, int [B]: greedily where the scores are, or drawn here with each row's own numbers."""
        if self.sampling.temperature <= _GREEDY:
            return self.scores.greedy()
        logits = self.scores.numpy()
        if not np.isfinite(logits).all():
            return self.scores.greedy()  # nothing can be drawn from them; reading them says so
        return np.array([row.sample(of_row) for row, of_row in zip(self.rows, logits)], np.int64)

    def _can_begin(self) -> bool:
        """Whether a step may be begun before it is known which rows end: each has room, and none changes its RoPE."""
        config = self.backend.config
        if not (self.cached and self.backend.scores_on_device):
            return False
        return all(row.length < config.max_position_embeddings and not _crosses(row.length, config) for row in self.rows)


def _goes_on(row: RowState, config: ModelArgs) -> bool:
    return row.answer.finish != "end" and row.length < config.max_position_embeddings


def _crosses(length: int, config: ModelArgs) -> bool:
    """Whether a text of so many tokens changes to the long RoPE factors with its next token."""
    return bool(uses_long_factor(config, length + 1)) and not bool(uses_long_factor(config, length))


def extended(example: Example, token: int) -> Example:
    """The example with one more token."""
    return replace(example, input_ids=np.append(example.input_ids, token), labels=np.append(example.labels, IGNORE))


def answer_text(generation: Generation, prompts: PromptProcessor) -> str:
    """The answer's text, without the stop token."""
    ids = generation.token_ids
    return prompts.decode(ids[:-1] if generation.finish == "end" else ids)


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter on a model: its folder, configuration and tensors (PEFT keys, fp32)."""

    folder: Path
    config: AdapterArgs
    tensors: dict[str, np.ndarray] = field(repr=False)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer.

    fingerprint: of its base weights, see `checkpoint.fingerprint`. trained: what its adapter, or the model it was fused
    from, was trained to answer; None if it has no task.json.
    """

    folder: Path
    backend: Backend
    prompts: PromptProcessor
    fingerprint: str
    adapter: LoadedAdapter | None = None
    trained: TrainedTask | None = None

    @property
    def task(self) -> Task:
        """What it was trained to answer, else the published product task."""
        return self.trained.task if self.trained else Task()

    def num_crops(self, asked: int | None) -> int:
        """Most crops a photo is cut into: as asked for, else as in training, else the model's own number."""
        return asked or (self.trained.num_crops if self.trained else self.backend.config.num_crops)

    def differences(self, num_crops: int | None) -> list[str]:
        """One sentence for each setting that differs from those of its training."""
        where = self.adapter.folder if self.adapter else self.folder
        if self.trained is None:
            if self.adapter is None:
                return []
            crops = f"up to {self.num_crops(num_crops)} crops a photo"
            return [f"{where} has no {TASK_FILE} (another tool made it): using the default question and {crops}"]
        found = []
        if num_crops not in (None, self.trained.num_crops):
            found.append(f"--num-crops is {num_crops}; {where} was trained with {self.trained.num_crops}")
        if self.backend.dtype != self.trained.dtype:
            found.append(f"computing in {self.backend.dtype}; {where} was trained in {self.trained.dtype}")
        return found


def load_model(
    model: str, backend: str, adapter: str | Path | None = None, dtype: str | None = None, **options: Any
) -> LoadedModel:
    """Load a model and its adapter, ready to answer.

    dtype None: fp32 on a CPU; on an accelerator that of the adapter's training, else bf16. Raises UserError where the
    model or the adapter cannot be loaded, or do not fit.
    """
    folder = resolve_model(model)
    adapter_folder = None if adapter is None else resolve_adapter(adapter)
    trained = TrainedTask.load(adapter_folder or folder)
    loaded = load_backend(backend, folder, dtype=dtype, accelerator_dtype=trained.dtype if trained else None, **options)
    fingerprint = base_fingerprint(folder)
    put_on = None
    if adapter_folder is not None:
        put_on = LoadedAdapter(adapter_folder, *load_adapter(adapter_folder, loaded.config, fingerprint, weights_name(folder)))
        loaded.set_adapter(put_on.config, put_on.tensors, trainable=False)
    return LoadedModel(folder, loaded, PromptProcessor(folder), fingerprint, put_on, trained)
