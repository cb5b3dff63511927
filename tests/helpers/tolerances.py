"""How far two right computations of the same numbers may lie apart: `mlx_phi3v.golden.tolerances`, and of whole networks."""

from __future__ import annotations

import numpy as np

from mlx_phi3v.golden.tolerances import LAMBDA, UNIT_ROUNDOFF, exp_tolerance, product_tolerance

__all__ = ["LAMBDA", "NETWORK", "UNIT_ROUNDOFF", "assert_near", "exp_tolerance", "product_tolerance"]

# Whole networks in fp32, of the largest magnitude: a layer adds a few sums in another order (1e-6 with widths below 100),
# and norms and softmax pass on what came before them. The tests' networks have up to 5 + 4 layers.
NETWORK = 1e-4


def assert_near(ours: np.ndarray, theirs: np.ndarray, magnitude: np.ndarray | float, tolerance: float) -> None:
    """Every number of `ours` is within tolerance * magnitude of that of `theirs`; NaN never is. Raises AssertionError."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    share = np.abs(ours.astype(np.float64) - theirs) / (np.asarray(magnitude, np.float64) + 1e-30)
    worst = float(share.max(initial=0.0))
    assert worst <= tolerance, f"{worst:.2e} of the magnitude, more than {tolerance:.2e}"
