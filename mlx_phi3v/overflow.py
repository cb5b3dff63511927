"""What to say where a computation gives NaN or infinite numbers: in float16 it is mostly its range."""

from __future__ import annotations

FLOAT16_MOST = 65504


def not_finite(what: str, dtype: str) -> str:
    """The sentence for `what` ("the scores of the next token"), computed in `dtype`, that are NaN or infinite."""
    fix = float16_advice(dtype) or "; the weights or the adapter hold numbers that are too large, try another"
    return f"{what} are NaN or infinite{fix}"


def float16_advice(dtype: str) -> str:
    """The fix where the dtype is float16, to put behind a sentence; else nothing."""
    if dtype != "float16":
        return ""
    return f"; float16 holds numbers up to {FLOAT16_MOST} only, so try --dtype bfloat16 or float32"
