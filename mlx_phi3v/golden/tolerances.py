"""How far two right computations of the same numbers may lie apart: bounds from the arithmetic, not from one machine.

u is the unit roundoff: half the distance from 1 to the next number of the dtype.
"""

from __future__ import annotations

import math

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

# A sum of n products is off by at most n u of the sum of their magnitudes, in any order (Higham, Accuracy and Stability of
# Numerical Algorithms, 2nd ed., 2002, section 3.1), and by at most lambda sqrt(n) u but for a probability of
# 2 n exp(-lambda^2 / 2) (Higham and Mary, SIAM J. Sci. Comput. 41, 2019, theorem 2.4). With 10 that is 1e-18 for 4,096
# terms, so no choice of numbers, kernel or thread count is ever seen to pass it.
LAMBDA = 10.0


def product_tolerance(terms: int, dtype: str = "float32") -> float:
    """How far two products of `terms` terms in `dtype` may lie apart, as a share of |A| @ |B|."""
    return 2 * LAMBDA * math.sqrt(terms) * UNIT_ROUNDOFF[dtype]


def exp_tolerance(largest: float) -> float:
    """How far two exponentials of numbers up to `largest` may lie apart, relative, in fp32.

    numpy's and MLX's own are off by 2 to 4 units; one whose argument x log2(e) is rounded once, by 2e-7 + 1e-7 |x|.
    """
    return 2e-7 + 1e-7 * largest + 4 * UNIT_ROUNDOFF["float32"]
