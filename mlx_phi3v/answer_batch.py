"""Rows that are answered together: a token each at a step; rows that end make room for those that wait."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .backend import Backend
from .batches import Example, collate
from .config import ModelArgs
from .errors import UserError
from .kv_cache import fewest_moves
from .next_tokens import NextTokens, Scores
from .overflow import not_finite
from .prefix_cache import PrefixCache, rest_of
from .prompts import IGNORE
from .rope import uses_long_factor
from .sampling import Draws, RowNumbers, Sampling

_LEAST_TOP_P = 1e-30  # fp32 holds it, and the likeliest token always weighs more


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
    """One row while it is answered: its prompt, its answer of at most so many tokens, its random numbers.

    dropped: whether nobody waits for the answer any more. ended: whether it has no further token. seconds: its share of the
    time that its batch took.
    """

    def __init__(self, example: Example, sampling: Sampling, max_new_tokens: int) -> None:
        self.prompt = example
        self.sampling = sampling
        self.max_new_tokens = max_new_tokens
        self.answer = Generation()
        self.dropped = self.ended = False
        self.seconds = 0.0
        self._numbers = RowNumbers(sampling.seed, example.id)

    @property
    def example(self) -> Example:
        """The text so far."""
        return extended(self.prompt, *self.answer.token_ids)

    @property
    def length(self) -> int:
        """Tokens of the text so far."""
        return len(self.prompt.input_ids) + len(self.answer.token_ids)

    @property
    def at_its_last(self) -> bool:
        """Whether the answer's next token is the last it may have."""
        return len(self.answer.token_ids) + 1 >= self.max_new_tokens

    def draw(self) -> tuple[float, float, float, float]:
        """How the next token is chosen: this row of `sampling.Draws.columns`."""
        if self.sampling.greedy or self.ended:
            return 0.0, 1.0, 0.5, 0.5
        numbers = self._numbers.at(len(self.answer.token_ids))
        return self.sampling.temperature, max(self.sampling.top_p, _LEAST_TOP_P), *numbers

    def record(self, token: int, logprob: float, pairs: list[tuple[int, float]], stops: bool) -> None:
        """Add a token to the answer. stops: whether it is a stop token."""
        self.answer.token_ids.append(token)
        self.answer.logprobs.append(logprob)
        if self.sampling.top_k_logged:
            self.answer.top_k.append(pairs)
        if stops:
            self.answer.finish = "end"

    def goes_on(self, config: ModelArgs) -> bool:
        """Whether another token follows those recorded; the last one still has a place where the text is at its longest."""
        room = self.length <= config.max_position_embeddings and len(self.answer.token_ids) < self.max_new_tokens
        return room and self.answer.finish != "end" and not self.dropped


@dataclass
class _Read:
    """Rows whose texts the model has read: the scores of their next tokens, and their cache."""

    rows: list[RowState]
    scores: Scores
    cache: Any


