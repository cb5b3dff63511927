"""How far two right computations of the same numbers may lie apart: bounds from the arithmetic, not from one machine.

u is the unit roundoff: half the distance from 1 to the next number of the dtype.
"""

from __future__ import annotations

import math

import numpy as np

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

# A sum of n products is off by at most n u of the sum of their magnitudes, in any order (Higham, Accuracy and Stability of
# Numerical Algorithms, 2nd ed., 2002, section 3.1), and by at most lambda sqrt(n) u but for a probability of
# 2 n exp(-lambda^2 / 2) (Higham and Mary, SIAM J. Sci. Comput. 41, 2019, theorem 2.4). With 10 that is 1e-18 for 4,096
# terms, so no choice of numbers, kernel or thread count is ever seen to pass it.
LAMBDA = 10.0

# Whole networks in fp32, of the largest magnitude: a layer adds a few sums in another order (1e-6 with widths below 100),
# and norms and softmax pass on what came before them. The tests' networks have up to 5 + 4 layers.
NETWORK = 1e-4


def product_tolerance(terms: int, dtype: str = "float32") -> float:
    """How far two products of `terms` terms in `dtype` may lie apart, as a share of |A| @ |B|."""
    return 2 * LAMBDA * math.sqrt(terms) * UNIT_ROUNDOFF[dtype]


def exp_tolerance(largest: float) -> float:
    """How far two exponentials of numbers up to `largest` may lie apart, relative, in fp32.

    `cpu_math.exp` states 2e-7 + 1e-7 |x|: its argument x log2(e) is rounded once. MLX's own is off by 2 units.
    """
    return 2e-7 + 1e-7 * largest + 4 * UNIT_ROUNDOFF["float32"]


def assert_near(ours: np.ndarray, theirs: np.ndarray, magnitude: np.ndarray | float, tolerance: float) -> None:
    """Every number of `ours` is within tolerance * magnitude of that of `theirs`; NaN never is. Raises AssertionError."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    share = np.abs(ours.astype(np.float64) - theirs) / (np.asarray(magnitude, np.float64) + 1e-30)
    worst = float(share.max(initial=0.0))
    assert worst <= tolerance, f"{worst:.2e} of the magnitude, more than {tolerance:.2e}"
