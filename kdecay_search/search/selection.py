"""Which candidate is the best, judged by the surrogate and not by noisy means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kdecay_search.search.results import Array
from kdecay_search.search.surrogate import Surrogate
from kdecay_search.study.candidate import Candidate


@dataclass(frozen=True, eq=False)
class Selection:
    """What the results so far say about each candidate, up to a constant common to all."""

    points: tuple[Candidate, ...]
    """The candidates; the first is the reference, which the others are compared with."""
    means: tuple[float, ...]
    """Smooth error of each point relative to the mean of all, in the metric's unit."""
    probabilities: tuple[float, ...]
    """Probability of each point to be the best."""
    drawn: Array
    """Joint samples of the points' errors, (N, K)."""

    @staticmethod
    def of(surrogate: Surrogate, among: Iterable[Candidate] | None = None) -> Selection:
        """Judge all points of a surrogate, or some of them; the first is the reference."""
        points = surrogate.points if among is None else tuple(among)
        columns = surrogate.columns(points)
        means, drawn = surrogate.means[columns], surrogate.draws[:, columns]
        best = np.bincount(drawn.argmin(axis=1), minlength=len(points)) / len(drawn)
        return Selection(points, tuple(means.tolist()), tuple(best.tolist()), drawn)

    def mean(self, point: Candidate) -> float:
        """Smooth error of ``point`` relative to the mean of all, in the metric's unit."""
        return self.means[self.points.index(point)]

    def probability(self, point: Candidate) -> float:
        """Probability of ``point`` to be the best."""
        return self.probabilities[self.points.index(point)]

    def gain(self, point: Candidate) -> Gain:
        """What ``point`` gains on the reference."""
        index = self.points.index(point)
        gains = self.drawn[:, 0] - self.drawn[:, index]
        low, high = np.quantile(gains, (0.025, 0.975)).tolist()
        mean = self.means[0] - self.means[index]
        return Gain(mean, (low, high), float((gains > 0).mean()))


@dataclass(frozen=True)
class Gain:
    """By how much one candidate's error is lower than another's, by the surrogate."""

    mean: float
    """Posterior mean in the metric's unit."""
    interval: tuple[float, float]
    """95 % credible interval in the metric's unit."""
    probability: float
    """Probability that the gain is above zero."""

    def widened(self, factor: float) -> Gain:
        """The same gain with an interval that is wider by a factor."""
        low, high = (self.mean + factor * (end - self.mean) for end in self.interval)
        return Gain(self.mean, (low, high), self.probability)

    @property
    def is_sure(self) -> bool:
        """Whether the interval lies above zero."""
        return self.interval[0] > 0
