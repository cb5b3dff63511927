"""A loaded model and how it answers: greedily or by sampling, row by row in a batch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

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
from .sampling import Sampling, choose, log_softmax
from .task import Task
from .trained_task import TASK_FILE, TrainedTask


@dataclass
class Generation:
    """An answer: ids without the stop token's text, natural-log probabilities, and how it ended ("end" or "length").

    top_k holds, per token, the likeliest (id, log-probability) pairs where asked for.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_k: list[list[tuple[int, float]]] = field(default_factory=list)
    finish: str = "length"


class RowState:
    """One row of a batch while it is answered: its text so far, its answer of at most so many tokens, its random numbers."""

    def __init__(self, example: Example, sampling: Sampling, max_new_tokens: int) -> None:
        self.example = example
        self.sampling = sampling
        self.max_new_tokens = max_new_tokens
        self.answer = Generation()
        self.dropped = False  # whether nobody waits for the answer any more
        # They depend on the seed and the row's id, not on its neighbours in the batch.
        self.random = np.random.Generator(np.random.PCG64([sampling.seed, zlib.crc32(example.id.encode())]))

    @property
    def length(self) -> int:
        """Tokens of the text so far."""
        return len(self.example.input_ids)

    @property
    def at_its_last(self) -> bool:
        """Whether the answer's next token is the last it may have."""
        return len(self.answer.token_ids) + 1 >= self.max_new_tokens

    def sample(self, logits: np.ndarray) -> int:
        """The next token, drawn from its logits [V]."""
        return choose(log_softmax(logits), self.sampling, self.random)

    def record(self, read: NextTokens, row: int, stop_ids: Sequence[int]) -> int:
        """Add the token of this row of the batch to the answer."""
        token = int(read.ids[row])
        self.answer.token_ids.append(token)
        self.answer.logprobs.append(float(read.logprobs[row]))
        if self.sampling.top_k_logged:
            self.answer.top_k.append(read.pairs(row)[: self.sampling.top_k_logged])
        if token in stop_ids:
            self.answer.finish = "end"
        return token

    def goes_on(self, config: ModelArgs) -> bool:
        """Whether another token follows those recorded."""
        room = self.length < config.max_position_embeddings and len(self.answer.token_ids) < self.max_new_tokens
        return room and self.answer.finish != "end" and not self.dropped

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
    """Answer a batch of prompts; rows leave the batch as they end, see `AnswerBatch`.

    cached=False builds the cache at every step (for parity tests). on_token(row, id) streams.
    """
    rows = [RowState(example, sampling or Sampling(), max_new_tokens) for example in examples]
    numbers = {id(row): number for number, row in enumerate(rows)}
    batch = AnswerBatch(backend, rows if max_new_tokens > 0 else [], stop_ids, cached)
    while batch.rows:
        for row, token in batch.step():
            if on_token and row.answer.finish != "end":
                on_token(numbers[id(row)], token)
    return [row.answer for row in rows]


class AnswerBatch:
    """Rows that are answered together, a token each at every `step`; `rows` are those that go on.

    Where a row grows past `original_max_position_embeddings`, RoPE changes to the long factors for the whole text, so
    the cache is built again once. cached=False builds it at every step.

    An accelerator begins the next step before the tokens of the last are read here: rows that they end are in it too,
    and leave afterwards.
    """

    def __init__(self, backend: Backend, rows: Sequence[RowState], stop_ids: Sequence[int], cached: bool = True) -> None:
        self.backend, self.rows, self.stop_ids, self.cached = backend, list(rows), stop_ids, cached
        self._top_k = max((row.sampling.top_k_logged for row in self.rows), default=0)
        self._begun: Scores | None = None  # those after the tokens that are being read
        self._read: NextTokens | None = None  # the last tokens, until the model has them
        self._staying: list[int] = []  # the places of those rows that go on
        if self.rows:
            self._prefill()

    def step(self) -> list[tuple[RowState, int]]:
        """Add a token to every row: the rows with their tokens. Raises UserError for scores that are not finite."""
        if self._read is not None:
            self._go_on(self._read, self._staying)
        self._read = self._next_tokens(last=all(row.at_its_last for row in self.rows))
        given = [(row, row.record(self._read, place, self.stop_ids)) for place, row in enumerate(self.rows)]
        self._staying = [i for i, row in enumerate(self.rows) if row.goes_on(self.backend.config)]
        self.rows = [self.rows[i] for i in self._staying]
        return given

    def _prefill(self) -> None:
        examples = [row.example for row in self.rows]
        self._scores, self._cache = self.backend.prefill(collate(examples, self.backend.config, pad_left=True))

    def _next_tokens(self, last: bool) -> NextTokens:
        """The next token of each row, waited for."""
        tokens = self._choose()
        self._begun = self.backend.decode(self._cache, tokens) if not last and self._can_begin() else None
        read = self._scores.read(tokens, self._top_k)
        if read is None:  # any token could be the next
            raise UserError(not_finite("the scores of the next token", self.backend.dtype))
        return read

    def _go_on(self, read: NextTokens, staying: list[int]) -> None:
        """Read on with the rows that stay, each longer by its token."""
        left = len(staying) < len(read.ids)
        # A row whose next token needs the other RoPE factors changes the keys of its whole text.
        stale = any(_crosses(row.length, self.backend.config) for row in self.rows)
        for row in self.rows:
            row.append()
        if stale or not self.cached:
            self._prefill()
            return
        if left:
            self.backend.keep_rows(self._cache, staying)
        if self._begun is None:
            self._scores = self.backend.decode(self._cache, read.ids[staying])
        else:
            self._scores = self._begun.rows(staying) if left else self._begun

    def _choose(self) -> Any:
        """The next tokens, int [B]: greedily where the scores are, or drawn here with each row's own numbers."""
        if all(row.sampling.greedy for row in self.rows):
            return self._scores.greedy()
        logits = self._scores.numpy()
        if not np.isfinite(logits).all():
            return self._scores.greedy()  # nothing can be drawn from them; reading them says so
        return np.array([row.sample(of_row) for row, of_row in zip(self.rows, logits)], np.int64)

    def _can_begin(self) -> bool:
        """Whether a step may be begun before it is known which rows end: each has room, and none changes its RoPE."""
        config = self.backend.config
        if not (self.cached and self.backend.scores_on_device):
            return False
        return all(row.length < config.max_position_embeddings and not _crosses(row.length, config) for row in self.rows)


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


class StreamedText:
    """An answer's text as its tokens come, whole characters only."""

    def __init__(self, prompts: PromptProcessor) -> None:
        self.prompts = prompts
        self.ids: list[int] = []
        self.given = ""

    def add(self, token: int) -> str:
        """What the token adds to the text given so far."""
        self.ids.append(token)
        text = self.prompts.decode(self.ids)
        if not text.startswith(self.given) or text.endswith("\ufffd"):
            return ""
        added, self.given = text[len(self.given) :], text
        return added

    def rest(self, text: str) -> str:
        """What is lacking of the whole text."""
        return text[len(self.given) :] if text.startswith(self.given) else ""


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
