"""The step of one token, in shapes that stay the same from token to token, so that MLX compiles it once for each of a few.

Shapes: B rows, R places of the cache, C columns of the cache, V words.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from .cache import Cache, pack, unpack
from .compiled import calls, check_compiler
from .model import Phi3VForCausalLM


class StepCache:
    """A layer's arrays, [R, heads, C, D] each, as attention takes a cache: a token is written into one column."""

    def __init__(self, arrays: Sequence[mx.array], column: mx.array, bits: int) -> None:
        """column: [1]."""
        self.arrays, self.column, self.bits = list(arrays), column, bits

    def update_and_fetch(self, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Store keys and values [R, heads, 1, D]; those of all columns, [R, heads, C, D], filled or not."""
        heads, new = k.shape[1], [*pack(k, self.bits), *pack(v, self.bits)]
        self.arrays = [mx.slice_update(array, x, self.column, axes=[2]) for array, x in zip(self.arrays, new)]
        half = len(new) // 2
        return unpack(self.arrays[:half], self.bits, heads), unpack(self.arrays[half:], self.bits, heads)


class CompiledStep:
    """Next tokens -> their scores, by `MLXBackend.decode` with --compile. compilations: how many shapes were compiled so far.

    Every step goes over all places and columns that the cache has room for, and hides those that hold nothing of a row.
    """

    def __init__(self, model: Phi3VForCausalLM, bits: int) -> None:
        """Raises UserError where MLX cannot compile."""
        check_compiler()
        self.compilations = 0
        self._model, self._bits = model, bits
        self._run = mx.compile(self._traced)

    def __call__(self, cache: Cache, tokens: mx.array) -> mx.array:
        """Logits [B, V] after these tokens, [B]. The cache counts them already: see `BatchCache.append`.

        Raises UserError where the code that MLX writes is not built.
        """
        for layer in cache.layers:
            layer.make_room(1)
        count, before = len(tokens), self.compilations
        numbers = mx.array(cache.step_numbers()).astype(mx.int32)
        padded = mx.pad(tokens.astype(mx.int32), (0, len(numbers) - 1 - count))
        with calls():
            logits, arrays = self._run(padded, numbers, [layer.arrays for layer in cache.layers])
            for layer, new in zip(cache.layers, arrays):
                layer.arrays, layer.length = new, layer.length + 1
            if self.compilations > before:
                mx.eval(logits, arrays)
        of_rows: mx.array = logits[:count]
        return of_rows

    def _traced(
        self, tokens: mx.array, numbers: mx.array, arrays: list[list[mx.array]]
    ) -> tuple[mx.array, list[list[mx.array]]]:
        """Logits [R, V] and the arrays with the token; runs once for each shape. numbers: see `BatchCache.step_numbers`."""
        self.compilations += 1
        lengths, column = numbers[:-1], numbers[-1:]
        columns = mx.arange(arrays[0][0].shape[2])
        mask = ((columns <= column) & (columns > column - lengths[:, None]))[:, None, None]
        caches = [StepCache(of_layer, column, self._bits) for of_layer in arrays]
        embedded = self._model.model.embed_tokens(tokens[:, None])
        hidden = self._model.model(embedded, (lengths - 1)[:, None], lengths, mask, caches)
        return self._model.lm_head(hidden[:, -1]), [cache.arrays for cache in caches]
