"""Intervals and tests for two systems measured on the same rows. All intervals are on B minus A.

proportions  Wilson, exact McNemar, Tango's score interval
estimators   mean, median, macro-F1, as statistics that can be resampled
resampling   the percentile bootstrap over rows
bounded_mean score statistic of a mean difference in [-1, 1]
paired       the difference of two systems, from discordant counts, bounded differences or paired resamples

Needs numpy and scipy alone.
"""

from .bounded_mean import PairedMean
from .estimators import Bools, Floats, MacroF1, Mean, Median, Statistic, finite
from .paired import JudgedDifference, PairedDifference, PairedProportion, PairedResamples
from .proportions import Interval, mcnemar, normal_quantile, tango, tango_score, wilson
from .resampling import bootstrap, percentile_interval, resample_weights

__all__ = [
    "Bools",
    "Floats",
    "Interval",
    "JudgedDifference",
    "MacroF1",
    "Mean",
    "Median",
    "PairedDifference",
    "PairedMean",
    "PairedProportion",
    "PairedResamples",
    "Statistic",
    "bootstrap",
    "finite",
    "mcnemar",
    "normal_quantile",
    "percentile_interval",
    "resample_weights",
    "tango",
    "tango_score",
    "wilson",
]
