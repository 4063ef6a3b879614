"""What is believed of the candidates' errors, and what further runs would be worth.

A run may change which candidate is chosen. What it lowers the error of the chosen one by, on
average over what it may come to, is its worth (the *knowledge gradient*: Frazier, Powell, Dayanik,
INFORMS J. Computing 21 (2009) 599-613). A seed has an effect of its own, so that only the
differences between its runs tell anything: one alone on its seed is worth nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from kdecay_search.search.surrogate import Array
from kdecay_search.study.candidate import Candidate

Run = tuple[Candidate, int]
"""A candidate on a seed."""

SAMPLES = 2048
"""Of what the runs may come to; each counts with both signs."""
_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Posterior:
    """The candidates' errors as the results so far tell them, up to a common level."""

    points: tuple[Candidate, ...]
    means: Array
    """In percentage points: (K,)."""
    covariance: Array
    """Squared points: (K, K)."""
    noise: float
    """Variance of one run's noise, squared points."""
    ran: Mapping[int, frozenset[Candidate]] = field(default_factory=dict)
    """Seeds with results, and whose they are."""

    def lowest(self, points: Iterable[Candidate]) -> Candidate:
        """Of these, the one to choose now."""
        return min(points, key=lambda point: (self.means[self.points.index(point)], point))

    def worth(self, runs: Iterable[Run]) -> float:
        """What these further runs, together, are expected to lower the error of the chosen
        candidate by, in percentage points."""
        by_seed: dict[int, list[int]] = defaultdict(list)
        for point, seed in dict.fromkeys(runs):
            by_seed[seed].append(self.points.index(point))
        blocks = [self._differences(seed, rows) for seed, rows in sorted(by_seed.items())]
        if not any(len(differences) for differences, _ in blocks):
            return 0.0
        shifts = self._shifts(blocks)
        moved = _samples(shifts.shape[1]) @ shifts.T
        lowest = [(self.means + sign * moved).min(axis=1).mean() for sign in (1, -1)]
        return float(self.means.min() - np.mean(lowest))

    def _differences(self, seed: int, rows: list[int]) -> tuple[Array, Array]:
        """What runs of R candidates on a seed tell: differences of errors (R, K), from the mean of
        those that have run on it or else of their own, and the variance of their noise (R, R)."""
        there = self.ran.get(seed, frozenset())
        known = [row for row, point in enumerate(self.points) if point in there]
        count = len(rows)
        if not known and count == 1:
            return np.zeros((0, len(self.points))), np.zeros((0, 0))
        differences = np.zeros((count, len(self.points)))
        differences[range(count), rows] = 1
        if known:
            differences[:, known] -= 1 / len(known)
            return differences, self.noise * (np.eye(count) + 1 / len(known))
        centring = np.eye(count) - 1 / count
        return centring @ differences, self.noise * centring

    def _shifts(self, blocks: list[tuple[Array, Array]]) -> Array:
        """S (K, R): the new means are ``means`` + S z, with z standard normal."""
        differences = np.concatenate([block for block, _ in blocks])
        noise = np.zeros((len(differences),) * 2)
        start = 0
        for _, variance in blocks:
            end = start + len(variance)
            noise[start:end, start:end] = variance
            start = end
        shared = self.covariance @ differences.T
        sizes, vectors = np.linalg.eigh(differences @ shared + noise)
        kept = sizes > _TINY * sizes[-1]
        shifts: Array = shared @ vectors[:, kept] / np.sqrt(sizes[kept])
        return shifts


@lru_cache(maxsize=32)
def _samples(dimensions: int) -> Array:
    """The same ones each time: the same results give the same answer."""
    return np.random.default_rng(0).standard_normal((SAMPLES, dimensions))
