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
from kdecay_search.search.results import Array, Group, Look, Point
from kdecay_search.search.surrogate import Surrogate
from kdecay_search.study.candidate import Candidate

Run = tuple[Candidate, int]
"""A candidate on a seed."""
Measurement = tuple[Point, Group]
"""A run's end or its look."""

_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Posterior:
    """The candidates' errors as a normal distribution, up to a constant common to all."""

    points: tuple[Point, ...]
    """The K candidates and looks."""
    means: Array
    """Means in the metric's unit, (K,)."""
    covariance: Array
    """Covariance in the metric's unit squared, (K, K)."""
    noise: float
    """Variance of the noise of a run, in the metric's unit squared."""
    ran: Mapping[Group, frozenset[Point]] = field(default_factory=dict)
    """What has been measured, by group."""
    policy: Policy = POLICY
    """Its number of samples is used."""
    untried: frozenset[Point] = frozenset()
    """Points that cannot be chosen before they have run."""
    look_noise: float = 1.0
    """Variance of a look's noise in units of a final error's."""

    @staticmethod
    def of(
        surrogate: Surrogate,
        among: Iterable[Point],
        policy: Policy = POLICY,
        untried: Collection[Point] = (),
        looked: Mapping[Group, frozenset[Point]] | None = None,
        look_noise: float = 1.0,
    ) -> Posterior:
        """The normal distribution with the moments of a surrogate, for some of its points.

        Args:
            surrogate: The candidates, by the results so far.
            among: The points.
            policy: Its number of samples is used.
            untried: Points that cannot be chosen before they have run; not all of them.
            looked: What runs have shown at looks, by group.
            look_noise: Variance of a look's noise in units of a final error's.
        """
        points = tuple(among)
        columns = surrogate.columns(points)
        covariance = np.atleast_2d(np.cov(surrogate.draws[:, columns], rowvar=False))
        means, noise = surrogate.means[columns], surrogate.noise
        ran: dict[Group, frozenset[Point]] = {**surrogate.results.ran(), **(looked or {})}
        return Posterior(
            points, means, covariance, noise, ran, policy, frozenset(untried), look_noise
        )

    def mean(self, point: Point) -> float:
        """The mean of a point."""
        return float(self.means[self.points.index(point)])

    def knowledge_gradient(self, runs: Iterable[Measurement]) -> float:
        """What some further runs, together, are expected to lower the error of the chosen candidate
        by, in the metric's unit. The same runs give the same value: the samples have a fixed seed.
        """
        by_seed: dict[Group, list[int]] = defaultdict(list)
        index = {point: row for row, point in enumerate(self.points)}
        for point, seed in dict.fromkeys(runs):
            by_seed[seed].append(index[point])
        measured = (self.points[row] for rows in by_seed.values() for row in rows)
        begun = {point.point if isinstance(point, Look) else point for point in measured}
        able = [
            row
            for row, point in enumerate(self.points)
            if not isinstance(point, Look) and (point not in self.untried or point in begun)
        ]
        now = self._lowest_now
        order = sorted(by_seed, key=lambda group: (isinstance(group, tuple), group))
        blocks = [self._differences(group, by_seed[group]) for group in order]
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
        able = [
            row
            for row, point in enumerate(self.points)
            if not isinstance(point, Look) and point not in self.untried
        ]
        return float(self.means[able].min())

    def _differences(self, group: Group, rows: list[int]) -> tuple[Array, Array]:
        """What R measurements of one group tell: differences of errors (R, K), from the mean of
        what is known of the group or else of their own, and the covariance of their noise (R, R).
        """
        there = self.ran.get(group, frozenset())
        noise = self.noise * (self.look_noise if isinstance(group, tuple) else 1.0)
        known = [row for row, point in enumerate(self.points) if point in there]
        count = len(rows)
        if not known and count == 1:
            return np.zeros((0, len(self.points))), np.zeros((0, 0))
        differences = np.zeros((count, len(self.points)))
        differences[range(count), rows] = 1
        if known:
            differences[:, known] -= 1 / len(known)
            return differences, noise * (np.eye(count) + 1 / len(known))
        centring = np.eye(count) - 1 / count
        return centring @ differences, noise * centring

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
