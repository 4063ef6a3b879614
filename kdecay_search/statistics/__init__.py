"""Means, paired differences, tests, and how many seeds it takes to see a difference.

Errors and differences are in percentage points. scipy is imported where it is used, because most
commands do without it.
"""

from kdecay_search.statistics.comparison import Comparison, compare, holm
from kdecay_search.statistics.noise import Noise, pooled_noise
from kdecay_search.statistics.power import (
    SEEDS_NEEDED_LIMIT,
    detectable_difference,
    seeds_needed,
)
from kdecay_search.statistics.sample import Sample, describe, paired_gain

__all__ = [
    "SEEDS_NEEDED_LIMIT",
    "Comparison",
    "Noise",
    "Sample",
    "compare",
    "describe",
    "detectable_difference",
    "holm",
    "paired_gain",
    "pooled_noise",
    "seeds_needed",
]
