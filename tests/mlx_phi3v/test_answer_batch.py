"""Rows join and leave a batch, and each gets the answer that it gets alone, whatever the others are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_phi3v.answer_batch import AnswerBatch, Generation, RowState, answers
from mlx_phi3v.backend import Backend
from mlx_phi3v.batches import Example
from mlx_phi3v.decoding import generate
from mlx_phi3v.errors import UserError
from mlx_phi3v.golden.cases import load_cases
from mlx_phi3v.next_tokens import HostScores
from mlx_phi3v.sampling import Sampling
from tests.helpers.paths import GOLDEN
from tests.helpers.text_backend import VOCABULARY, TextBackend

STOP = (0, 1)  # of 24 tokens: an answer has about twelve


def prompt(name: str, tokens: list[int]) -> Example:
    ids = np.array(tokens, np.int64)
    return Example(name, ids, np.full(len(ids), -100, np.int64), ())


def text(**limits: Any) -> Any:
    return TextBackend(**limits)


def drawn_rows(seed: int, count: int, sampled: bool = False) -> list[RowState]:
    """Rows of unlike lengths, of which every second draws its tokens."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        tokens = rng.integers(2, VOCABULARY, rng.integers(1, 12)).tolist()
        how = Sampling(temperature=1.0 * (sampled and i % 2), top_p=(1.0, 0.7)[i // 2 % 2], seed=seed, top_k_logged=i % 3)
        rows.append(RowState(prompt(f"row {i}", tokens), how, int(rng.integers(1, 25))))
    return rows


def answered(backend: Any, rows: list[RowState], size: int = 1, cached: bool = True) -> list[Generation]:
    for _ in answers(backend, iter(rows), STOP, size, cached):
        pass
    assert all(row.ended for row in rows)
    return [row.answer for row in rows]


def answer_of(row: RowState) -> Generation:
    """Alone, to its full length."""
    for _ in answers(text(), [row], (), 1):
        pass
    return row.answer


def alike(ours: list[Generation], theirs: list[Generation]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.token_ids, mine.finish) == (other.token_ids, other.finish)
        assert [[i for i, _ in pairs] for pairs in mine.top_k] == [[i for i, _ in pairs] for pairs in other.top_k]
        np.testing.assert_allclose(mine.logprobs, other.logprobs, atol=1e-6)  # 24 exponentials in fp32


@given(
    seed=st.integers(0, 999), count=st.integers(1, 12), size=st.integers(1, 9), on_device=st.booleans(),
    original=st.sampled_from([8, 14, 10**6]), longest=st.sampled_from([16, 10**6]), sampled=st.booleans(),
)  # fmt: skip
@settings(max_examples=60)
def test_a_row_is_answered_as_it_is_alone(
    seed: int, count: int, size: int, on_device: bool, original: int, longest: int, sampled: bool
) -> None:
    """Uncached and alone, the model reads each text anew: what is read in a batch must be the same text."""
    backend, plain = (TextBackend(on_device=there, original=original, longest=longest) for there in (on_device, False))
    alone = [answered(plain, [row], cached=False)[0] for row in drawn_rows(seed, count, sampled)]
    alike(answered(backend, drawn_rows(seed, count, sampled), size), alone)
    assert max([*backend.prefills, *backend.steps]) <= size and backend.prefills[0] == min(size, count)


@given(data=st.data(), seed=st.integers(0, 999), on_device=st.booleans(), original=st.sampled_from([8, 10**6]))
@settings(max_examples=12)
def test_rows_may_join_between_any_two_steps(data: st.DataObject, seed: int, on_device: bool, original: int) -> None:
    rows = drawn_rows(seed, data.draw(st.integers(2, 8)), sampled=True)
    expected = [answered(TextBackend(original=original), [row])[0] for row in drawn_rows(seed, len(rows), sampled=True)]
    first = data.draw(st.integers(0, len(rows)))
    batch, waiting = AnswerBatch(text(on_device=on_device, original=original), rows[:first], STOP), rows[first:]
    while waiting or batch.rows:
        for _ in range(data.draw(st.integers(0, 2)) if batch.rows else 1):
            joining = data.draw(st.integers(0, len(waiting)))
            batch.add(waiting[:joining])
            waiting = waiting[joining:]
        if batch.rows:
            assert {id(row) for row, _ in batch.step()} >= {id(row) for row in batch.rows}
    alike([row.answer for row in rows], expected)


@pytest.mark.parametrize(("on_device", "share"), [(True, 4), (False, 2)])
def test_a_batch_is_filled_again_where_a_share_of_it_has_ended(on_device: bool, share: int) -> None:
    """128 answers of 4 to 40 tokens, 16 at a time: until none waits, every step has at least so many rows."""
    lengths = np.random.default_rng(0).integers(4, 41, 128).tolist()
    rows = [RowState(prompt(f"row {i}", [5] * 9), Sampling(), length) for i, length in enumerate(lengths)]
    taken: list[RowState] = []

    def waiting() -> Iterator[RowState]:
        for row in rows:
            taken.append(row)
            yield row

    steps, full = [], []
    for step in answers(text(on_device=on_device), waiting(), (), 16):
        steps.append(len(step))
        if len(taken) < len(rows):
            full.append(len(step))
    assert [len(row.answer.token_ids) for row in rows] == lengths and sum(steps) == sum(lengths)
    assert min(full) > 16 - 16 // share and max(full) == 16
    fixed = sum(max(lengths[start : start + 16]) for start in range(0, 128, 16))  # steps of batches that wait for their longest
    assert len(steps) < (0.75 if on_device else 0.85) * fixed


def test_a_row_that_is_dropped_leaves_with_its_next_token() -> None:
    rows = [RowState(prompt(f"row {i}", [5 + i]), Sampling(), 12) for i in range(3)]
    expected = answer_of(RowState(rows[1].prompt, Sampling(), 12))
    batch = AnswerBatch(text(on_device=True), rows[:2], ())
    batch.step()
    batch.add(rows[2:])
    rows[0].dropped = rows[2].dropped = True
    batch.step()
    assert batch.rows == [rows[1]] and rows[0].ended and rows[2].ended and len(rows[2].answer.token_ids) == 1
    while batch.rows:
        batch.step()
    alike([rows[1].answer], [expected])


def test_ended_rows_leave_an_accelerator_together_and_spoil_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 9 rows that end one after the other, with no other to join, the third takes the first two along."""
    expected = [answer_of(RowState(prompt(f"row {i}", [5 + i]), Sampling(), 3 + i)) for i in range(9)]
    backend = text(on_device=True)
    batch = AnswerBatch(backend, [RowState(prompt(f"row {i}", [5 + i]), Sampling(), 3 + i) for i in range(9)], ())
    rows, scores = batch.rows, HostScores.read

    def broken_where_ended(self: HostScores, tokens: Any, k: int) -> Any:
        """After an answer's end its scores may be anything, where they are still computed."""
        logits = self.logits.copy()
        if len(logits) > len(batch.rows):
            logits[0] = np.nan
        return scores(HostScores(logits), tokens, k)

    kept: list[int] = []
    keep = backend.keep_rows

    def noted(cache: Any, places: list[int]) -> None:
        kept.append(len(places))
        keep(cache, places)

    monkeypatch.setattr(backend, "keep_rows", noted)
    for _ in range(6):
        batch.step()
    assert kept == [6]
    monkeypatch.setattr(HostScores, "read", broken_where_ended)
    while batch.rows:
        batch.step()
    alike([row.answer for row in rows], expected)


def test_rows_that_cannot_be_prefilled_leave_the_batch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, backend = drawn_rows(1, 4), text(on_device=True)
    expected = [answered(TextBackend(), [row])[0] for row in drawn_rows(1, 4)]
    batch = AnswerBatch(backend, rows[:3], STOP)
    batch.step()
    monkeypatch.setattr(backend, "prefill", lambda batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        batch.add(rows[3:])
    while batch.rows:
        batch.step()
    alike([row.answer for row in rows[:3]], expected[:3])
    assert not rows[3].answer.token_ids


def test_what_cannot_be_taken_in_is_said_once_the_rows_before_it_are_answered() -> None:
    rows = drawn_rows(2, 5)

    def waiting() -> Iterator[RowState]:
        yield from rows
        raise UserError("row 6: a.png is no photo")

    ended: list[RowState] = []
    with pytest.raises(UserError, match="row 6"):
        for step in answers(text(), waiting(), STOP, 4):
            ended += [row for row, _ in step if row.ended]
    assert len(ended) == 5


def test_scores_that_are_not_finite_end_a_drawn_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = text()
    scores = HostScores(np.full((1, VOCABULARY), np.nan, np.float32))
    monkeypatch.setattr(backend, "prefill", lambda batch: (scores, None))
    for how in (Sampling(), Sampling(1.0), Sampling(1.0, 0.5)):
        with pytest.raises(UserError, match="NaN or infinite"):
            AnswerBatch(backend, [RowState(prompt("a", [3]), how, 4)], ()).step()


def test_a_rows_time_is_its_share_of_the_batchs() -> None:
    rows = drawn_rows(3, 4)
    answered(TextBackend(), rows, 2)
    assert all(row.seconds > 0 for row in rows)


Load = Callable[[Path], Backend]
LENGTHS = (3, 11, 6, 17, 9, 4)


def texts(backend: Backend) -> list[Example]:
    rng = np.random.default_rng(1)
    return [prompt(str(i), rng.integers(3, backend.config.vocab_size, n).tolist()) for i, n in enumerate(LENGTHS)]


@pytest.mark.numeric
@pytest.mark.parametrize("original", [None, 14])
def test_a_model_answers_rows_that_join_as_it_answers_each_alone(
    load: Load, make_checkpoint: Callable[..., Path], original: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of unlike lengths, answers of unlike lengths, at any batch size and in any order; greedy and drawn."""
    backend = load(make_checkpoint() if original is None else make_checkpoint(original_max=original))
    examples = texts(backend)
    stops = tuple(range(0, backend.config.vocab_size, 9))

    def run(order: list[int], size: int | None, **how: Any) -> dict[str, Generation]:
        found = generate(
            backend, [examples[i] for i in order], max_new_tokens=9, stop_ids=stops, batch_size=size,
            sampling=Sampling(top_k_logged=2, **how),
        )  # fmt: skip
        return {examples[i].id: answer for i, answer in zip(order, found)}

    for how in ({}, {"temperature": 1.0, "top_p": 0.8, "seed": 4}):
        alone = {name: answer for i in range(len(examples)) for name, answer in run([i], 1, **how).items()}
        assert len({len(answer.token_ids) for answer in alone.values()}) > 2
        for on_device in (False, True):
            monkeypatch.setattr(backend, "scores_on_device", on_device)
            for order, size in (([0, 1, 2, 3, 4, 5], 2), ([5, 3, 1, 0, 4, 2], 4)):
                together = run(order, size, **how)
                for name, answer in alone.items():
                    assert (together[name].token_ids, together[name].finish) == (answer.token_ids, answer.finish)
                    # fp32 sums of other shapes, in a model of small weights
                    np.testing.assert_allclose(together[name].logprobs, answer.logprobs, atol=1e-4)


@pytest.mark.slow
@pytest.mark.numeric
@pytest.mark.parametrize("on_device", [False, True])
def test_the_recorded_answers_are_given_by_rows_that_join(load: Load, on_device: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load(GOLDEN / "checkpoint")
    monkeypatch.setattr(backend, "scores_on_device", on_device)
    cases = load_cases(GOLDEN)
    rows = [RowState(case.prompt, Sampling(), len(case.case["greedy"])) for case in cases]
    for _ in answers(backend, rows, (), 3):
        pass
    assert {case.name: row.answer.token_ids for case, row in zip(cases, rows)} == {c.name: c.case["greedy"] for c in cases}
