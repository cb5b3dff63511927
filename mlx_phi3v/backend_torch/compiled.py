"""A pass whose layers torch compiles once for each shape of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from ..batches import Batch
from ..buckets import label_bucket, padded
from ..errors import UserError
from ..text import printable
from .model import Phi3VForCausalLM

COMPILER = "inductor"  # torch's own
_MOST_SHAPES = 256  # torch's own limit is 8, behind which it goes on uncompiled without a word


class Compiler:
    """What builds the code of a shape, for `torch.compile`; around a call, what lets it build many. compilations: so far.

    graphs: whether, on CUDA, the kernels of what is built are launched together, as a CUDA graph. options: torch's, of that.
    """

    def __init__(self, *, graphs: bool = False) -> None:
        self.compilations = 0
        self.options = {"config_patches": {"triton.cudagraphs": True}} if graphs and torch.cuda.is_available() else {}

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        """Build the code of a shape."""
        self.compilations += 1
        built: Callable[..., Any] = torch._dynamo.lookup_backend(COMPILER)(graph, inputs, **self.options)
        return built

    @contextmanager
    def calls(self) -> Iterator[None]:
        """Around calls of what is compiled. Raises UserError where torch finds nothing to compile with."""
        try:
            with torch._dynamo.config.patch(recompile_limit=_MOST_SHAPES, accumulated_recompile_limit=_MOST_SHAPES):
                yield
        except torch._dynamo.exc.ShortenTraceback as error:  # a compiler's error, or that CUDA's, triton, is missing
            said = str(getattr(error, "inner_exception", error)).splitlines()
            cause = printable(next(iter(said), "no reason given"))[:200]
            raise UserError(
                f"--compile: torch could not build the step ({cause}); install what it asks for, or leave --compile out"
            ) from error


class CompiledLayers:
    """Batch -> summed token loss, whose gradient is added; the batch padded to a bucket.

    Layers of one kind share their code, so that each shape is compiled for one of them. The tower's are compiled where it
    trains. Answers and validation go uncompiled.
    """

    def __init__(self, model: Phi3VForCausalLM) -> None:
        self.compiler = Compiler()
        self._config = model.config
        image_side = model.model.vision_embed_tokens
        self._image_side_trains = any(parameter.requires_grad for parameter in image_side.parameters())
        kinds = [model.model.layers, image_side.img_processor.vision_model.encoder.layers]
        trained = [layers for layers in kinds if any(parameter.requires_grad for parameter in layers.parameters())]
        made = {
            kind: torch.compile(kind.forward, backend=self.compiler, dynamic=False)
            for kind in {type(layer) for layers in trained for layer in layers}
        }
        self._forwards = [(layer, made[type(layer)]) for layers in trained for layer in layers]

    def backward(self, batch: Batch, token_loss: Callable[[Batch, int], torch.Tensor]) -> torch.Tensor:
        """The loss, after its gradient was added. Raises UserError where torch finds nothing to compile with."""
        batch = padded(batch, self._config, crops=self._image_side_trains)
        with self.compiler.calls(), self._in_place():
            loss = token_loss(batch, label_bucket(batch.answer_tokens))
            loss.backward()
        return loss

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The layers' own `forward` is the compiled one, in the backward pass too, where a layer may be computed again."""
        for layer, forward in self._forwards:
            vars(layer)["forward"] = partial(forward, layer)
        try:
            yield
        finally:
            for layer, _ in self._forwards:
                del vars(layer)["forward"]
