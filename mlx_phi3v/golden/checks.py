"""What a parity check is, and how errors are measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Of the largest magnitude: fp32 sums in another order differ by about 1e-6 a layer, and a random tower amplifies that.
# Hidden states: the recorded ones are 1.0e-4 from what the same model gives in fp64, at a projected photo feature (the
# random tower amplifies rounding a hundredfold). A backend that rounds in another order is as far off in a direction of
# its own: MLX is 0.93e-4 to 1.50e-4 from the recording, by OpenBLAS kernel (docs/results.md). So the sum of both, and as
# much again for kernels not tried. All other stages are held to what one of them needs.
TOLERANCES = {
    "token ids": 0.0,
    "image sizes": 0.0,
    "pixels": 1e-4,
    "vision features": 1e-4,
    "hidden states": 3e-4,
    "logits": 1e-4,
    "loss": 1e-4,
    "gradient norms": 1e-3,
    "greedy cached": 0.0,
    "greedy uncached": 0.0,
    "training loss": 2e-3,
    "training gradient norm": 1e-2,
    "trained adapter": 1e-3,
}


@dataclass(frozen=True)
class Check:
    """One comparison. `error` is exact-match (0 or 1), absolute or relative, as the stage says; `where` names case or layer."""

    backend: str
    stage: str
    where: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within tolerance; NaN is not."""
        return bool(self.error <= self.tolerance)

    @property
    def severity(self) -> float:
        """How far along its tolerance, infinite for a failed exact match."""
        if not self.tolerance:
            return float("inf") if self.error else 0.0
        return self.error / self.tolerance


def check(backend: str, stage: str, where: str, error: float, note: str = "", tolerance: float | None = None) -> Check:
    """A check with the stage's tolerance."""
    return Check(backend, stage, where, float(error), TOLERANCES[stage] if tolerance is None else tolerance, note)


def worst_by_stage(checks: Iterable[Check]) -> list[Check]:
    """The check nearest to (or furthest past) its tolerance, per backend and stage, in order."""
    worst: dict[tuple[str, str], Check] = {}
    for check in checks:
        key = (check.backend, check.stage)
        if key not in worst or check.severity > worst[key].severity:
            worst[key] = check
    return list(worst.values())


def first_divergence(checks: Iterable[Check]) -> Check | None:
    """The first check, in the order of the computation, that fails."""
    return next((check for check in checks if not check.passed), None)


def relative_error(ours: np.ndarray, theirs: np.ndarray, magnitude: float | None = None) -> float:
    """Largest difference over `magnitude` (by default the largest in `theirs`); infinite where shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    largest = float(np.abs(theirs).max()) if magnitude is None else magnitude
    return float(np.abs(ours.astype(np.float64) - theirs).max() / max(largest, 1e-30))


def mismatch(ours: object, theirs: object) -> tuple[float, str]:
    """(0 or 1, what differs)."""
    return (0.0, "") if ours == theirs else (1.0, f"{_shorten(ours)} instead of {_shorten(theirs)}")


def cosine_distance(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """1 - cosine of two adapters taken as one vector each; infinite where their keys differ."""
    if ours.keys() != theirs.keys():
        return float("inf")
    a = np.concatenate([ours[key].ravel() for key in sorted(ours)]).astype(np.float64)
    b = np.concatenate([theirs[key].ravel() for key in sorted(theirs)]).astype(np.float64)
    return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) < 120 else text[:117] + "..."
