"""A loaded model and how it answers: greedily or by sampling, row by row in a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .adapters import AdapterArgs, load_adapter, resolve_adapter, weights_name
from .answer_batch import AnswerBatch, Generation, RowState, answers, extended
from .backend import Backend, load_backend
from .batches import Example
from .checkpoint.fingerprint import base_fingerprint
from .checkpoint.hub import resolve_model
from .prompts import PromptProcessor
from .sampling import Sampling, log_softmax
from .task import Task
from .trained_task import TASK_FILE, TrainedTask

__all__ = [
    "AnswerBatch", "Generation", "LoadedAdapter", "LoadedModel", "RowState", "Sampling", "StreamedText", "answer_text",
    "answers", "extended", "generate", "load_model", "log_softmax",
]  # fmt: skip


def generate(
    backend: Backend,
    examples: Iterable[Example],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    sampling: Sampling | None = None,
    cached: bool = True,
    on_token: Callable[[int, int], None] | None = None,
    batch_size: int | None = None,
) -> list[Generation]:
    """Answer prompts, by default all of them at once; rows leave the batch as they end, see `AnswerBatch`.

    batch_size: answer at most so many at a time; the others take the places of those that end, and are taken from `examples` no
    earlier. cached=False builds the cache at every step (for parity tests). on_token(row, id) streams.
    """
    found: list[Generation] = []
    numbers: dict[int, int] = {}  # of the rows that are being answered

    def waiting() -> Iterator[RowState]:
        for example in examples:
            row = RowState(example, sampling or Sampling(), max_new_tokens)
            found.append(row.answer)
            if max_new_tokens > 0:
                numbers[id(row)] = len(found) - 1
                yield row

    if batch_size is None:
        examples = list(examples)
        batch_size = max(len(examples), 1)
    for step in answers(backend, waiting(), stop_ids, batch_size, cached):
        for row, token in step:
            if on_token and row.answer.finish != "end":
                on_token(numbers[id(row)], token)
            if row.ended:
                del numbers[id(row)]
    return found


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
