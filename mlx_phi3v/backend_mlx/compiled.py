"""A pass whose loss and gradient MLX compiles once for each shape of a batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from ..batches import Batch
from ..buckets import feature_bucket, label_bucket, padded
from ..errors import UserError
from ..text import printable
from .arrays import trains
from .cpu.shared import plain
from .model import Phi3VForCausalLM
from .ops import on_cpu

_BUILDS = "--compile: on a CPU MLX builds what it compiles with g++"


def check_compiler() -> None:
    """Raise UserError where MLX cannot compile."""
    if on_cpu() and shutil.which("g++") is None:  # MLX would go on uncompiled without a word
        raise UserError(f"{_BUILDS}, and there is none; install it, or leave --compile out")


@contextmanager
def calls() -> Iterator[None]:
    """Around calls of what is compiled, and what computes its first results. Raises UserError where code is not built."""
    try:
        with plain():  # in a gradient too
            yield
    except RuntimeError as error:
        if "Failed to compile" not in str(error):
            raise
        if on_cpu():
            raise UserError(f"{_BUILDS}, and that failed here; fix it, or leave --compile out") from error
        cause = printable(str(error).splitlines()[0])[:200]
        raise UserError(f"--compile: MLX could not build the step ({cause}); leave --compile out") from error


class CompiledGradient:
    """Batch -> (summed token loss, its gradient by the trained parameters), the batch padded to a bucket.

    compilations: how many shapes were compiled so far. A frozen image side is computed outside: it has its own shapes.
    """

    def __init__(
        self, model: Phi3VForCausalLM, loss: Callable[..., mx.array], inputs: Callable[[Batch, int], tuple[mx.array, ...]]
    ) -> None:
        """loss: of the arrays that `inputs` gives for (batch, labels at least). Raises UserError where MLX cannot compile."""
        check_compiler()
        self.compilations = 0
        self._model, self._loss, self._inputs = model, loss, inputs
        self._image_side_trains = trains(model.model.vision_embed_tokens)
        self._run = mx.compile(mx.value_and_grad(self._traced))

    def __call__(self, batch: Batch) -> tuple[mx.array, Any]:
        """Raises UserError where the code that MLX writes is not built."""
        arrays, parameters = self._arrays(batch), self._model.trainable_parameters()
        before = self.compilations
        with calls():
            loss, gradients = self._run(parameters, *arrays)
            if self.compilations > before:
                self._model.update(parameters)  # tracing left its own arrays there, which hold no numbers
                mx.eval(loss, gradients)
        return loss, gradients

    def _traced(self, parameters: dict[str, Any], *arrays: mx.array) -> mx.array:
        """Runs once for each shape."""
        self.compilations += 1
        self._model.update(parameters)
        return self._loss(*arrays)

    def _arrays(self, batch: Batch) -> tuple[mx.array, ...]:
        batch = padded(batch, self._model.config, crops=self._image_side_trains)
        *others, images, label_index, targets = self._inputs(batch, label_bucket(batch.answer_tokens))
        if len(batch.pixel_values) and not self._image_side_trains:
            features = self._model.features(images)
            assert features is not None
            behind = max(0, feature_bucket(*batch.input_ids.shape) - len(features))
            images = mx.pad(features, [(0, behind), (0, 0)])
        return *others, images, label_index, targets
