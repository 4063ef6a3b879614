"""Means, paired differences, tests and what it takes to see a difference.

Errors and differences are in percentage points. scipy is imported where it is used: most commands
do without it.
"""

from kdecay_search.statistics.comparison import Comparison, Verdict, compare, holm
from kdecay_search.statistics.noise import Noise, pooled_noise
from kdecay_search.statistics.power import MOST_SEEDS, detectable_difference, seeds_needed
from kdecay_search.statistics.sample import Sample, describe, paired_gain

__all__ = [
    "MOST_SEEDS",
    "Comparison",
    "Noise",
    "Sample",
    "Verdict",
    "compare",
    "describe",
    "detectable_difference",
    "holm",
    "paired_gain",
    "pooled_noise",
    "seeds_needed",
]
