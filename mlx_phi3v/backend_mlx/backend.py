"""The MLX backend: the model behind `backend.Backend`."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import psutil
from mlx.utils import tree_flatten, tree_map

from ..adapters import AdapterArgs, adapter_shapes
from ..backend import Forward, OptimizerArgs, PassLoss, without_dropout
from ..batches import Batch
from ..chunks import in_one, row_chunks
from ..config import ModelArgs
from ..next_tokens import Scores
from . import lora
from .arrays import leaves, scalar, to_numpy
from .cache import Cache, KVCache
from .compiled import CompiledGradient
from .compiled_step import CompiledStep
from .cpu import blas
from .memory import set_limits
from .model import Phi3VForCausalLM, parameter_name
from .next_tokens import scores
from .ops import on_cpu
from .optimizer import make_optimizer, moments, set_moments
from .random_keys import KEYS
from .ranks import Ranks


class Inputs(NamedTuple):
    """A batch's arrays on the device; see `batches.Batch`. lengths: [B], tokens of each row.

    images: pixel_values [N, 3, 336, 336], or features [rows, H] where they are known.
    """

    input_ids: mx.array
    positions: mx.array
    lengths: mx.array
    image_index: mx.array
    images: mx.array


class MLXBackend:
    """See `backend.Backend`."""

    name = "mlx"

    def __init__(
        self, model: Phi3VForCausalLM, config: ModelArgs, folder: Path, dtype: str, kv_bits: int = 0, compiled: bool = False,
        ranks: Ranks | None = None,
    ) -> None:  # fmt: skip
        """compiled: whether the step of one token is, see `CompiledStep`."""
        self.model = model
        self.kv_bits = kv_bits
        self.config = config
        self.folder = folder
        self.dtype = dtype
        self.keys: list[str] = []
        self.optimizer: optim.AdamW
        self.reduce_dtype = "float32"
        self.grads: Any = None
        self.losses: list[PassLoss] = []  # of the passes since the last update
        self.scores_on_device = not on_cpu()
        self.ranks = ranks or Ranks()
        self.compiled: CompiledGradient | None = None
        self.compiled_step = CompiledStep(model, kv_bits) if compiled else None
        self._loss_and_grad = nn.value_and_grad(model, lambda *arrays: self.token_loss(*arrays))

    @property
    def compilations(self) -> int:
        """See `backend.Backend`."""
        return sum(part.compilations for part in (self.compiled, self.compiled_step) if part)

    @property
    def whole_model(self) -> nn.Module:
        """The model with its adapter."""
        return self.model

    def device_info(self) -> dict[str, Any]:
        """See `backend.Backend`."""
        info = mx.device_info()
        return {
            "name": "cpu" if on_cpu() else "gpu",
            "chip": info.get("device_name") or info.get("architecture") or platform.processor() or platform.machine(),
            "dtype": self.dtype,
            "blas": blas.loaded,
            "tf32": None,
            "threads": psutil.cpu_count(),
        }

    def set_adapter(self, adapter: AdapterArgs, tensors: dict[str, np.ndarray], *, trainable: bool) -> None:
        """See `backend.Backend`."""
        self.keys = sorted(adapter_shapes(self.config, adapter).tensors)
        lora.add_lora(self.model, self.config, adapter, tensors, trainable)
        self.model.train(trainable)

    def adapter_tensors(self) -> dict[str, np.ndarray]:
        """See `backend.Backend`."""
        return lora.adapter_tensors(self.model, self.keys)

    def start_training(
        self, optimizer: OptimizerArgs, *, grad_checkpoint: bool, compiled: bool = False, memory: int | None = None
    ) -> None:
        """See `backend.Backend`."""
        # A tower that does not train saves no activations anyway.
        trains = any(".vision_model." in key for key in self.keys)
        self.model.model.gradient_checkpointing = grad_checkpoint
        self.model.model.vision_embed_tokens.img_processor.vision_model.gradient_checkpointing = grad_checkpoint and trains
        self.optimizer = make_optimizer(self.model, optimizer)
        self.reduce_dtype = optimizer.reduce_dtype
        self.grads, self.losses = None, []
        self.compiled = CompiledGradient(self.model, self.token_loss, self._loss_inputs) if compiled else None
        set_limits(memory)

    def optimizer_tensors(self) -> dict[str, np.ndarray]:
        """See `backend.Backend`."""
        return moments(self.optimizer, self.keys)

    def load_training(self, adapter: dict[str, np.ndarray], optimizer: dict[str, np.ndarray], step: int) -> None:
        """See `backend.Backend`."""
        lora.set_adapter_tensors(self.model, adapter)
        set_moments(self.optimizer, optimizer, step)

    def seed(self, value: int) -> None:
        """See `backend.Backend`."""
        KEYS.seed(value)

    def accumulate(self, batch: Batch) -> PassLoss:
        """See `backend.Backend`."""
        gradient = self.compiled or (lambda batch: self._loss_and_grad(*self._loss_inputs(batch)))
        loss, grads = gradient(batch)
        self.grads = grads if self.grads is None else tree_map(mx.add, self.grads, grads)
        mx.async_eval(loss, self.grads)  # begun, else the passes of a step would pile up as one graph
        self.losses.append(PassLoss(loss))
        return self.losses[-1]

    def update(self, lr: float, tokens: int, max_grad_norm: float) -> float:
        """See `backend.Backend`."""
        grads, self.grads = self.grads, None
        losses, self.losses = self.losses, []
        if grads is None:  # a rank without rows in this step
            grads = tree_map(mx.zeros_like, self.model.trainable_parameters())
        grads = self.ranks.sum_gradients(grads, self.reduce_dtype)
        grads = tree_map(lambda g: g / max(tokens, 1), grads)
        norm = mx.sqrt(mx.stack([g.square().sum() for g in leaves(grads)]).sum())
        mx.eval(norm, [loss.array for loss in losses])  # the one wait of a step
        if not all(map(math.isfinite, (scalar(norm), *map(float, losses)))):
            return scalar(norm)
        # The same guard as torch.nn.utils.clip_grad_norm_.
        scale = mx.minimum(max_grad_norm / (norm + 1e-6), 1.0) if max_grad_norm > 0 else mx.array(1.0)
        self.optimizer.learning_rate = lr
        self.optimizer.update(self.model, tree_map(lambda g: g * scale, grads))
        mx.async_eval(self.model.trainable_parameters(), self.optimizer.state)
        return scalar(norm)

    @without_dropout
    def loss(self, batch: Batch) -> float:
        """See `backend.Backend`."""
        return scalar(self.token_loss(*self._loss_inputs(batch)))

    @without_dropout
    def prefill(self, batch: Batch, read: Cache | None = None) -> tuple[Scores, Any]:
        """See `backend.Backend`."""
        rows, tokens = batch.input_ids.shape
        if read is None and in_one(tokens):
            cache = self._cache(batch.attention_mask[:, ::-1].copy(), prompts=batch.lengths.tolist())
            # Padding is on the right, behind all that a real token may see: the causal mask is enough.
            hidden = self.model(*self._inputs(batch), mask="causal", cache=cache.layers)
            return self._scores(hidden[mx.arange(rows), mx.array(batch.lengths - 1)][:, None]), cache
        images = mx.array(batch.pixel_values if batch.features is None else batch.features)
        features = self.model.features(images)
        done = [self._read_row(batch, row, features, read) for row in range(rows)]
        cache, *others = (of_row for _, of_row in done)
        cache.join(*others)
        return self._scores(mx.concatenate([last for last, _ in done])), cache

    def _read_row(self, batch: Batch, row: int, features: mx.array | None, read: Cache | None) -> tuple[mx.array, Cache]:
        """Read one prompt in chunks behind what is cached: its last hidden state [1, 1, H], and the cache."""
        cached = 0 if read is None else int(read.lengths[0])
        cache = read or self._cache(np.zeros((1, 0), bool), expected=int(batch.attention_mask[row].sum()))
        hidden = mx.zeros((1, 0, self.config.hidden_size))
        for chunk in row_chunks(batch, row, cached):
            ids, index, positions, lengths = map(mx.array, (chunk.input_ids, chunk.image_index, chunk.positions, chunk.lengths))
            cache.append(chunk.tokens)
            embedded = self.model.model.embed(ids, index, features)
            hidden = self.model.model(embedded, positions, lengths, "causal", cache.layers)[:, -1:]
            mx.eval(hidden, [layer.arrays for layer in cache.layers])  # what the chunk took is free again
        return hidden, cache

    def _cache(self, valid: np.ndarray, expected: int = 0, prompts: Sequence[int] = ()) -> Cache:
        rounded, layers = self.compiled_step is not None, range(self.config.num_hidden_layers)
        return Cache([KVCache(self.kv_bits, expected, rounded, prompts) for _ in layers], valid)

    @without_dropout
    def decode(self, cache: Cache, tokens: Any) -> Scores:
        """See `backend.Backend`."""
        cache.append()
        ids = tokens if isinstance(tokens, mx.array) else mx.array(tokens)
        if self.compiled_step:
            return scores(self.compiled_step(cache, ids), on_device=self.scores_on_device)
        # MLX: CUDA's attention of one token without a mask takes keys that fill their array to its end for all of it, and reads
        # them from its first column on; here they begin where padding was dropped (sdpa's `unslice_kv`).
        plain = cache.valid.all() and (not self.scores_on_device or cache.layers[0].start == 0)
        hidden = self.model.model(
            self.model.model.embed_tokens(ids[:, None]),
            mx.array(cache.lengths - 1)[:, None],
            mx.array(cache.lengths),
            None if plain else mx.array(cache.valid)[:, None, None],
            cache.layers,
        )
        return self._scores(hidden)

    def keep_rows(self, cache: Cache, rows: list[int]) -> None:
        """See `backend.Backend`."""
        cache.keep_rows(rows)

    def join(self, cache: Cache, *others: Cache) -> None:
        """See `backend.Backend`."""
        cache.join(*others)

    @without_dropout
    def forward(self, batch: Batch, logits_from: int = 0) -> Forward:
        """See `backend.Backend`."""
        states: list[mx.array] = []
        hidden = self.model(*self._inputs(batch), mask="causal", every_layer=states)
        return Forward([to_numpy(state) for state in states], to_numpy(self.model.lm_head(hidden[:, logits_from:])))

    def gradients(self, batch: Batch, names: list[str]) -> tuple[float, dict[str, np.ndarray]]:
        """See `backend.Backend`."""
        self.model.freeze()
        parameters = {name: parameter_name(name) for name in names}
        for parameter in parameters.values():
            module, _, key = parameter.rpartition(".")
            lora.model_module(self.model, module).unfreeze(keys=[key], recurse=False)
        loss, grads = self._loss_and_grad(*self._loss_inputs(batch))
        flat = dict(tree_flatten(grads))
        result = {name: to_numpy(flat[parameter]) / batch.answer_tokens for name, parameter in parameters.items()}
        self.model.freeze()
        return scalar(loss) / batch.answer_tokens, result

    def vision_features(self, pixel_values: np.ndarray) -> np.ndarray:
        """See `backend.Backend`."""
        return to_numpy(self.model.model.vision_embed_tokens(mx.array(pixel_values)))

    def peak_memory(self) -> int:
        """See `backend.Backend`."""
        return int(mx.get_peak_memory())

    def free_memory(self) -> None:
        """See `backend.Backend`."""
        mx.clear_cache()

    def world(self) -> tuple[int, int]:
        """See `backend.Backend`."""
        return self.ranks.rank, self.ranks.count

    def all_sum(self, values: np.ndarray) -> np.ndarray:
        """See `backend.Backend`."""
        return self.ranks.sum_arrays(values)

    def _scores(self, hidden: mx.array) -> Scores:
        return scores(self.model.lm_head(hidden[:, -1]), on_device=self.scores_on_device)

    def _inputs(self, batch: Batch) -> Inputs:
        images = batch.pixel_values if batch.features is None else batch.features
        return Inputs(*map(mx.array, (batch.input_ids, batch.positions, batch.lengths, batch.image_index, images)))

    def _loss_inputs(self, batch: Batch, labels: int = 0) -> tuple[mx.array, ...]:
        """labels: see `Batch.learnt`."""
        return (*self._inputs(batch), *map(mx.array, batch.learnt(labels)))

    def token_loss(self, *arrays: mx.array) -> mx.array:
        """Summed cross-entropy of a batch's answer tokens, differentiable."""
        *inputs, label_index, targets = arrays
        # Padding is on the right, behind all that a real token may see: the causal mask is enough.
        return self.model.loss(self.model(*Inputs(*inputs)), label_index, targets)
