"""How noisy runs are: what is left of their errors without schedule and seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_ROUNDING = 1e-9
"""Percentage points: what is left of noise-free errors."""


@dataclass(frozen=True)
class Noise:
    """Of the difference between two schedules' errors on the same seed."""

    sd: float
    """Standard deviation, percentage points."""
    freedom: int
    """Degrees of freedom behind it, 1 at least."""
    interval: tuple[float, float]
    """95 % confidence interval of the standard deviation, by χ²."""


def pooled_noise(schedules: Iterable[Mapping[int, float]]) -> Noise | None:
    """The noise common to all schedules, from their errors (%) by seed; None if they cannot tell.

    Model: error = the schedule's level + the seed's effect + independent normal noise of one size.
    Levels are free, not on a curve, so that a curve that fits badly does not pass for noise; two
    schedules that share two seeds give the first degree of freedom.
    """
    import numpy as np  # noqa: PLC0415 - 0.1 s, only where needed

    repeated = [{s: e for s, e in by.items() if math.isfinite(e)} for by in schedules]
    repeated = [by for by in repeated if len(by) > 1]  # one run tells its schedule's level alone
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
    left = float(np.linalg.norm(error - design @ solution))
    sd = math.sqrt(2 / freedom) * left
    return _with_interval(sd if left > _ROUNDING else 0.0, freedom)


def _with_interval(sd: float, freedom: int, level: float = 0.95) -> Noise:
    from scipy.special import chdtri  # noqa: PLC0415 - 0.1 s, only where needed

    ends = (float(chdtri(freedom, 0.5 + side * level / 2)) for side in (-1, 1))
    low, high = (sd * math.sqrt(freedom / end) for end in ends)
    return Noise(sd, freedom, (low, high))
