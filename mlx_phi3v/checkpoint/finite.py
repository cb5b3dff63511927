"""Whether stored numbers are finite, read off their bits: exact, and without a copy."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from ..errors import UserError

# Width in bytes, and the bits of the positive infinity: larger patterns are NaN, smaller ones finite. The sign lies above.
_INFINITY = {"F64": (8, 0x7FF0 << 48), "F32": (4, 0x7F80 << 16), "F16": (2, 0x7C00), "BF16": (2, 0x7F80)}
_CHUNK = 1 << 17  # elements: a chunk stays in the processor's cache for its second reading


def require_finite(bits: np.ndarray, dtype: str, name: str, file: Path) -> None:
    """Raise UserError, which names the tensor and its file, where a number is NaN or infinite.

    bits: the stored numbers, any shape, C-contiguous, whatever numpy dtype they are viewed as; dtype: as safetensors
    names it. Packed weights (U32) hold any bits.
    """
    if dtype not in _INFINITY:
        return
    width, infinity = _INFINITY[dtype]
    flat = bits.reshape(-1)
    unsigned, signed = flat.view(f"u{width}"), flat.view(f"i{width}")
    negative = infinity | 1 << 8 * width - 1
    for start in range(0, unsigned.size, _CHUNK):
        # As signed integers the largest is the largest positive number; as unsigned ones, the most negative number.
        if signed[start : start + _CHUNK].max() >= infinity or unsigned[start : start + _CHUNK].max() >= negative:
            raise UserError(f"{file}: {name} holds NaN or infinite numbers; download or train it again")


class FiniteCheck:
    """`require_finite` in a second thread, while the first reads and casts on. Leaving the block waits for what is left.

    At most `_AHEAD` tensors wait beside the one that is checked: so long their memory is held.
    """

    _AHEAD = 1

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def add(self, bits: np.ndarray, dtype: str, name: str, file: Path) -> None:
        """Check one tensor, see `require_finite`. Raises the UserError of a tensor added before."""
        self._waiting.append(self._pool.submit(require_finite, bits, dtype, name, file))
        while len(self._waiting) > self._AHEAD:
            self._waiting.popleft().result()

    def __enter__(self) -> FiniteCheck:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=error is not None)
        if error is None:
            for done in self._waiting:
                done.result()
