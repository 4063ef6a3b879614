"""What a paired t test can show: the smallest difference, or the number of seeds it takes.

Under a true difference δ the statistic of n pairs with standard deviation sd has Student's t
distribution with n - 1 degrees of freedom and non-centrality δ√n / sd. Tests are two-sided; that
they reject on the wrong side is left out of the power (below 1e-4 wherever the power is above a
half).
"""

from __future__ import annotations

import math

MOST_SEEDS = 10_000
"""Where :func:`seeds_needed` stops counting."""


def detectable_difference(sd: float, n: int, power: float = 0.8, level: float = 0.95) -> float:
    """Smallest true difference that ``n`` pairs show with probability ``power``.

    ``sd``: of the paired differences, in their units. ``level``: of the confidence interval that
    has to exclude zero. Raises ValueError below two pairs, where nothing can be shown.
    """
    if n < 2 or not sd >= 0:  # noqa: PLR2004
        raise ValueError(f"n = {n}, sd = {sd:g}: must be at least 2 pairs, and sd not negative")
    from scipy.special import nctdtrinc, stdtrit  # noqa: PLC0415 - 0.1 s, only where needed

    critical = stdtrit(n - 1, 0.5 + level / 2)
    return sd * float(nctdtrinc(n - 1, 1 - power, critical)) / math.sqrt(n)


def seeds_needed(sd: float, difference: float, power: float = 0.8, level: float = 0.95) -> int:
    """Smallest number of pairs, 2 at least, that show a true ``difference`` with ``power``.

    :data:`MOST_SEEDS` stands for so many or more. Raises ValueError unless ``difference`` > 0.
    """
    if not difference > 0:
        raise ValueError(f"difference = {difference:g}: must be above 0")
    low, high = 2, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        if detectable_difference(sd, middle, power, level) <= difference:
            high = middle
        else:
            low = middle + 1
    return low
