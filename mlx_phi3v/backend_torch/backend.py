"""The torch backend: the model behind `backend.Backend`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..adapters import AdapterArgs
from ..backend import Forward, OptimizerArgs, PassLoss, without_dropout
from ..batches import Batch
from ..chunks import in_one, row_chunks
from ..config import ModelArgs
from ..next_tokens import Scores
from . import lora
from .accelerator import free_memory, peak_memory
from .cache import Cache, KVCache
from .compiled import CompiledLayers
from .compiled_step import CompiledStep
from .decoder import additive
from .device import device_info, to_device
from .model import Phi3VForCausalLM, parameter_name
from .next_tokens import scores
from .optimizer import make_optimizer, moments, set_moments
from .ranks import Ranks


class TorchBackend:
    """See `backend.Backend`."""

    name = "torch"

    def __init__(
        self,
        model: Phi3VForCausalLM,
        config: ModelArgs,
        folder: Path,
        dtype: str,
        attn_implementation: str,
        ranks: Ranks,
        kv_bits: int = 0,
        compiled: bool = False,
    ) -> None:
        """compiled: whether the step of one token is, see `CompiledStep`."""
        self.model = model
        self.kv_bits = kv_bits
        self.config = config
        self.folder = folder
        self.dtype = dtype
        self.ranks, self.device = ranks, ranks.device
        self.attn_implementation = attn_implementation
        # torch: mps has no fp64, which `next_tokens.DeviceScores` copies in, and nobody tried the rest there.
        self.scores_on_device = self.device.type == "cuda"
        self.fused_optimizer = self.device.type == "cuda"
        self._peak = 0
        self.peft: Any = None
        self.parameters: dict[str, torch.nn.Parameter] = {}
        self.optimizer: torch.optim.AdamW
        self.reduce_dtype = "float32"
        self.compiled: CompiledLayers | None = None
        self.compiled_step = CompiledStep(model, kv_bits, eager=attn_implementation == "eager") if compiled else None
        self.losses: list[PassLoss] = []  # of the passes since the last update

    @property
    def compilations(self) -> int:
        """See `backend.Backend`."""
        return sum(part.compiler.compilations for part in (self.compiled, self.compiled_step) if part)

    @property
    def whole_model(self) -> torch.nn.Module:
        """The model with its adapter."""
        model: torch.nn.Module = self.model if self.peft is None else self.peft
        return model

    def device_info(self) -> dict[str, Any]:
        """See `backend.Backend`."""
        return device_info(self.device, self.dtype)

    def set_adapter(self, adapter: AdapterArgs, tensors: dict[str, np.ndarray], *, trainable: bool) -> None:
        """See `backend.Backend`."""
        self.peft = lora.add_lora(self.model, self.config, adapter, tensors, trainable)
        self.parameters = lora.parameters_by_key(self.peft)
        self.peft.train(trainable)

    def adapter_tensors(self) -> dict[str, np.ndarray]:
        """See `backend.Backend`."""
        return lora.adapter_tensors(self.peft)

    def start_training(
        self, optimizer: OptimizerArgs, *, grad_checkpoint: bool, compiled: bool = False, memory: int | None = None
    ) -> None:
        """See `backend.Backend`."""
        # A tower that does not train saves no activations anyway.
        trains = any(".vision_model." in key for key in self.parameters)
        self.model.model.gradient_checkpointing = grad_checkpoint
        self.model.model.vision_embed_tokens.img_processor.vision_model.gradient_checkpointing = grad_checkpoint and trains
        self.optimizer = make_optimizer(self.parameters, optimizer, fused=self.fused_optimizer)
        self.reduce_dtype = optimizer.reduce_dtype
        self.losses = []
        self.compiled = CompiledLayers(self.model) if compiled else None

    def optimizer_tensors(self) -> dict[str, np.ndarray]:
        """See `backend.Backend`."""
        return moments(self.optimizer, self.parameters)

    def load_training(self, adapter: dict[str, np.ndarray], optimizer: dict[str, np.ndarray], step: int) -> None:
        """See `backend.Backend`."""
        lora.set_adapter_tensors(self.peft, adapter)
        set_moments(self.optimizer, self.parameters, optimizer, step, fused=self.fused_optimizer)

    def seed(self, value: int) -> None:
        """See `backend.Backend`."""
        torch.manual_seed(value)

    def accumulate(self, batch: Batch) -> PassLoss:
        """See `backend.Backend`."""
        if self.compiled:
            loss = self.compiled.backward(batch, self.token_loss)
        else:
            loss = self.token_loss(batch)
            loss.backward()
        self.losses.append(PassLoss(loss.detach()))
        return self.losses[-1]

    def update(self, lr: float, tokens: int, max_grad_norm: float) -> float:
        """See `backend.Backend`."""
        parameters = list(self.parameters.values())
        for parameter in parameters:
            if parameter.grad is None:  # e.g. the tower, where no row of the step had an image
                parameter.grad = torch.zeros_like(parameter)
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.ranks.sum_gradients(grads, self.reduce_dtype)
        torch._foreach_div_(grads, max(tokens, 1))
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm if max_grad_norm > 0 else float("inf"))
        losses, self.losses = self.losses, []
        value, *values = torch.stack([norm, *(loss.array for loss in losses)]).tolist()  # the one wait of a step
        for loss, its in zip(losses, values):
            loss.settle(its)
        if all(map(math.isfinite, (value, *values))):
            self.optimizer.param_groups[0]["lr"] = lr
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(value)

    @without_dropout
    @torch.no_grad()
    def loss(self, batch: Batch) -> float:
        """See `backend.Backend`."""
        return self.token_loss(batch).item()

    @without_dropout
    @torch.inference_mode()
    def prefill(self, batch: Batch, read: Cache | None = None) -> tuple[Scores, Any]:
        """See `backend.Backend`."""
        rows, tokens = batch.input_ids.shape
        if read is None and in_one(tokens):
            cache = self._cache(batch.attention_mask[:, ::-1].copy(), prompts=batch.lengths.tolist())
            # Padding is on the right, behind all that a real token may see: the causal mask is enough.
            hidden = self._hidden(batch, self._causal(tokens, tokens), cache=cache)
            last = self._tensor(np.stack([np.arange(rows), batch.lengths - 1]))
            return self._scores(hidden[last[0], last[1]][:, None]), cache
        images = self._tensor(batch.pixel_values if batch.features is None else batch.features)
        features = self.model.features(images)
        done = [self._read_row(batch, row, features, read) for row in range(rows)]
        cache, *others = (of_row for _, of_row in done)
        cache.join(*others)
        return self._scores(torch.cat([last for last, _ in done])), cache

    def _read_row(
        self, batch: Batch, row: int, features: torch.Tensor | None, read: Cache | None
    ) -> tuple[torch.Tensor, Cache]:
        """Read one prompt in chunks behind what is cached: its last hidden state [1, 1, H], and the cache."""
        cached = 0 if read is None else int(read.lengths[0])
        cache = read or self._cache(np.zeros((1, 0), bool), expected=int(batch.attention_mask[row].sum()))
        hidden = torch.zeros((1, 0, self.config.hidden_size))
        for chunk in row_chunks(batch, row, cached):
            ids, index, positions, lengths = map(
                self._tensor, (chunk.input_ids, chunk.image_index, chunk.positions, chunk.lengths)
            )
            cache.append(chunk.tokens)
            embedded = self.model.model.embed(ids, index, features)
            mask = self._causal(chunk.tokens, cache.valid.shape[1])
            hidden = self.model.model(embedded, positions, lengths, mask, cache)[:, -1:]
        return hidden, cache

    def _cache(self, valid: np.ndarray, expected: int = 0, prompts: Sequence[int] = ()) -> Cache:
        rounded, layers = self.compiled_step is not None, range(self.config.num_hidden_layers)
        return Cache([KVCache(self.kv_bits, expected, rounded, prompts) for _ in layers], valid)

    @without_dropout
    @torch.inference_mode()
    def decode(self, cache: Cache, tokens: Any) -> Scores:
        """See `backend.Backend`."""
        cache.append()
        ids = tokens if isinstance(tokens, torch.Tensor) else self._tensor(tokens)
        if self.compiled_step:
            return scores(self.compiled_step(cache, ids), on_device=self.scores_on_device)
        hidden = self.model.model(
            self.model.model.embed_tokens(ids[:, None]),
            self._tensor(cache.lengths - 1)[:, None],
            self._tensor(cache.lengths),
            None if cache.valid.all() else self._mask(cache.valid[:, None, None]),
            cache,
        )
        return self._scores(hidden)

    @torch.inference_mode()
    def keep_rows(self, cache: Cache, rows: list[int]) -> None:
        """See `backend.Backend`."""
        cache.keep_rows(rows)

    @torch.inference_mode()
    def join(self, cache: Cache, *others: Cache) -> None:
        """See `backend.Backend`."""
        cache.join(*others)

    @without_dropout
    @torch.no_grad()
    def forward(self, batch: Batch, logits_from: int = 0) -> Forward:
        """See `backend.Backend`."""
        states: list[torch.Tensor] = []
        tokens = batch.input_ids.shape[1]
        hidden = self._hidden(batch, self._causal(tokens, tokens), every_layer=states)
        return Forward([to_numpy(state) for state in states], to_numpy(self.model.lm_head(hidden[:, logits_from:])))

    def gradients(self, batch: Batch, names: list[str]) -> tuple[float, dict[str, np.ndarray]]:
        """See `backend.Backend`."""
        self.model.requires_grad_(False)
        parameters = {name: self.model.get_parameter(parameter_name(name)).requires_grad_(True) for name in names}
        loss = self.token_loss(batch)
        # Zeros for what the batch does not use, such as the tower where no row has an image.
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        self.model.requires_grad_(False)
        return loss.item() / batch.answer_tokens, {n: to_numpy(g) / batch.answer_tokens for n, g in zip(parameters, grads)}

    @torch.inference_mode()
    def vision_features(self, pixel_values: np.ndarray) -> np.ndarray:
        """See `backend.Backend`."""
        return to_numpy(self.model.model.vision_embed_tokens(self._tensor(pixel_values)))

    def peak_memory(self) -> int:
        """See `backend.Backend`."""
        self._peak = peak_memory(self.device, self._peak)
        return self._peak

    def free_memory(self) -> None:
        """See `backend.Backend`."""
        free_memory(self.device)

    def world(self) -> tuple[int, int]:
        """See `backend.Backend`."""
        return self.ranks.rank, self.ranks.count

    def all_sum(self, values: np.ndarray) -> np.ndarray:
        """See `backend.Backend`."""
        return self.ranks.sum_arrays(values)

    def _scores(self, hidden: torch.Tensor) -> Scores:
        return scores(self.model.lm_head(hidden[:, -1]), on_device=self.scores_on_device)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return to_device(array, self.device)

    def _mask(self, mask: np.ndarray | None) -> torch.Tensor | None:
        """A bool mask as the attention implementation wants it: torch's eager attention adds it to the scores."""
        if mask is None or self.attn_implementation != "eager":
            return None if mask is None else self._tensor(mask)
        return additive(self._tensor(mask), getattr(torch, self.dtype))

    def _causal(self, queries: int, keys: int) -> torch.Tensor | None:
        """The causal mask of the last of so many keys, where the attention implementation does not make its own."""
        if self.attn_implementation != "eager":
            return None
        return self._mask(np.tri(queries, keys, keys - queries, dtype=bool)[None, None])

    def _hidden(
        self, batch: Batch, mask: torch.Tensor | None, cache: Any = None, every_layer: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        images = batch.pixel_values if batch.features is None else batch.features
        inputs = map(self._tensor, (batch.input_ids, batch.positions, batch.lengths, batch.image_index, images))
        hidden: torch.Tensor = self.model(*inputs, mask, cache, every_layer)
        return hidden

    def token_loss(self, batch: Batch, labels: int = 0) -> torch.Tensor:
        """Summed cross-entropy of a batch's answer tokens, differentiable. labels: see `Batch.learnt`."""
        label_index, targets = map(self._tensor, batch.learnt(labels))
        # Padding is on the right, behind all that a real token may see: the causal mask is enough.
        tokens = batch.input_ids.shape[1]
        return self.model.loss(self._hidden(batch, self._causal(tokens, tokens)), label_index, targets)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """fp32 numpy copy."""
    return tensor.detach().float().cpu().numpy()
