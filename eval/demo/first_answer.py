"""What is known within a minute: whether the base model answers alike on both backends."""

from __future__ import annotations

from mlx_phi3v.progress import result

from ..compare.compare_runs import compare_runs
from ..compare.comparison import Comparison
from ..runs.run import Run
from .jobs import Display
from .same_computation import same_computation
from .settings import DemoConfig

# One base model, converted to MLX and as published; the first rows of the split.
ALLOW = ("base", "limit")
_SAID = {True: "compute the same so far", False: "do not compute the same", None: "have recorded too little to tell"}


def compare_first(config: DemoConfig) -> Comparison:
    """The base model on both backends. Its verdict says nothing: an untuned model knows neither category nor price."""
    assert config.other is not None
    runs = [Run.load(config.first_run(backend)) for backend in (config.tuned_on, config.other)]
    return compare_runs(runs[0], runs[1], allow=ALLOW, floor=[Run.load(config.floor_run)], breakdown=False)


def say_first_answer(config: DemoConfig, display: Display) -> None:
    """Print it, as soon as it is there."""
    comparison = compare_first(config)
    found = same_computation(comparison)
    said = _SAID[found.answer]
    display.say(f"First answer: the base model on {config.other} and on {config.tuned_on}, which {said}:")
    display.say(f"  {found.tokens_line}")
    display.say(f"  {found.gap_line(config.tuned_on)}")
    result(
        config.json, event="first_answer", rows=found.rows, same_tokens=found.same, mean_gap=found.mean,
        largest_gap=found.largest, floor_gap=found.floor_mean,
    )  # fmt: skip
