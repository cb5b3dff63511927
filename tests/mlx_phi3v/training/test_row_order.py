"""The rows of a step are those the run began with, however a step is cut into passes."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_phi3v.batches import batch_rows
from mlx_phi3v.training.row_order import RowOrder

ORDERS = st.builds(
    RowOrder, rows=st.integers(1, 40), batch_size=st.integers(1, 7), accumulation=st.integers(1, 4), seed=st.integers(0, 3)
)


def steps(order: RowOrder, start: int, size: int, count: int) -> list[list[list[int]]]:
    """The passes of `count` steps."""
    passes, found = order.passes(start, size), []
    for _ in range(count):
        step, ended = [], False
        while not ended:
            rows, ended = next(passes)
            step.append(rows)
        found.append(step)
    return found


@given(order=ORDERS, start=st.integers(0, 12))
def test_uncut_passes_are_the_drawn_batches_in_their_old_order(order: RowOrder, start: int) -> None:
    batches = batch_rows(order.rows, order.batch_size, order.seed)
    drawn = [list(itertools.islice(batches, order.accumulation)) for _ in range(start + 4)]
    assert steps(order, start, order.batch_size, 4) == drawn[start:]


@given(order=ORDERS, start=st.integers(0, 12), size=st.integers(1, 30))
def test_another_cut_leaves_every_step_its_rows(order: RowOrder, start: int, size: int) -> None:
    cut, drawn = steps(order, start, size, 5), steps(order, start, order.batch_size, 5)
    for ours, theirs in zip(cut, drawn):
        assert list(itertools.chain(*ours)) == list(itertools.chain(*theirs))
        assert all(1 <= len(rows) <= size for rows in ours)


def test_a_step_may_take_the_short_batch_of_an_epoch_and_the_next_ones_first() -> None:
    order = RowOrder(rows=12, batch_size=5, accumulation=2, seed=0)
    assert [[len(rows) for rows in step] for step in steps(order, 0, 5, 3)] == [[5, 5], [2, 5], [5, 2]]
    assert [[len(rows) for rows in step] for step in steps(order, 0, 10, 3)] == [[10], [7], [7]]
    assert [[len(rows) for rows in step] for step in steps(order, 0, 3, 3)] == [[3, 3, 3, 1], [3, 3, 1], [3, 3, 1]]


def test_rows_of_like_length_stay_together_however_they_are_cut() -> None:
    tokens = np.random.Generator(np.random.PCG64(0)).integers(1, 1000, 200)
    order = RowOrder(200, 8, 1, 1, tokens)
    drawn = list(itertools.islice(batch_rows(200, 8, 1, 0, tokens.__getitem__), 30))
    assert [list(itertools.chain(*step)) for step in steps(order, 0, 2, 30)] == drawn


def test_epochs_make_the_same_steps_whatever_a_pass_holds() -> None:
    assert RowOrder(12, 4, 1, 0).total_steps(1) == 3 and RowOrder(13, 4, 1, 0).total_steps(1) == 4
    assert RowOrder(16, 4, 2, 0).total_steps(2.5) == 5 and RowOrder(12, 4, 1, 0).total_steps(0.01) == 1
