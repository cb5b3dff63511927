"""The verdict on two systems of which nothing is known but a score for each row: a small API for other harnesses.

Needs numpy and scipy alone. `eval.compare.statistics` has the intervals and tests, `eval.compare.verdict` the gates.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .metrics import get_metric
from .statistics import Floats, Ints, JudgedDifference, PairedMean, PairedProportion, clustered, clustered_mean
from .statistics.groups import number
from .verdict import Decision, Gate, decide, judge


def judge_scores(
    scores: Mapping[str, tuple[ArrayLike, ArrayLike]], *, margin: float | Mapping[str, float] = 0.02,
    one_sided: bool = False, absent: int = 0, clusters: Sequence[Hashable] | None = None,
) -> Decision:  # fmt: skip
    """Whether B is as good as A, from one score for each row.

    Args:
        scores: measure -> (A's scores [n], B's scores [n]), from 0 to 1, row i the same row in both. Each measure decides.
        margin: the largest difference of the means that still counts as equal, of all measures or of each; 0.02 is two points.
        one_sided: only a loss of B counts.
        absent: rows that are in neither array; they count against EQUIVALENT as badly as they could turn out.
        clusters: what rows that move together share, such as a document of several questions [n]; None: rows are independent.
    Returns the decision: `verdict`, `reasons` (a sentence for each measure), `gates` (figures) and `more_rows` (how many would
    decide an INCONCLUSIVE with 80 % power). What a simple predictor reaches is not known here.
    Raises ValueError for arrays of other shapes, scores outside 0 to 1, or a margin outside (0, 1).

    >>> import numpy as np
    >>> generator = np.random.default_rng(0)
    >>> a = generator.random(2000) < 0.8
    >>> b = np.where(generator.random(2000) < 0.05, generator.random(2000) < 0.8, a)
    >>> found = judge_scores({"accuracy": (a, b)})
    >>> found.verdict
    'EQUIVALENT'
    >>> print(found.reasons[0])
    accuracy score: -0.40 points, 90 % interval -0.90 to +0.07: inside the margin of 2 points
    >>> judge_scores({"accuracy": (a, a & (generator.random(2000) < 0.9))}).verdict
    'WORSE'
    >>> judge_scores({"accuracy": (a, b)}, clusters=np.arange(2000) // 100).verdict
    'INCONCLUSIVE'
    """
    if not scores:
        raise ValueError("no measure is given")
    numbers = None if clusters is None else number(list(clusters))[0]
    gates = [
        _gate(name, a, b, margin[name] if isinstance(margin, Mapping) else margin, len(scores), absent, one_sided, numbers)
        for name, (a, b) in scores.items()
    ]
    return decide(gates, one_sided=one_sided)


def _gate(
    name: str, a: ArrayLike, b: ArrayLike, margin: float, gates: int, absent: int, one_sided: bool, clusters: Ints | None
) -> Gate:  # fmt: skip
    if not 0 < margin < 1:
        raise ValueError(f"the margin of {name} is {margin:g}; it must be above 0 and below 1")
    score = get_metric("score", "score")
    return judge(name, score, margin, _difference(name, a, b, clusters), gates=gates, absent=absent, one_sided=one_sided)


def _difference(name: str, a: ArrayLike, b: ArrayLike, clusters: Ints | None) -> JudgedDifference:
    x, y = _scores(f"A's {name}", a), _scores(f"B's {name}", b)
    if x.shape != y.shape:
        raise ValueError(f"A has {len(x)} scores of {name} and B {len(y)}; row i must be the same row in both")
    if clusters is not None and len(clusters) != len(x):
        raise ValueError(f"there are {len(clusters)} clusters and {len(x)} scores of {name}; give one for each row")
    shares = bool(np.isin(x, (0, 1)).all() and np.isin(y, (0, 1)).all())
    if clusters is not None and len(np.unique(clusters)) < len(x):
        return clustered(x, y, clusters) if shares else clustered_mean(y - x, clusters)
    if shares:
        return PairedProportion(int((x > y).sum()), int((y > x).sum()), len(x))
    return PairedMean.of(y - x)


def _scores(what: str, values: ArrayLike) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"{what} has the shape {found.shape}; give one score for each row")
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"{what} has scores that are not from 0 to 1; divide them by the most that there is")
    return found
