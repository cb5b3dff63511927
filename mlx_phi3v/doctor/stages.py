"""Every stage of a backend against the plain model, each on the plain model's input: so the one that is wrong is named.

An error is the largest difference over the largest number of the stage's result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..batches import Batch, collate
from ..golden.cases import GoldenCase
from ..golden.checks import Check, check, relative_error
from ..golden.tolerances import UNIT_ROUNDOFF
from .plain import Array, PlainModel, rounded

# A stage rounds its numbers up to sixteen times, each time to the dtype. What one rounding of its input does to the result is
# computed with the plain model (`sensitivity`: attention passes rounding on enlarged, by as much as its scores are large);
# sixteen of them, and as much again for kernels not tried, do at most 32 times that. In fp32 the sums of up to four products
# round too, in any order: 588 terms, the most, by some sqrt(588) = 24 units more. Narrower dtypes are summed up in fp32.
ROUNDINGS = {"float32": 32 + 4 * 24, "float16": 32, "bfloat16": 32}
# RoPE's angles are fp32 in every dtype, as in the published code: frequency and product are rounded, four times in all, and an
# angle is as large as its position.
ANGLE = 4 * UNIT_ROUNDOFF["float32"]
# Beyond this share of the largest number a result is wrong, whatever rounding may explain.
MOST = 0.5


class Stages(Protocol):
    """What `stages.Stages` of both backends has, and `PlainModel`."""

    def tower_input(self, crops: Array, /) -> Array: ...
    def tower_layer(self, i: int, x: Array, /) -> Array: ...
    def merge(self, x: Array, /) -> Array: ...
    def project(self, rows: Array, /) -> Array: ...
    def embed(self, input_ids: Array, image_index: Array, features: Array | None, /) -> Array: ...
    def rotary(self, positions: Array, /) -> Array: ...
    def decoder_layer(self, i: int, x: Array, rotary: Array, /) -> Array: ...
    def logits(self, x: Array, /) -> Array: ...


@dataclass(frozen=True)
class Stage:
    """One stage of one case: its name, its method, what the plain model gives it and what it makes of it."""

    name: str
    method: str
    arguments: tuple[Any, ...]
    result: Array

    def run(self, model: Stages, arguments: tuple[Any, ...] | None = None) -> Array:
        """The result of a model."""
        result: Array = getattr(model, self.method)(*(self.arguments if arguments is None else arguments))
        return result


def trace(model: PlainModel, batch: Batch) -> Iterator[Stage]:
    """All stages of a batch of one row, in the order of the computation."""

    def stage(name: str, method: str, *arguments: Any) -> Stage:
        return Stage(name, method, arguments, getattr(model, method)(*arguments))

    config, features = model.config, None
    if len(batch.pixel_values):
        yield (last := stage("tower, patches", "tower_input", batch.pixel_values.astype(np.float64)))
        for i in range(config.vision.used_layers):
            yield (last := stage(f"tower layer {i}", "tower_layer", i, last.result))
        yield (last := stage("merge", "merge", last.result))
        yield (last := stage("projector", "project", last.result))
        features = last.result
    yield (last := stage("embeddings", "embed", batch.input_ids, batch.image_index, features))
    yield (rotary := stage("RoPE", "rotary", batch.positions[0]))
    for i in range(config.num_hidden_layers):
        yield (last := stage(f"decoder layer {i}", "decoder_layer", i, last.result, rotary.result))
    yield stage("logits", "logits", last.result)


def check_stages(label: str, stages: Stages, traced: list[Stage], case: str, allowed: list[float]) -> list[Check]:
    """Each traced stage by a backend (called `label` in the checks). allowed: the `tolerances` of its dtype."""
    return [
        Check(label, stage.name, case, relative_error(stage.run(stages), stage.result), tolerance)
        for stage, tolerance in zip(traced, allowed)
    ]


def tolerances(traced: list[Stage], plain: PlainModel, dtype: str) -> list[float]:
    """How far each stage may be off in a dtype."""
    allowed = [ROUNDINGS[dtype] * sensitivity(stage, plain, dtype) for stage in traced]
    angles = [ANGLE * float(stage.arguments[0].max()) if stage.method == "rotary" else 0.0 for stage in traced]
    return [min(one + other, MOST) for one, other in zip(allowed, angles)]


def sensitivity(stage: Stage, plain: PlainModel, dtype: str) -> float:
    """What rounding a stage's input to `dtype` changes in its result, at least one unit of the dtype."""
    narrow = tuple(_rounded(value, dtype) for value in stage.arguments)
    return max(relative_error(stage.run(plain, narrow), stage.result), UNIT_ROUNDOFF[dtype])


def _rounded(value: Any, dtype: str) -> Any:
    """fp64 numbers as the dtype holds them; what is none stays as it is."""
    if not isinstance(value, np.ndarray) or value.dtype != np.float64:
        return value
    return rounded(value, dtype).astype(np.float64)


def check_plain(case: GoldenCase, traced: list[Stage]) -> Check:
    """The plain model's logits against the recorded ones of the published code, which were computed in fp32."""
    recorded = case.recorded("logits")
    ours = traced[-1].result[0, case.logits_from :]
    error = relative_error(ours, recorded.reshape(-1, recorded.shape[-1]))
    return check("numpy", "logits", case.name, error)


def trace_case(plain: PlainModel, case: GoldenCase) -> list[Stage]:
    """All stages of a recorded case."""
    return list(trace(plain, collate([case.example], plain.config)))
