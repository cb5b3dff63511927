"""Where checkpoints were read before: the package `checkpoint` does it now. Kept for users' code."""

from __future__ import annotations

from .checkpoint.fingerprint import SOURCE_FILE, base_fingerprint
from .checkpoint.headers import TensorInfo, check_tensors, open_checkpoint, read_header, read_tensors
from .checkpoint.hub import BUILTIN, resolve_model
from .checkpoint.layout import expected_tensors, is_quantized, is_unused, stored_tensors

__all__ = [
    "BUILTIN",
    "SOURCE_FILE",
    "TensorInfo",
    "base_fingerprint",
    "check_tensors",
    "expected_tensors",
    "is_quantized",
    "is_unused",
    "open_checkpoint",
    "read_header",
    "read_tensors",
    "resolve_model",
    "stored_tensors",
]
