"""What is believed of the candidates' errors, and what further runs would be worth.

To run some candidates on one more seed may change which of them is chosen. What that lowers the
error of the chosen one by, on average over what the runs may come to, is their worth (the
*knowledge gradient*: Frazier, Powell, Dayanik, INFORMS J. Computing 21 (2009) 599-613). A seed has
an effect of its own, so that only the differences between its runs tell anything: one candidate
alone is worth nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kdecay_search.point import Point
from kdecay_search.regression import Array

SAMPLES = 2048
"""Of what the runs may come to; each counts with both signs."""
_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Belief:
    """The candidates' errors as the results so far tell them, up to a common level."""

    points: tuple[Point, ...]
    means: Array
    """In percentage points: (K,)."""
    covariance: Array
    """Squared points: (K, K)."""
    noise: float
    """Variance of one run's noise, squared points."""

    def lowest(self, points: Iterable[Point]) -> Point:
        """Of these, the one to choose now."""
        return min(points, key=lambda point: (self.means[self.points.index(point)], point))

    def worth(self, runners: Iterable[Point]) -> float:
        """What one more seed for all of ``runners`` is expected to lower the error of the chosen
        candidate by, in percentage points."""
        rows = [self.points.index(point) for point in dict.fromkeys(runners)]
        if len(rows) < 2:  # noqa: PLR2004
            return 0.0
        shifts = self._shifts(rows)
        moved = _samples(shifts.shape[1]) @ shifts.T
        lowest = [(self.means + sign * moved).min(axis=1).mean() for sign in (1, -1)]
        return float(self.means.min() - np.mean(lowest))

    def _shifts(self, rows: list[int]) -> Array:
        """S (K, R): the new means are ``means`` + S z, with z standard normal."""
        centring = np.eye(len(rows)) - 1 / len(rows)
        seen = centring @ self.covariance[np.ix_(rows, rows)] @ centring + self.noise * centring
        sizes, vectors = np.linalg.eigh(seen)
        kept = sizes > _TINY * sizes[-1]
        shifts: Array = (
            self.covariance[:, rows] @ centring @ vectors[:, kept] / np.sqrt(sizes[kept])
        )
        return shifts


@lru_cache(maxsize=32)
def _samples(dimensions: int) -> Array:
    """The same ones each time: the same results give the same answer."""
    return np.random.default_rng(0).standard_normal((SAMPLES, dimensions))
