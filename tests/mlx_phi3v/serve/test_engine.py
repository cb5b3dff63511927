"""The engine: who is answered together, who leaves, and what a failure touches."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlx_phi3v.crops import process_image
from mlx_phi3v.decoding import AnswerBatch, Generation, generate, load_model
from mlx_phi3v.errors import UserError
from mlx_phi3v.sampling import Sampling
from mlx_phi3v.serve import engine as engine_module
from mlx_phi3v.serve.engine import Busy, Ended, Engine, Job
from mlx_phi3v.serve.models import ServedModel
from tests.helpers.catalogue import random_picture


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> ServedModel:
    pytest.importorskip("mlx")
    return ServedModel("random", load_model(str(checkpoint), "mlx", dtype="float32"), 1)


def job(model: ServedModel, number: int, tokens: int = 6, on_token: Callable[[int], None] | None = None, **how: Any) -> Job:
    image = process_image(random_picture(100 + 50 * number, 100, number), 1)
    return Job(model, model.maker.from_images("question", (image,), None), Sampling(**how), tokens, on_token)


def answer(engine: Engine, jobs: list[Job]) -> None:
    """Run the engine until all of them have ended."""
    left = set(map(id, jobs))

    def ended(one: Job, _: object) -> None:
        left.discard(id(one))
        if not left:
            engine.stop()

    for one in jobs:
        one.future.add_done_callback(partial(ended, one))
    engine.run()


def alone(model: ServedModel, one: Job) -> Generation:
    backend, stop = model.loaded.backend, model.loaded.prompts.stop_ids
    options: dict[str, Any] = {"max_new_tokens": one.row.max_new_tokens, "stop_ids": stop, "sampling": one.row.sampling}
    return generate(backend, [job_example(one)], **options)[0]


def job_example(one: Job) -> Any:
    return one.row.example


def test_those_that_wait_are_answered_together_each_with_its_own_length_and_numbers(model: ServedModel) -> None:
    jobs = [job(model, 0, 6), job(model, 1, 2), job(model, 2, 9, temperature=1.0, seed=5), job(model, 3, 5, top_k_logged=3)]
    expected = [alone(model, one) for one in jobs]
    engine = Engine(batch_size=16)
    for one in jobs:
        engine.submit(one)
    answer(engine, jobs)
    assert engine.begun == 1
    for one, other in zip(jobs, expected):
        got = one.future.result()
        assert (got.token_ids, got.finish) == (other.token_ids, other.finish)
        assert [[i for i, _ in pairs] for pairs in got.top_k] == [[i for i, _ in pairs] for pairs in other.top_k]


def sizes_of_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that takes the number of rows of every step from now on."""
    sizes: list[int] = []
    step = AnswerBatch.step

    def counted(self: AnswerBatch) -> Any:
        sizes.append(len(self.rows))
        return step(self)

    monkeypatch.setattr(AnswerBatch, "step", counted)
    return sizes


def test_a_batch_takes_no_more_than_its_size_and_others_as_it_has_room(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(model, seed, 2 + seed) for seed in range(5)]
    expected = [alone(model, one) for one in jobs]
    sizes, engine = sizes_of_batches(monkeypatch), Engine(batch_size=2)
    for one in jobs:
        engine.submit(one)
    answer(engine, jobs)
    assert engine.begun == 1 and max(sizes) == 2 and sizes.count(2) > len(sizes) / 2
    assert [one.future.result().token_ids for one in jobs] == [other.token_ids for other in expected]


def test_a_question_joins_a_batch_that_is_being_answered(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.loaded.prompts, "stop_ids", ())
    sizes, engine, taken = sizes_of_batches(monkeypatch), Engine(batch_size=4), []
    late = job(model, 1, 3, temperature=1.0, seed=3)

    def on_token(token: int) -> None:
        taken.append(token)
        if len(taken) == 4:
            engine.submit(late)

    first = job(model, 0, 10, on_token)
    expected = [alone(model, one).token_ids for one in (first, late)]
    sizes.clear()
    engine.submit(first)
    answer(engine, [first, late])
    assert [one.future.result().token_ids for one in (first, late)] == expected and taken == expected[0]
    assert engine.begun == 1 and sizes == [1] * 4 + [2] * 3 + [1] * 3


