"""Means and paired gains with their intervals. Errors and differences in percentage points."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A mean, its standard deviation (None below two values) and the number of values."""

    mean: float | None
    sd: float | None
    n: int

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Student's t confidence interval of the mean; None below two values."""
        if self.mean is None or self.sd is None:
            return None
        from scipy.special import stdtrit  # noqa: PLC0415 - 0.1 s that most commands can spare

        half = float(stdtrit(self.n - 1, 0.5 + level / 2)) * self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half


def describe(values: Iterable[float]) -> Sample:
    """Mean, standard deviation (n - 1) and number of ``values``."""
    numbers = list(values)
    if not numbers:
        return Sample(None, None, 0)
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Sample(statistics.fmean(numbers), sd, len(numbers))


def paired_gain(old: Mapping[int, float], new: Mapping[int, float]) -> Sample:
    """By how much ``new`` lowers the error of ``old`` (both by seed), over the seeds they share."""
    return describe(old[seed] - new[seed] for seed in sorted(old.keys() & new.keys()))
