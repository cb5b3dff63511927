"""The learning rate is transformers' schedule, as a pure function of the step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_phi3v.schedule import SCHEDULES, learning_rate


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 3])
def test_every_step_has_the_rate_of_transformers(schedule: str, warmup: int) -> None:
    torch = pytest.importorskip("torch")
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=12)
    for step in range(12):
        ours = learning_rate(step, peak=2e-4, total_steps=12, warmup_steps=warmup, schedule=schedule)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


@given(step=st.integers(0, 200), total=st.integers(1, 150), warmup=st.integers(0, 150), schedule=st.sampled_from(SCHEDULES))
def test_the_rate_stays_between_zero_and_its_peak(step: int, total: int, warmup: int, schedule: str) -> None:
    rate = learning_rate(step, peak=1.0, total_steps=total, warmup_steps=warmup, schedule=schedule)
    assert 0.0 <= rate <= 1.0
