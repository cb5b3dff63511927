"""Intervals and tests for two systems measured on the same rows. All intervals are on B minus A.

proportions  Wilson, exact McNemar, Tango's score interval
estimators   mean, median, macro-F1, as statistics that can be resampled
resampling   the percentile bootstrap over rows or clusters
spread       the variance of a difference by its sources: products and trainings
effective    the difference where rows come in clusters or from several trainings: as of fewer rows
groups       rows that belong together, as numbers
clustered    two systems on rows that come in clusters
seeded       several trainings a side
bounded_mean score statistic of a mean difference in [-1, 1]
paired       the difference of two systems, from discordant counts, bounded differences or paired resamples

Needs numpy and scipy alone.
"""

from .bounded_mean import PairedMean
from .clustered import clustered, clustered_mean, sign_flip
from .effective import EffectiveEstimate, EffectiveMean, EffectiveProportion
from .estimators import Bools, Floats, MacroF1, Mean, Median, Statistic, finite
from .paired import JudgedDifference, PairedDifference, PairedProportion, PairedResamples, Scalable
from .proportions import Interval, bisect, mcnemar, normal_cdf, normal_quantile, tango, tango_beyond, tango_score, wilson
from .resampling import bootstrap, percentile_interval, resample_weights
from .seeded import seeded, seeded_difference, seeded_estimate, seeded_mean
from .spread import Ints, Spread, cluster_totals, cluster_variance

__all__ = [
    "Bools",
    "EffectiveEstimate",
    "EffectiveMean",
    "EffectiveProportion",
    "Floats",
    "Interval",
    "Ints",
    "JudgedDifference",
    "MacroF1",
    "Mean",
    "Median",
    "PairedDifference",
    "PairedMean",
    "PairedProportion",
    "PairedResamples",
    "Scalable",
    "Spread",
    "Statistic",
    "bisect",
    "bootstrap",
    "cluster_totals",
    "cluster_variance",
    "clustered",
    "clustered_mean",
    "finite",
    "mcnemar",
    "normal_cdf",
    "normal_quantile",
    "percentile_interval",
    "resample_weights",
    "seeded",
    "seeded_difference",
    "seeded_estimate",
    "seeded_mean",
    "sign_flip",
    "tango",
    "tango_beyond",
    "tango_score",
    "wilson",
]
