"""The chance that a difference is shown to be within its margin, counted out over the discordant counts of independent rows."""

from __future__ import annotations

import math

import numpy as np
import scipy

from .statistics import PairedProportion, bisect, tango_score

_GRID = 40  # numbers of discordant rows at which the border is solved; between them it is interpolated
_REACH = 7  # standard deviations of the number of discordant rows


def counted_power(difference: PairedProportion, margin: float, z: float, *, better: int = 0) -> float:
    """The chance that the score interval at normal quantile z is inside the margin, the rates being those of `difference`.

    The discordant rows are binomial, and so are those of them that B has right. better: as in `power.power_same`.
    """
    n, discordant = round(difference.n), min(difference.only_a + difference.only_b, difference.n)
    rate = discordant / difference.n
    middle, reach = n * rate, _REACH * math.sqrt(n * rate * (1 - rate)) + 2
    counts = np.arange(max(0, math.floor(middle - reach)), min(n, math.ceil(middle + reach)) + 1)
    grid = np.unique(np.linspace(counts[0], counts[-1], _GRID).round())
    borders = np.interp(counts, grid, [border(float(k), n, n, margin, z) for k in grid])
    share_b = difference.only_b / discordant if discordant else 0.5
    # B minus A is to be at most the border, and at least minus the border: b of k discordant rows are B's, A has the others.
    at_most = scipy.stats.binom.cdf(np.floor((counts + borders) / 2 + 1e-9), counts, share_b) if better <= 0 else 1.0
    too_low = scipy.stats.binom.cdf(np.ceil((counts - borders) / 2 - 1e-9) - 1, counts, share_b) if better >= 0 else 0.0
    return float(scipy.stats.binom.pmf(counts, n, rate) @ np.clip(at_most - too_low, 0.0, None))


def border(discordant: float, n: float, effective: float, margin: float, z: float) -> float:
    """The largest only B minus only A of `n` rows that is shown to be below the margin at normal quantile z.

    By symmetry its negative is the smallest that is shown to be above -margin. Below zero where few rows are there, and less
    than -discordant where nothing is shown. effective: how many independent rows tell as much as these.
    """
    scale = effective / n

    def outside(gap: float) -> bool:
        only_a = max(discordant - gap, 0.0) / 2  # a gap takes as many discordant rows
        return tango_score(only_a * scale, (only_a + gap) * scale, effective, margin) >= -z

    low, high = -discordant, n * margin
    if outside(low):
        return low - 1.0
    if not outside(high):
        return high
    return bisect(lambda gap: not outside(gap), low, high)
