"""The protocol of a backend, and the only place that chooses one.

Arguments and results are numpy or plain Python, so that training, decoding and parity are written once, for both.
"""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import numpy as np

from .adapters import AdapterArgs
from .backend_names import BACKENDS as BACKENDS  # one place for all that a backend is chosen by
from .backend_names import DTYPES as DTYPES
from .backend_names import Dtype as Dtype
from .backend_names import default_backend as default_backend
from .batches import Batch
from .config import ModelArgs
from .errors import UserError
from .linux_malloc import keep_freed_memory
from .next_tokens import Scores

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class OptimizerArgs:
    """AdamW with bias correction and decoupled weight decay. reduce_dtype: in which ranks add their gradients."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-7
    weight_decay: float = 0.01
    reduce_dtype: Dtype = "float32"


@dataclass(frozen=True)
class Forward:
    """Outputs of one whole pass, fp32: hidden states per layer [B, T, H] and logits [B, T', V]."""

    hidden_states: list[np.ndarray]
    logits: np.ndarray


class PassLoss:
    """A pass's summed token loss (nats), which may still be computed: `float` waits for it, after an update no more."""

    def __init__(self, array: Any) -> None:
        """array: the framework's 0-d array."""
        self.array = array
        self._value: float | None = None

    def __float__(self) -> float:
        if self._value is None:
            self._value = float(self.array)
        return self._value

    def settle(self, value: float) -> None:
        """Take the value that was read together with others."""
        self._value = value


class Backend(Protocol):
    """A loaded model: it takes an adapter, trains it, and answers."""

    name: str
    config: ModelArgs
    folder: Path
    dtype: str
    kv_bits: int  # of a cached key or value, 0 where they are stored as they are computed
    scores_on_device: bool  # whether scores stay on an accelerator, and a step can be begun before the last is read

    def device_info(self) -> dict[str, Any]:
        """Name, chip, dtype, BLAS, TF32, threads: what a run's manifest records of the machine."""

    def set_adapter(self, adapter: AdapterArgs, tensors: dict[str, np.ndarray], *, trainable: bool) -> None:
        """Put a LoRA adapter (PEFT keys, fp32) on the base model. Call once."""

    def adapter_tensors(self) -> dict[str, np.ndarray]:
        """The adapter's current tensors (PEFT keys, fp32)."""

    def start_training(
        self, optimizer: OptimizerArgs, *, grad_checkpoint: bool, compiled: bool = False, memory: int | None = None
    ) -> None:
        """Make the optimiser for the adapter's tensors and set the gradients to zero.

        compiled: batches are padded to buckets (`buckets`), and what a pass computes is compiled for each.
        memory: bytes that the run is to stay within, by which MLX's limits on Metal are set.
        """

    def optimizer_tensors(self) -> dict[str, np.ndarray]:
        """AdamW's moments by PEFT key: `KEY.exp_avg`, `KEY.exp_avg_sq` (fp32)."""

    def load_training(self, adapter: dict[str, np.ndarray], optimizer: dict[str, np.ndarray], step: int) -> None:
        """Restore adapter (PEFT keys, fp32) and moments (see `optimizer_tensors`) as they were after `step` updates."""

    def seed(self, value: int) -> None:
        """Seed dropout."""

    def accumulate(self, batch: Batch) -> PassLoss:
        """Add the gradient of the batch's summed token loss (nats); that sum. On an accelerator nothing is waited for."""

    def update(self, lr: float, tokens: int, max_grad_norm: float) -> float:
        """One AdamW step on the accumulated gradient / `tokens`, clipped by its global norm; returns the norm before that.

        Waits once, for the losses of the passes and the norm. Where one of them is not finite nothing is updated. The new
        parameters may still be computed when it returns.
        """

    def loss(self, batch: Batch) -> float:
        """Summed token loss without gradients (and without dropout)."""

    def prefill(self, batch: Batch, read: Any = None) -> tuple[Scores, Any]:
        """Read prompts: the scores of the next tokens, and the cache. Long ones are read in chunks.

        read: the cache of the beginning of a batch's only prompt, which is then used up; the batch has the rest.
        """

    def decode(self, cache: Any, tokens: Any) -> Scores:
        """Append one token per row, int64 [B] or what `Scores.greedy` or `draw` gave: the scores of the next.

        On an accelerator they are begun to be computed, and not waited for.
        """

    def keep_rows(self, cache: Any, rows: list[int]) -> None:
        """Let only these rows stay in the cache, in this order; see `kv_cache.fewest_moves`."""

    def join(self, cache: Any, *others: Any) -> None:
        """Put the rows of other caches, which are used up, behind those of this one."""

    def forward(self, batch: Batch, logits_from: int = 0) -> Forward:
        """Every layer's hidden states, and logits of positions `logits_from` on."""

    def gradients(self, batch: Batch, names: list[str]) -> tuple[float, dict[str, np.ndarray]]:
        """Mean token loss (nats) and its gradient by the base model's tensors `names` (checkpoint keys), fp32."""

    def vision_features(self, pixel_values: np.ndarray) -> np.ndarray:
        """Projected feature table of crops [N, 3, 336, 336]: fp32 [N * g^2 + 2, H]; the separators' are the last two."""

    def peak_memory(self) -> int:
        """Most bytes used so far by arrays (device memory) or, on a CPU, by the process."""

    @property
    def compilations(self) -> int:
        """How many shapes of passes were compiled so far."""

    def free_memory(self) -> None:
        """Give freed buffers back to the device: what evaluation leaves is of no use to training, nor the other way round."""

    def world(self) -> tuple[int, int]:
        """(rank, number of ranks) of a distributed run; (0, 1) otherwise."""

    def all_sum(self, values: np.ndarray) -> np.ndarray:
        """Sum of `values` over all ranks, of the same shape."""


def without_dropout(method: Callable[P, R]) -> Callable[P, R]:
    """A backend's method with its model in evaluation mode; afterwards the model is in its former mode."""

    @functools.wraps(method)
    def evaluating(*args: P.args, **kwargs: P.kwargs) -> R:
        model = cast(Any, args[0]).whole_model
        if not model.training:
            return method(*args, **kwargs)
        model.eval()
        try:
            return method(*args, **kwargs)
        finally:
            model.train()

    return evaluating


_TEMPORARY = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")  # std::filesystem::temp_directory_path takes the first


def set_up(name: str) -> None:
    """Prepare this process for a backend, before its framework is imported. Idempotent.

    MLX computes fp32 in fp32, not in TF32 as it does by default on M5 and CUDA, unless MLX_ENABLE_TF32 is set. On Linux freed
    memory stays with the process, and MLX gets a fast BLAS. Raises UserError where the folder that MLX compiles in is missing.
    """
    if name == "mlx":
        os.environ.setdefault("MLX_ENABLE_TF32", "0")
        named = next((variable for variable in _TEMPORARY if variable in os.environ), None)
        if named and not os.path.isdir(os.environ[named]):
            raise UserError(f"{named} is {os.environ[named]!r}, which is no folder; make it, or unset {named}")
    if sys.platform != "linux":
        return
    keep_freed_memory()
    if name == "mlx":
        from .backend_mlx.cpu import blas

        blas.load()


def load_backend(name: str, folder: Path, *, dtype: str | None = None, **options: Any) -> Backend:
    """Load the model in `folder` on backend `name`. dtype None: fp32 on a CPU, bf16 on an accelerator.

    Raises UserError where the backend is not installed or the checkpoint does not fit.
    """
    package = {"mlx": "mlx", "torch": "torch"}.get(name)
    if package is None:
        raise UserError(f"--backend {name!r} is unknown; choose mlx or torch")
    if importlib.util.find_spec(package) is None:
        extra = "" if name == "mlx" else "[torch]"
        raise UserError(
            f"--backend {name} is not installed on this {platform.system()} machine: pip install 'mlx-phi3v{extra}'"
        )
    set_up(name)
    backend: Backend = _imported(f"mlx_phi3v.backend_{name}.loading").load(folder, dtype=dtype, **options)
    return backend


def _imported(name: str) -> Any:
    """A module with its framework.

    What such an import makes lives as long as the process. It is not searched for garbage, neither meanwhile nor in any later
    collection: of torch's start and end that is a third.
    """
    if name in sys.modules:
        return importlib.import_module(name)
    collects = gc.isenabled()
    gc.disable()
    try:
        module = importlib.import_module(name)
        gc.freeze()
    finally:
        if collects:
            gc.enable()
    return module
