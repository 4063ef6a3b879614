"""Means and paired gains with their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

ROUNDING = 1e-12
"""Share of the largest of some values within which two are the same, and only rounded
differently."""


@dataclass(frozen=True)
class Sample:
    """Mean and spread of some values."""

    mean: float | None
    """Mean of the values; None if there are none."""
    sd: float | None
    """Standard deviation, with n − 1 in its denominator; None below two values."""
    n: int
    """Number of values."""

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Student's t confidence interval of the mean.

        Args:
            confidence: Probability in (0, 1) that such an interval covers the true mean.

        Returns:
            The interval's ends, in the values' unit; None below two values.
        """
        if self.mean is None or self.sd is None:
            return None
        from scipy.special import stdtrit  # noqa: PLC0415 - 0.1 s that most commands can spare

        half = float(stdtrit(self.n - 1, 0.5 + confidence / 2)) * self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half


def describe(values: Iterable[float]) -> Sample:
    """Mean, standard deviation and number of ``values``."""
    numbers = list(values)
    if not numbers:
        return Sample(None, None, 0)
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Sample(statistics.fmean(numbers), sd, len(numbers))


def rounding(old: Mapping[int, float], new: Mapping[int, float]) -> float:
    """The difference within which paired errors are the same, and only rounded differently."""
    seeds = old.keys() & new.keys()
    largest = max((abs(errors[seed]) for errors in (old, new) for seed in seeds), default=0.0)
    return ROUNDING * largest


def paired_gain(old: Mapping[int, float], new: Mapping[int, float]) -> Sample:
    """By how much one schedule lowers the error of another, paired by seed.

    Args:
        old: Errors of the schedule that is compared with, by seed; lower is better.
        new: Errors of the other schedule, by seed.

    Returns:
        The differences old − new over the seeds that both have; positive where new is better. A
        mean that is nothing but rounding is zero.
    """
    seeds = sorted(old.keys() & new.keys())
    gain = describe(old[seed] - new[seed] for seed in seeds)
    is_zero = gain.mean is not None and abs(gain.mean) <= rounding(old, new) < math.inf
    return replace(gain, mean=0.0) if is_zero else gain
