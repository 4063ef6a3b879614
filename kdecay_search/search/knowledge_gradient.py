"""What further runs are worth: the knowledge gradient.

A further run may change which candidate is chosen. The *knowledge gradient* of some runs is what
they are expected to lower the error of the chosen candidate by, on average over what they may come
to (Frazier, Powell, Dayanik, INFORMS J. Computing 21 (2009) 599-613). A seed has an effect of its
own, so only differences between its runs tell anything: one run alone on its seed is worth nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.search.results import Array
from kdecay_search.search.surrogate import Surrogate
from kdecay_search.study.candidate import Candidate

Run = tuple[Candidate, int]
"""A candidate on a seed."""

_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Posterior:
    """The candidates' errors as a normal distribution, up to a constant common to all."""

    points: tuple[Candidate, ...]
    """The K candidates."""
    means: Array
    """Means in the metric's unit, (K,)."""
    covariance: Array
    """Covariance in the metric's unit squared, (K, K)."""
    noise: float
    """Variance of the noise of a run, in the metric's unit squared."""
    ran: Mapping[int, frozenset[Candidate]] = field(default_factory=dict)
    """The candidates that have run, by seed."""
    policy: Policy = POLICY
    """Its number of samples is used."""
    untried: frozenset[Candidate] = frozenset()
    """Candidates that cannot be chosen before they have run."""

    @staticmethod
    def of(
        surrogate: Surrogate,
        among: Iterable[Candidate],
        policy: Policy = POLICY,
        untried: Collection[Candidate] = (),
    ) -> Posterior:
        """The normal distribution with the moments of a surrogate, for some of its points.

        Args:
            surrogate: The candidates, by the results so far.
            among: The points.
            policy: Its number of samples is used.
            untried: Points that cannot be chosen before they have run; not all of them.
        """
        points = tuple(among)
        columns = surrogate.columns(points)
        covariance = np.atleast_2d(np.cov(surrogate.draws[:, columns], rowvar=False))
        means, noise = surrogate.means[columns], surrogate.noise
        ran = surrogate.results.ran()
        return Posterior(points, means, covariance, noise, ran, policy, frozenset(untried))

    def lowest(self, points: Iterable[Candidate]) -> Candidate:
        """The candidate with the lowest mean among some of them."""
        return min(points, key=lambda point: (self.means[self.points.index(point)], point))

    def knowledge_gradient(self, runs: Iterable[Run]) -> float:
        """What some further runs, together, are expected to lower the error of the chosen candidate
        by, in the metric's unit. The same runs give the same value: the samples have a fixed seed.
        """
        by_seed: dict[int, list[int]] = defaultdict(list)
        index = {point: row for row, point in enumerate(self.points)}
        for point, seed in dict.fromkeys(runs):
            by_seed[seed].append(index[point])
        begun = {row for rows in by_seed.values() for row in rows}
        able = [
            row
            for row, point in enumerate(self.points)
            if point not in self.untried or row in begun
        ]
        now = self._lowest_now
        blocks = [self._differences(seed, rows) for seed, rows in sorted(by_seed.items())]
        if not any(len(differences) for differences, _ in blocks):
            return 0.0
        shifts = self._shifts(blocks)[able]
        means = self.means[able][:, None]
        count = self.policy.knowledge_gradient_samples
        normal = np.random.default_rng(0).standard_normal((count, shifts.shape[1]))
        moved = shifts @ normal.T
        lowest = [(means + sign * moved).min(axis=0).mean() for sign in (1, -1)]
        return float(now - np.mean(lowest))

    @cached_property
    def _lowest_now(self) -> float:
        """The lowest mean among the candidates that can be chosen."""
        able = [row for row, point in enumerate(self.points) if point not in self.untried]
        return float(self.means[able].min())

    def _differences(self, seed: int, rows: list[int]) -> tuple[Array, Array]:
        """What runs of R candidates on one seed tell: differences of errors (R, K), from the mean
        of those that have run on it or else of their own, and the covariance of their noise (R, R).
        """
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
        """S (K, R) such that the new means are ``means`` + S z, with z standard normal."""
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
