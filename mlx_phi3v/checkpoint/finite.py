"""Whether stored numbers are finite, read off their bits: exact, and without a copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from ..errors import UserError
from . import checked_files
from .headers import TensorInfo

# Width in bytes, and the bits of the positive infinity: larger patterns are NaN, smaller ones finite. The sign lies above.
_INFINITY = {"F64": (8, 0x7FF0 << 48), "F32": (4, 0x7F80 << 16), "F16": (2, 0x7C00), "BF16": (2, 0x7F80)}
# What rounds to infinity in float16: 65520 and more.
_BEYOND_FLOAT16 = {"F64": 0x40EFFE << 40, "F32": 0x477FF000, "BF16": 0x4780}
_CHUNK = 1 << 17  # elements: a chunk stays in the processor's cache for its second reading


def require_finite(bits: np.ndarray, dtype: str, name: str, file: Path, target: str | None = None) -> None:
    """Raise UserError, which names the tensor and its file, where a number is NaN or infinite, or becomes so in `target`.

    bits: the stored numbers, any shape, C-contiguous, whatever numpy dtype they are viewed as; dtype: as safetensors
    names it. Packed weights (U32) hold any bits. target: the dtype to compute in ("float16"); None: the stored one.
    """
    if dtype not in _INFINITY:
        return
    width, infinity = _INFINITY[dtype]
    beyond = _BEYOND_FLOAT16.get(dtype, infinity) if target == "float16" else infinity
    if not _reaches(bits, width, beyond):
        return
    if _reaches(bits, width, infinity):
        raise UserError(f"{file}: {name} holds NaN or infinite numbers; download or train it again")
    raise UserError(f"{file}: {name} holds numbers beyond 65504, the most of float16; use --dtype bfloat16 or float32")


def _reaches(bits: np.ndarray, width: int, limit: int) -> bool:
    """Whether the magnitude of any number has a bit pattern of `limit` or more."""
    flat = bits.reshape(-1)
    unsigned, signed = flat.view(f"u{width}"), flat.view(f"i{width}")
    negative = limit | 1 << 8 * width - 1
    # As signed integers the largest is the largest positive number; as unsigned ones, the most negative number.
    return any(
        signed[start : start + _CHUNK].max() >= limit or unsigned[start : start + _CHUNK].max() >= negative
        for start in range(0, unsigned.size, _CHUNK)
    )


class FiniteCheck:
    """`require_finite` in a second thread, while the first reads and casts on. Leaving the block waits for what is left.

    Files that were found finite before, and are unchanged, are not checked (`checked_files`). At most `_AHEAD` tensors wait
    beside the one that is checked: so long their memory is held.
    """

    _AHEAD = 1

    def __init__(self, tensors: Mapping[str, TensorInfo], target: str | None = None) -> None:
        """tensors: all that will be added, by name; target: see `require_finite`."""
        self._target = target
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._files = checked_files.begin(tensors, target)

    def add(self, name: str, info: TensorInfo, bits: Callable[[], np.ndarray]) -> None:
        """Check one tensor; `bits` gives what `require_finite` takes. Raises the UserError of a tensor added before."""
        check = self._files[info.file]
        if check.believed:
            return
        self._waiting.append(self._pool.submit(require_finite, bits(), info.dtype, name, info.file, self._target))
        check.left.discard(name)
        while len(self._waiting) > self._AHEAD:
            self._waiting.popleft().result()

    def __enter__(self) -> FiniteCheck:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=error is not None)
        if error is None:
            for done in self._waiting:
                done.result()
            checked_files.remember(self._files)
