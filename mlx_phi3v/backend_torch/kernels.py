"""The kernels that torch's results here depend on, each alone: numpy in, fp32 numpy out. See `doctor.kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..config import Quantization
from ..next_tokens import HostScores
from ..next_tokens import likeliest as host_likeliest
from ..sampling import Draws
from . import next_tokens, quantized
from .accelerator import choose_device
from .backend import to_numpy
from .cuda import set_up_cuda


class Kernels:
    """On the device of a model; CUDA set up as for one in fp32."""

    dtypes = ("float32", "bfloat16")

    def __init__(self) -> None:
        self.device = choose_device()
        cuda = self.device.type == "cuda"
        self.convolution_channels = 1024 if cuda else 64  # the published tower's: which kernel cuDNN takes depends on it
        self.repeated_tokens = 800 if cuda else 200  # a CPU adds up in a fixed order, whatever the length
        if cuda:
            set_up_cuda("float32")

    def _tensor(self, x: np.ndarray, dtype: str = "float32") -> torch.Tensor:
        return torch.from_numpy(np.array(x, np.float32)).to(self.device, getattr(torch, dtype))

    def attention(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, causal: bool, d: np.ndarray, dtype: str
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """The attended values, and the gradients by q, k and v where d is that of the values."""
        inputs = [self._tensor(x, dtype).requires_grad_() for x in (q, k, v)]
        values = _attend(inputs, causal, scale)
        values.backward(self._tensor(d, dtype))
        return to_numpy(values), [to_numpy(x.grad) for x in inputs if x.grad is not None]

    def unpack(self, packed: np.ndarray, scales: np.ndarray, biases: np.ndarray, group: int, bits: int) -> np.ndarray:
        """A packed weight, unpacked; on a CPU, as a checkpoint is read."""
        words, factors, offsets = (torch.from_numpy(x) for x in (packed, scales, biases))
        return to_numpy(quantized.dequantize(words, factors, offsets, Quantization(group, bits)))

    def product(self, a: np.ndarray, b: np.ndarray, transposed: bool) -> np.ndarray:
        """a @ b, of inputs that lie transposed in memory where `transposed`."""
        if transposed:
            left, right = (self._tensor(np.ascontiguousarray(x.swapaxes(-1, -2))).transpose(-1, -2) for x in (a, b))
            return to_numpy(left @ right)
        return to_numpy(self._tensor(a) @ self._tensor(b))

    def likeliest(self, logits: np.ndarray, k: int) -> np.ndarray:
        """Ids of the k largest of each row."""
        scores = self._scores(logits)
        if isinstance(scores, HostScores):
            return host_likeliest(scores.logits, k)[0]
        return next_tokens.likeliest(scores.logits, k).cpu().numpy()

    def draw(self, logits: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Ids of drawn tokens; columns: see `sampling.Draws`."""
        drawn = self._scores(logits).draw(Draws(columns))
        return drawn if isinstance(drawn, np.ndarray) else drawn.cpu().numpy()

    def _scores(self, logits: np.ndarray) -> Any:
        """As they are chosen from on CUDA, which a CPU tries too; mps has no fp64, and leaves the choice to numpy."""
        return next_tokens.scores(self._tensor(logits), on_device=self.device.type != "mps")

    def convolution(self, pixels: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The patch embedding's."""
        return to_numpy(functional.conv2d(self._tensor(pixels), self._tensor(weight), stride=weight.shape[-1]))

    def same_bits(self) -> bool:
        """Whether attention's gradient is the same twice, in the dtypes that an accelerator computes in."""
        torch.manual_seed(0)
        for dtype in self.dtypes:
            q, k, v, d = torch.randn(
                4, 2, 8, self.repeated_tokens, 64, device=self.device, dtype=getattr(torch, dtype)
            ).unbind()
            found = []
            for _ in range(2):
                inputs = [x.clone().requires_grad_() for x in (q, k, v)]
                _attend(inputs, True).backward(d)
                found.append(torch.stack([x.grad for x in inputs if x.grad is not None]))
            if not torch.equal(*found):
                return False
        return True


def _attend(inputs: list[torch.Tensor], causal: bool, scale: float | None = None) -> torch.Tensor:
    q, k, v = inputs
    return functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)


def kernels() -> Kernels:
    """Those of the device in use."""
    return Kernels()