def test_one_that_cannot_join_is_tried_alone_and_the_others_go_on(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.loaded.prompts, "stop_ids", ())
    engine, taken, add = Engine(batch_size=4), [], AnswerBatch.add
    failures: list[AnswerBatch] = []
    late = job(model, 1, 3)

    def on_token(token: int) -> None:
        taken.append(token)
        if len(taken) == 2:
            engine.submit(late)

    def failing(self: AnswerBatch, rows: Any) -> None:
        if late.row in rows and not failures:
            failures.append(self)
            raise MemoryError("beside the others")
        add(self, rows)

    first = job(model, 0, 6, on_token)
    expected = [alone(model, one).token_ids for one in (first, late)]
    monkeypatch.setattr(AnswerBatch, "add", failing)
    engine.submit(first)
    answer(engine, [first, late])
    assert [one.future.result().token_ids for one in (first, late)] == expected and taken == expected[0]
    assert late.alone and not first.alone and engine.begun == 2


def test_a_full_batch_lets_another_begin(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_TURN", 3)
    monkeypatch.setattr(model.loaded.prompts, "stop_ids", ())
    engine, order = Engine(batch_size=1), []
    long, short = job(model, 0, 20), job(model, 1, 2)
    long.future.add_done_callback(lambda _: order.append("long"))
    short.future.add_done_callback(lambda _: order.append("short"))
    engine.submit(long)
    engine.submit(short)
    answer(engine, [long, short])
    assert order == ["short", "long"] and engine.begun == 2


def test_a_long_answer_does_not_hold_up_a_short_one(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, order, taken = Engine(batch_size=4), [], []
    short = job(model, 1, 2)

    def on_token(token: int) -> None:
        taken.append(token)
        if len(taken) == 2:
            engine.submit(short)

    long = job(model, 0, 30, on_token)
    monkeypatch.setattr(model.loaded.prompts, "stop_ids", ())
    expected = alone(model, long), alone(model, short)
    long.future.add_done_callback(lambda _: order.append("long"))
    short.future.add_done_callback(lambda _: order.append("short"))
    engine.submit(long)
    answer(engine, [long, short])
    assert order == ["short", "long"] and taken == long.future.result().token_ids
    assert (long.future.result().token_ids, short.future.result().token_ids) == tuple(one.token_ids for one in expected)


def test_a_question_that_nobody_waits_for_leaves_its_batch(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.loaded.prompts, "stop_ids", ())
    taken: list[int] = []
    other = job(model, 1, 12)

    def on_token(token: int) -> None:
        taken.append(token)
        if len(taken) == 2:
            gone.drop()

    gone, never = job(model, 0, 12, on_token), job(model, 2, 12)
    never.drop()
    expected = alone(model, other)
    engine = Engine(batch_size=4)
    for one in (gone, never, other):
        engine.submit(one)
    answer(engine, [other])
    assert len(taken) == 2 and not never.row.answer.token_ids
    assert other.future.result().token_ids == expected.token_ids
    with pytest.raises(CancelledError):
        gone.future.result()


def test_a_failed_batch_does_not_end_the_engine(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    step = AnswerBatch.step
    failed: list[AnswerBatch] = []

    def failing(self: AnswerBatch) -> Any:
        if not failed:
            failed.append(self)
            raise UserError("the scores are not finite")
        return step(self)

    monkeypatch.setattr(AnswerBatch, "step", failing)
    first, second = job(model, 0), job(model, 1)
    engine = Engine(batch_size=1)
    engine.submit(first)
    engine.submit(second)
    answer(engine, [first, second])
    with pytest.raises(UserError, match="not finite"):
        first.future.result()
    assert second.future.result().token_ids


def test_one_that_cannot_be_answered_does_not_take_the_others_along(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(model, number) for number in range(3)]
    expected = [alone(model, one) for one in jobs]
    step = AnswerBatch.step

    def failing(self: AnswerBatch) -> Any:
        if any(row is jobs[1].row for row in self.rows):
            raise MemoryError("too much for this device")
        return step(self)

    monkeypatch.setattr(AnswerBatch, "step", failing)
    engine = Engine(batch_size=4)
    for one in jobs:
        engine.submit(one)
    answer(engine, jobs)
    assert [jobs[i].future.result().token_ids for i in (0, 2)] == [expected[i].token_ids for i in (0, 2)]
    with pytest.raises(UserError, match="MemoryError: too much for this device"):
        jobs[1].future.result()


def test_what_waits_when_the_server_ends_is_told_so(model: ServedModel) -> None:
    engine = Engine(batch_size=1)
    waiting = engine.submit(job(model, 0))
    engine.stop()
    engine.run()
    with pytest.raises(Ended):
        waiting.future.result()
    with pytest.raises(Ended):
        engine.submit(job(model, 1))


def test_only_so_many_wait(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MOST_WAITING", 2)
    engine = Engine(batch_size=1)
    engine.submit(job(model, 0))
    engine.submit(job(model, 1))
    with pytest.raises(Busy):
        engine.submit(job(model, 2))
