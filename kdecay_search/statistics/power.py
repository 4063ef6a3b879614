"""What a paired t test can show: the smallest difference, or the number of seeds it takes.

Under a true difference δ the statistic of n pairs with standard deviation sd has Student's t
distribution with n − 1 degrees of freedom and non-centrality δ√n / sd. Tests are two-sided. The
chance that they reject on the wrong side is left out of the power; it is below 1e-4 wherever the
power is above a half.
"""

from __future__ import annotations

import math

SEEDS_NEEDED_LIMIT = 10_000
"""Number of pairs at which :func:`seeds_needed` stops counting."""


def detectable_difference(sd: float, n: int, power: float = 0.8, confidence: float = 0.95) -> float:
    """Smallest true difference that a number of pairs shows.

    Args:
        sd: Standard deviation of the paired differences, in their unit.
        n: Number of pairs.
        power: Probability of showing a difference of the returned size.
        confidence: Confidence of the interval that has to exclude zero.

    Returns:
        The difference, in the unit of ``sd``.

    Raises:
        ValueError: There are fewer than two pairs, which show nothing, or ``sd`` is negative.
    """
    if n < 2 or not sd >= 0:  # noqa: PLR2004
        raise ValueError(f"n = {n}, sd = {sd:g}: must be at least 2 pairs, and sd not negative")
    from scipy.special import nctdtrinc, stdtrit  # noqa: PLC0415 - 0.1 s, only where needed

    critical = stdtrit(n - 1, 0.5 + confidence / 2)
    return sd * float(nctdtrinc(n - 1, 1 - power, critical)) / math.sqrt(n)


def seeds_needed(sd: float, difference: float, power: float = 0.8, confidence: float = 0.95) -> int:
    """Smallest number of pairs that shows a true difference.

    Args:
        sd: Standard deviation of the paired differences.
        difference: The true difference, in the unit of ``sd``.
        power: Probability of showing it.
        confidence: Confidence of the interval that has to exclude zero.

    Returns:
        At least 2; :data:`SEEDS_NEEDED_LIMIT` stands for that many or more.

    Raises:
        ValueError: ``difference`` is not above 0, or ``sd`` is negative.
    """
    if not difference > 0:
        raise ValueError(f"difference = {difference:g}: must be above 0")
    low, high = 2, SEEDS_NEEDED_LIMIT
    while low < high:
        middle = (low + high) // 2
        if detectable_difference(sd, middle, power, confidence) <= difference:
            high = middle
        else:
            low = middle + 1
    return low
