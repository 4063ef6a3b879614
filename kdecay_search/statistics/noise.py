"""How noisy runs are: the part of their errors that neither the schedule nor the seed explains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdecay_search.statistics.sample import ROUNDING

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Noise:
    """Noise of the difference between two schedules' errors on the same seed."""

    sd: float
    """Standard deviation of the difference, in the metric's unit."""
    degrees_of_freedom: int
    """Degrees of freedom behind the standard deviation; at least 1."""
    interval: tuple[float, float]
    """95 % confidence interval of the standard deviation, by χ²."""


def pooled_noise(schedules: Iterable[Mapping[int, float]]) -> Noise | None:
    """Estimate the noise that all schedules have in common.

    The model is error = effect of the schedule + effect of the seed + independent normal noise of
    one size. Every schedule has an effect of its own, not one on a curve, so that a curve that fits
    badly does not pass for noise. Two schedules that share two seeds give the first degree of
    freedom.

    Args:
        schedules: For every schedule, its errors by seed. Errors that are not finite are left
            out.

    Returns:
        The noise; None if the errors leave no degree of freedom.
    """
    import numpy as np  # noqa: PLC0415 - 0.1 s, only where needed
    from scipy.special import chdtri  # noqa: PLC0415 - 0.1 s, only where needed

    repeated = [{s: e for s, e in by.items() if math.isfinite(e)} for by in schedules]
    repeated = [by for by in repeated if len(by) > 1]  # one run fits its schedule's effect exactly
    if not repeated:
        return None
    runs = [(row, seed, e) for row, by in enumerate(repeated) for seed, e in by.items()]
    row, seed, error = (np.array(column) for column in zip(*runs, strict=True))
    seeds, column = np.unique(seed, return_inverse=True)
    design = np.zeros((len(runs), len(repeated) + len(seeds)))
    design[np.arange(len(runs)), row] = design[np.arange(len(runs)), len(repeated) + column] = 1.0
    solution, _, rank, _ = np.linalg.lstsq(design, error, rcond=None)
    freedom = len(runs) - int(rank)
    if freedom < 1:
        return None
    residual = float(np.linalg.norm(error - design @ solution))
    sd = math.sqrt(2 / freedom) * residual if residual > ROUNDING * np.abs(error).max() else 0.0
    ends = (float(chdtri(freedom, 0.5 + side * _CONFIDENCE / 2)) for side in (-1, 1))
    low, high = (sd * math.sqrt(freedom / end) for end in ends)
    return Noise(sd, freedom, (low, high))
