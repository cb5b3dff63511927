"""Every kernel of ours, and the framework's own where it decides our results, against its plain form in numpy and fp64.

A backend's `kernels.Kernels` offers some of the methods below: numpy in, fp32 numpy out. Sizes are such that work is split
into chunks, blocks and streams as in a real run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from ..golden.checks import Check, relative_error
from ..golden.tolerances import UNIT_ROUNDOFF, exp_tolerance, product_tolerance
from ..next_tokens import group_width
from . import plain
from .packing import GROUP, pack, unpack

Array = np.ndarray
# Operations of an activation or an attention that round to a narrow dtype, one after the other, and as much again.
NARROW = 16


def check_kernels(name: str, kernels: Any, only: Collection[str] | None = None) -> list[Check]:
    """All kernels that a backend offers; each check's stage is the kernel's name. Random numbers are seeded.

    only: methods to check; by default all.
    """
    rng = np.random.default_rng(0)
    checks: list[Check] = []
    parts = {
        "swiglu": _activations, "layer_norm": _layer_norm, "rms_norm": _rms_norm, "rotate": _rotate, "residual": _residual,
        "lora": _lora, "attention": _attention, "packed_product": _packed, "unpack": _unpack, "quantize": _quantize,
        "product": _products, "likeliest": _likeliest, "draw": _draw, "convolution": _convolution, "same_bits": _same_bits,
    }  # fmt: skip
    for method, part in parts.items():
        if not hasattr(kernels, method) or (only is not None and method not in only):
            continue
        try:
            checks += [Check(name, kernel, where, error, tolerance) for kernel, where, error, tolerance in part(kernels, rng)]
        except Exception as error:  # a kernel that does not run at all is one that is wrong
            checks.append(did_not_run(name, method.replace("_", " "), error))
    return checks


def did_not_run(backend: str, what: str, error: Exception) -> Check:
    """A failed check, which says in a line what the exception does."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return Check(backend, what, "did not run", float("inf"), 0.0, said)


Found = Iterator[tuple[str, str, float, float]]  # kernel, of what, error, tolerance


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def _activations(kernels: Any, rng: np.random.Generator) -> Found:
    """SwiGLU and quick-GELU, and their gradients, in chunks."""
    for dtype in kernels.dtypes:
        for name, columns in (("swiglu", 1536), ("quick_gelu", 768)):
            x = _normal(rng, 700, columns) * 3
            d = _normal(rng, 700, 768)
            x, d = (plain.rounded(value, dtype) for value in (x, d))
            # A sigmoid's exponential, of which a gradient multiplies two; then a few products.
            tolerance = NARROW * UNIT_ROUNDOFF[dtype]
            if dtype == "float32":
                tolerance += 2 * exp_tolerance(1.702 * float(np.abs(x).max()))
            value, gradient = getattr(kernels, name)(x, d, dtype)
            wide, d = x.astype(np.float64), d.astype(np.float64)
            yield name, dtype, relative_error(value, getattr(plain, name)(wide)), tolerance
            exact = getattr(plain, f"{name}_gradient")(wide, d)
            yield f"{name}, gradient", dtype, relative_error(gradient, exact), tolerance


# A mean over 600, its root, and some ten products and sums; gradients are differences of such, or sums over 500 rows.
_NORM = product_tolerance(600) + 2 * NARROW * UNIT_ROUNDOFF["float32"]


def _layer_norm(kernels: Any, rng: np.random.Generator) -> Found:
    """500 rows that are not around 0, in chunks."""
    x, weight, bias, d = _normal(rng, 500, 600) * 3 + 1, _normal(rng, 600), _normal(rng, 600), _normal(rng, 500, 600)
    x64, w64, b64, d64 = (value.astype(np.float64) for value in (x, weight, bias, d))
    expected = [plain.layer_norm(x64, w64, b64, 1e-5), *plain.layer_norm_gradients(x64, w64, d64, 1e-5)]
    for of, ours, theirs in zip(("", "x", "weight", "bias"), kernels.layer_norm(x, weight, bias, d), expected):
        yield f"layer norm{', gradient' if of else ''}", of and f"by {of}", relative_error(ours, theirs), _NORM


def _rms_norm(kernels: Any, rng: np.random.Generator) -> Found:
    """As `_layer_norm`."""
    x, weight, d = _normal(rng, 500, 600) * 3, _normal(rng, 600), _normal(rng, 500, 600)
    x64, w64, d64 = (value.astype(np.float64) for value in (x, weight, d))
    expected = [plain.rms_norm(x64, w64, 1e-5), *plain.rms_norm_gradients(x64, w64, d64, 1e-5)]
    for of, ours, theirs in zip(("", "x", "weight"), kernels.rms_norm(x, weight, d), expected):
        yield f"RMS norm{', gradient' if of else ''}", of and f"by {of}", relative_error(ours, theirs), _NORM


