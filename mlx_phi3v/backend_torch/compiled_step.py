"""The step of one token, in shapes that stay the same from token to token, so that torch compiles it once for each of a few.

Shapes: B rows, R places of the cache, C columns of the cache, V words.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from .cache import Cache, pack, unpack
from .compiled import Compiler
from .decoder import additive
from .device import to_device
from .model import Phi3VForCausalLM


class StepCache:
    """A layer's arrays, [R, heads, C, D] each, as transformers' attention takes a cache: a token is written into one column."""

    def __init__(self, layers: list[list[torch.Tensor]], column: torch.Tensor, bits: int) -> None:
        """column: int64 [1]."""
        self.layers, self.column, self.bits = layers, column, bits

    def update(self, k: torch.Tensor, v: torch.Tensor, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values [R, heads, 1, D]; those of all columns, [R, heads, C, D], filled or not."""
        arrays, heads = self.layers[layer_idx], k.shape[1]
        for array, new in zip(arrays, [*pack(k, self.bits), *pack(v, self.bits)]):
            array.index_copy_(2, self.column, new)
        half = len(arrays) // 2
        return unpack(arrays[:half], self.bits, heads), unpack(arrays[half:], self.bits, heads)


class CompiledStep:
    """Next tokens -> their scores, by `TorchBackend.decode` with --compile.

    Every step goes over all places and columns that the cache has room for, and hides those that hold nothing of a row. On CUDA
    it is one graph, which is launched at once.
    """

    def __init__(self, model: Phi3VForCausalLM, bits: int, *, eager: bool) -> None:
        """eager: whether attention is torch's eager one, which adds its mask to the scores."""
        self._model, self._bits, self._eager = model, bits, eager
        self.compiler = Compiler(graphs=True)
        self._run = torch.compile(self._logits, backend=self.compiler, dynamic=False)

    def __call__(self, cache: Cache, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, V] after these tokens, int64 [B]. The cache counts them already: see `BatchCache.append`.

        Raises UserError where torch finds nothing to compile with.
        """
        for layer in cache.layers:
            layer.make_room(1)
        arrays = [layer.arrays for layer in cache.layers]
        for array in (array for of_layer in arrays for array in of_layer):
            torch._dynamo.mark_static_address(array)  # a CUDA graph writes where they are
        count, numbers = len(tokens), to_device(cache.step_numbers(), tokens.device)
        with self.compiler.calls():
            logits: torch.Tensor = self._run(pad(tokens, (0, len(numbers) - 1 - count)), numbers, arrays)
        for layer in cache.layers:
            layer.length += 1
        return logits[:count].clone()  # the next run of a CUDA graph writes to the same place

    def _logits(self, tokens: torch.Tensor, numbers: torch.Tensor, arrays: list[list[torch.Tensor]]) -> torch.Tensor:
        """Logits [R, V]. numbers: int64 [R + 1], tokens of each row so far, these included, and the column that they go to."""
        lengths, column = numbers[:-1], numbers[-1:]
        columns = torch.arange(arrays[0][0].shape[2], device=tokens.device)
        mask = ((columns <= column) & (columns > column - lengths[:, None]))[:, None, None]
        embedded = self._model.model.embed_tokens(tokens[:, None])
        hidden = self._model.model(
            embedded,
            (lengths - 1)[:, None],
            lengths,
            additive(mask, embedded.dtype) if self._eager else mask,
            StepCache(arrays, column, self._bits),
        )
        logits: torch.Tensor = self._model.lm_head(hidden[:, -1])
        return logits
