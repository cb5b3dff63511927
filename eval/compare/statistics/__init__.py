"""Intervals and tests for two systems measured on the same rows. All intervals are on B minus A.

proportions  Wilson, exact McNemar, Tango's score interval
estimators   mean, median, macro-F1, as statistics that can be resampled
resampling   the percentile bootstrap over rows
paired       the difference of two systems, from discordant counts or from paired resamples

Needs numpy and scipy alone.
"""

from .estimators import Bools, Floats, MacroF1, Mean, Median, Statistic, finite
from .paired import PairedDifference, PairedProportion, PairedResamples
from .proportions import Interval, mcnemar, normal_quantile, tango, wilson
from .resampling import bootstrap, percentile_interval, resample_weights

__all__ = [
    "Bools",
    "Floats",
    "Interval",
    "MacroF1",
    "Mean",
    "Median",
    "PairedDifference",
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
    "wilson",
]