def _residual(kernels: Any, rng: np.random.Generator) -> Found:
    """A sum in chunks; each of its gradients is that of the sum."""
    x, y, d = _normal(rng, 500, 600), _normal(rng, 500, 600), _normal(rng, 500, 600)
    for name, ours, theirs in zip(("", "x", "y"), kernels.residual(x, y, d), (x.astype(np.float64) + y, d, d)):
        where = f"by {name}" if name else ""
        yield f"residual sum{', gradient' if name else ''}", where, relative_error(ours, theirs), UNIT_ROUNDOFF["float32"]


def _lora(kernels: Any, rng: np.random.Generator) -> Found:
    """A layer with LoRA of rank 8, and its gradients, each with the magnitudes that are summed."""
    x, weight, a, b, d = (_normal(rng, *shape) for shape in ((70, 300), (200, 300), (300, 8), (8, 200), (70, 200)))

    def plainly(change: Callable[[Array], Array]) -> list[Array]:
        x64, weight64, a64, b64, d64 = (change(value.astype(np.float64)) for value in (x, weight, a, b, d))
        return plain.lora_and_gradients(x64, weight64, a64, b64, d64, 0.5)

    expected, magnitudes = plainly(np.asarray), plainly(np.abs)
    for of, ours, theirs, magnitude in zip(("", "x", "a", "b"), kernels.lora(x, weight, a, b, 0.5, d), expected, magnitudes):
        error = float((np.abs(ours - theirs) / magnitude).max())
        yield f"LoRA{', gradient' if of else ''}", of and f"by {of}", error, 2 * product_tolerance(300)


def _rotate(kernels: Any, rng: np.random.Generator) -> Found:
    """RoPE's rotation, and its gradient: the rotation back."""
    x, d, angles = _normal(rng, 2, 3, 200, 32), _normal(rng, 2, 3, 200, 32), _normal(rng, 2, 1, 200, 16) * 9
    cos, sin = (np.concatenate([wave(angles)] * 2, axis=-1) for wave in (np.cos, np.sin))
    there, back = (np.stack([cos, sign * sin]).astype(np.float64) for sign in (1, -1))
    expected = plain.rotate(x.astype(np.float64), there), plain.rotate(d.astype(np.float64), back)
    for name, ours, theirs in zip(("rotation", "rotation, gradient"), kernels.rotate(x, cos, sin, d), expected):
        yield name, "RoPE", relative_error(ours, theirs), 8 * UNIT_ROUNDOFF["float32"]


@cache
def _attention_case(dtype: str, causal: bool) -> tuple[list[Array], list[Array], float]:
    """(q, k, v and the result's gradient; the result and its gradients by q, k and v; the largest score), for all backends.

    400 tokens, which is two blocks of queries on a CPU; the largest score is about 1.5, without the scale it would be 8.
    """
    rng, scale = np.random.default_rng(1), 32**-0.5
    given = [plain.rounded(_normal(rng, 2, 3, 400, 32) * size, dtype) for size in (0.5, 0.5, 1, 1)]
    q, k, v, d = (x.astype(np.float64) for x in given)
    exact = [plain.attention(q, k, v, scale, causal=causal), *plain.attention_gradient(q, k, v, scale, d, causal=causal)]
    return given, exact, float(np.abs(scale * q @ k.swapaxes(-1, -2)).max())


def _attention(kernels: Any, rng: np.random.Generator) -> Found:
    """Causal and full; the gradient too."""
    for dtype, causal in product(kernels.dtypes, (True, False)):
        (*inputs, d), (exact, *expected), largest = _attention_case(dtype, causal)
        where = f"{'causal' if causal else 'full'}, {dtype}"
        value, gradients = kernels.attention(*inputs, 32**-0.5, causal, d, dtype)
        # A score is a sum of 32, its error is one of the exponent, in the numerator and in the sum.
        tolerance = NARROW * UNIT_ROUNDOFF[dtype] * max(1.0, largest)
        if dtype == "float32":
            tolerance += 2 * (product_tolerance(32) * largest + exp_tolerance(2 * largest)) + product_tolerance(300)
        yield "attention", where, relative_error(value, exact), tolerance
        for ours, theirs, of in zip(gradients, expected, "qkv"):
            # Two products more, one of which takes a difference of sums of 32 and of 300.
            yield "attention, gradient", f"by {of}, {where}", relative_error(ours, theirs), 3 * tolerance


def _packed(kernels: Any, rng: np.random.Generator) -> Found:
    """A few rows, which go through packed products, and many, for which the weight is unpacked; two chunks at 8 bits."""
    for bits, rows in ((8, 4224), (4, 1056)):
        weight = pack(_normal(rng, rows, 512), bits)
        exact = unpack(*weight, bits)
        for count in (1, 3, 40):
            x = _normal(rng, count, 512)
            magnitude = np.abs(x).astype(np.float64) @ np.abs(exact).T
            error = np.abs(kernels.packed_product(x, *weight, GROUP, bits) - x @ exact.T) / magnitude
            # q * scale + bias is rounded twice, beside the sum.
            tolerance = product_tolerance(512) + 4 * UNIT_ROUNDOFF["float32"]
            yield "packed product", f"{bits} bits, {count} rows", float(error.max()), tolerance
        d = _normal(rng, 40, rows)
        error = np.abs(kernels.packed_gradient(d, *weight, GROUP, bits) - d @ exact) / (np.abs(d) @ np.abs(exact))
        yield "packed product, gradient", f"{bits} bits", float(error.max()), product_tolerance(rows)