class AnswerBatch:
    """Rows that are answered together, a token each at every `step`; others join them by `add`.

    Where a row grows past `original_max_position_embeddings`, RoPE changes to the long factors for its whole text, so this
    row leaves, is prefilled again and joins again. cached=False does so with every row at every step. prefixes: texts read
    before, from which a row may go on, and to which those that end are added.

    An accelerator begins the next step before the tokens of the last are read here: rows that they end are in it too.
    They stay, for nobody, until others join or a fourth of the batch has ended: then they leave together. On a CPU a row leaves
    at once. The rows change their order, so that few move in the cache; those that join take the places that became free there.
    """

    def __init__(
        self, backend: Backend, rows: Sequence[RowState], stop_ids: Sequence[int], cached: bool = True,
        prefixes: PrefixCache | None = None,
    ) -> None:  # fmt: skip
        self.backend, self.stop_ids, self.cached, self.prefixes = backend, frozenset(stop_ids), cached, prefixes
        self._running: _Read | None = None
        self._joining: list[_Read] = []
        self._tokens: NextTokens | None = None  # the last ones, until the model has them
        self._begun: Scores | None = None  # the scores after them, where that step was begun
        self.add(rows)

    @property
    def rows(self) -> list[RowState]:
        """Those that go on."""
        return [row for read in (self._running, *self._joining) if read is not None for row in read.rows if not row.ended]

    def add(self, rows: Sequence[RowState]) -> None:
        """Prefill rows, which get their first token with the next step. Where that fails the batch is as it was before."""
        if rows:
            began = time.perf_counter()
            self._joining += self._prefill(rows)
            _share_time(rows, began)

    def step(self) -> list[tuple[RowState, int]]:
        """Add a token to every row: the rows with their tokens. Raises UserError for scores that are not finite."""
        began = time.perf_counter()
        running = self._go_on()
        rows = [row for row in running.rows if not row.ended]
        tokens = self._choose(running)
        more = self._can_begin(rows) and not all(row.at_its_last for row in rows)
        self._begun = self.backend.decode(running.cache, tokens) if more else None
        top_k = max(row.sampling.top_k_logged for row in rows)
        read = running.scores.read(tokens, top_k)
        if read is None and len(rows) < len(running.rows):  # perhaps in a row that has ended
            staying = fewest_moves([place for place, row in enumerate(running.rows) if not row.ended])
            running.scores = running.scores.rows(staying)
            self._keep(running, staying)
            read = running.scores.read(self._choose(running), top_k)
        if read is None:  # any token could be the next
            raise UserError(not_finite("the scores of the next token", self.backend.dtype))
        given, self._tokens = self._record(running, read), read
        _share_time(rows, began)
        return given

    def _record(self, running: _Read, read: NextTokens) -> list[tuple[RowState, int]]:
        """Add the tokens to the answers of the rows that have not ended: these with their tokens."""
        given = []
        for place, (row, token, logprob) in enumerate(zip(running.rows, read.ids.tolist(), read.logprobs.tolist())):
            if row.ended:
                continue
            row.record(token, logprob, read.pairs(place, row.sampling.top_k_logged), token in self.stop_ids)
            row.ended = not row.goes_on(self.backend.config)
            if row.ended and self.prefixes is not None:
                self.prefixes.store(row.example, running.cache, place)
            given.append((row, token))
        return given

    def _prefill(self, rows: Sequence[RowState]) -> list[_Read]:
        """Read the rows' texts: each that begins like one read before goes on from there, all the others are read together."""
        done, others = [], []
        for row in rows:
            example = row.example
            cached = None if self.prefixes is None else self.prefixes.find(example)
            if cached is None:
                others.append((row, example))
            else:
                rest = collate([rest_of(example, int(cached.lengths[0]))], self.backend.config)
                done.append(_Read([row], *self.backend.prefill(rest, cached)))
        if others:
            batch = collate([example for _, example in others], self.backend.config)
            done.append(_Read([row for row, _ in others], *self.backend.prefill(batch)))
        return done

    def _go_on(self) -> _Read:
        """Read the last tokens of the rows that stay, and let those in that join."""
        if self._running is not None and self._tokens is not None:
            self._read_tokens(self._running, self._tokens)
        self._tokens = self._begun = None
        reads, self._joining = [*([] if self._running is None else [self._running]), *self._joining], []
        if not reads:
            raise ValueError("the batch has no rows")
        first, *others = reads
        if others:
            self.backend.join(first.cache, *(read.cache for read in others))
            scores = first.scores.join(*(read.scores for read in others))
            first = _Read([row for read in reads for row in read.rows], scores, first.cache)
        self._running = first
        return first

    def _read_tokens(self, running: _Read, tokens: NextTokens) -> None:
        """Go on with the rows that stay; a row whose last token needs the other RoPE factors is to join again."""
        config = self.backend.config
        stale = [row for row in running.rows if not row.ended and (not self.cached or _crosses(row.length - 1, config))]
        places = fewest_moves([place for place, row in enumerate(running.rows) if not (row.ended or row in stale)])
        few = (len(running.rows) - len(places)) * _share(self.backend) < len(running.rows)
        if few and self.backend.scores_on_device and not (stale or self._joining):
            places = list(range(len(running.rows)))
        if places:
            self._keep(running, places)
            begun = self._begun
            running.scores = self.backend.decode(running.cache, tokens.ids[places]) if begun is None else begun
        else:
            self._running = None  # its cache makes room
        if stale:
            self._joining[:0] = self._prefill(stale)

    def _keep(self, running: _Read, places: list[int]) -> None:
        """Let only the rows at these places stay, in the cache and in the step that was begun."""
        if len(places) < len(running.rows):
            self.backend.keep_rows(running.cache, places)
            running.rows = [running.rows[place] for place in places]
            self._begun = None if self._begun is None else self._begun.rows(places)

    def _choose(self, running: _Read) -> Any:
        """The next tokens, int [B], where the scores are."""
        if all(row.sampling.greedy or row.ended for row in running.rows):
            return running.scores.greedy()
        return running.scores.draw(Draws(np.array([row.draw() for row in running.rows], np.float32)))

    def _can_begin(self, rows: Sequence[RowState]) -> bool:
        """Whether a step may be begun before it is known which rows end: each has room, and none changes its RoPE."""
        config = self.backend.config
        if not (self.cached and self.backend.scores_on_device):
            return False
        return all(row.length < config.max_position_embeddings and not _crosses(row.length, config) for row in rows)


def answers(
    backend: Backend, waiting: Iterable[RowState], stop_ids: Sequence[int], batch_size: int, cached: bool = True
) -> Iterator[list[tuple[RowState, int]]]:
    """Answer all rows, at most `batch_size` at a time: the rows of each step with their tokens.

    Rows that wait join in the order of `waiting` as others end, those that fill a share of the batch together; which ones join
    when depends on the answers' lengths alone. An error of `waiting` is raised once the rows before it are answered.
    """
    batch, source, failed = AnswerBatch(backend, [], stop_ids, cached), iter(waiting), None
    at_its_end = False
    while True:
        places = batch_size - len(batch.rows)
        if not at_its_end and places * _share(backend) >= batch_size:
            rows: list[RowState] = []
            try:
                while len(rows) < places:
                    rows.append(next(source))
            except StopIteration:
                at_its_end = True
            except Exception as error:  # such as a photo that cannot be read
                at_its_end, failed = True, error
            batch.add(rows)
        if not batch.rows:
            break
        yield batch.step()
    if failed is not None:
        raise failed


def _share(backend: Backend) -> int:
    """Rows join, and on an accelerator leave, where 1 / so much of the batch has ended: they are read together, as one batch.

    On a CPU a step takes longer with each row, so that a batch gains less by being full.
    """
    return 4 if backend.scores_on_device else 2


def _share_time(rows: Sequence[RowState], began: float) -> None:
    """Add the time since then to the rows', the same for each."""
    seconds = (time.perf_counter() - began) / len(rows)
    for row in rows:
        row.seconds += seconds


def _crosses(length: int, config: ModelArgs) -> bool:
    """Whether a text of so many tokens changes to the long RoPE factors with its next token."""
    return bool(uses_long_factor(config, length + 1)) and not bool(uses_long_factor(config, length))


def extended(example: Example, *tokens: int) -> Example:
    """The example with more tokens."""
    labels = np.full(len(tokens), IGNORE, np.int64)
    input_ids = np.append(example.input_ids, np.array(tokens, np.int64))
    return replace(example, input_ids=input_ids, labels=np.append(example.labels, labels))