def _unpack(kernels: Any, rng: np.random.Generator) -> Found:
    for bits in (8, 4):
        weight = pack(_normal(rng, 96, 512), bits)
        error = relative_error(kernels.unpack(*weight, GROUP, bits), unpack(*weight, bits))
        yield "unpacking", f"{bits} bits", error, 4 * UNIT_ROUNDOFF["float32"]


def _quantize(kernels: Any, rng: np.random.Generator) -> Found:
    """What is packed by MLX is off by half a step at most, but for rounding; the two ends of a group may be off by one step."""
    for bits in (8, 4):
        weight = _normal(rng, 1100, 512)
        packed, scales, biases = kernels.quantize(weight, GROUP, bits)
        step = np.abs(scales).astype(np.float64).repeat(GROUP, axis=1)
        yield (
            "packing",
            f"{bits} bits, in steps",
            float((np.abs(unpack(packed, scales, biases, bits) - weight) / step).max()),
            1.01,
        )


def _products(kernels: Any, rng: np.random.Generator) -> Found:
    """The BLAS: plain, with transposed inputs, batched, of odd sizes; and whether it rounds fp32 inputs, as TF32 does."""
    cases: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "500 x 512 x 300": ((500, 512), (512, 300)), "1 x 777 x 333": ((1, 777), (777, 333)),
        "3 of 37 x 129 x 65": ((3, 37, 129), (3, 129, 65)),
    }  # fmt: skip
    for where, (one, other) in cases.items():
        a, b = _normal(rng, *one), _normal(rng, *other)
        exact, magnitude = a.astype(np.float64) @ b, np.abs(a).astype(np.float64) @ np.abs(b)
        for transposed in (False, True):
            error = float((np.abs(kernels.product(a, b, transposed) - exact) / magnitude).max())
            yield "matrix product", f"{where}{', transposed' * transposed}", error, product_tolerance(a.shape[-1])
    x = _normal(rng, 256, 256)
    error = relative_error(kernels.product(x, np.eye(256, dtype=np.float32), False), x)
    yield "matrix product", "inputs as they are, not rounded as TF32 rounds them", error, 2.0**-20


def _likeliest(kernels: Any, rng: np.random.Generator) -> Found:
    """The five likeliest tokens of 3 rows; whole numbers, so that there are ties, which the smaller id wins."""
    logits = np.rint(_normal(rng, 3, 32064) * 50)
    expected = np.argsort(-logits, axis=-1, kind="stable")[:, :5]
    wrong = float(not np.array_equal(kernels.likeliest(logits, 5), expected))
    yield "choice of tokens", "five likeliest of 32,064", wrong, 0.0


def _draw(kernels: Any, rng: np.random.Generator) -> Found:
    """Tokens by given numbers, none of which is near the border between two; from all tokens, and from a nucleus."""
    for top_p in (1.0, 0.9):
        logits, numbers = 3 * _normal(rng, 32, 32064), np.float32(rng.integers(1, 4096, (32, 2)) / 4096)
        columns = np.column_stack([np.full((32, 2), (0.8, top_p)), numbers]).astype(np.float32)
        found = [plain.draw(row.astype(np.float64), how, group_width(32064)) for row, how in zip(logits, columns.tolist())]
        clear = [i for i, (_, distance) in enumerate(found) if distance > 1e-5]
        expected = [found[i][0] for i in clear]
        wrong = float(not clear or not np.array_equal(kernels.draw(logits[clear], columns[clear]), expected))
        yield "drawing of tokens", f"{len(clear)} of 32,064, top_p {top_p}", wrong, 0.0


def _convolution(kernels: Any, rng: np.random.Generator) -> Found:
    """The patch embedding, where torch's default lets cuDNN round to TF32; its kernel depends on the size."""
    channels = kernels.convolution_channels
    pixels, weight = _normal(rng, 2, 3, 336, 336), _normal(rng, channels, 3, 14, 14)
    patches = pixels.reshape(2, 3, 24, 14, 24, 14).transpose(0, 2, 4, 1, 3, 5).reshape(2 * 576, -1)
    flat = weight.reshape(channels, -1).T
    exact, magnitude = patches.astype(np.float64) @ flat, np.abs(patches) @ np.abs(flat)
    found = kernels.convolution(pixels, weight).transpose(0, 2, 3, 1).reshape(exact.shape)
    error = float((np.abs(found - exact) / magnitude).max())
    # Rounding to TF32's 11 bits adds up as the terms do: 2^-11 * sqrt(588) / 588 of the magnitude, five of which are seen here.
    yield "convolution", f"{channels} channels", error, min(product_tolerance(588), 2.0**-11 / 588**0.5)


def _same_bits(kernels: Any, rng: np.random.Generator) -> Found:
    """A run is to resume bit for bit: attention's gradient, twice."""
    yield "attention, same bits twice", "", float(not kernels.same_bits()), 0.0
