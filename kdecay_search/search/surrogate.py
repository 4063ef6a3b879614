"""The surrogate: what all results together say about each candidate.

It is a Gaussian process (:mod:`kdecay_search.search.gaussian_process`) over log k, since neighbours
in log k behave alike. Where candidates differ in lr_max, too, it is a surface over log k and
log lr_max with a length scale of its own in each; whole schedules lie on a surface by their shape
(:mod:`kdecay_search.search.coordinates`). Length scales and the size of the curve are averaged over
a grid, weighted by their evidence, because a handful of candidates cannot tell them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kdecay_search.search.coordinates import combinations, coordinates
from kdecay_search.search.gaussian_process import Contrasts, GaussianProcess
from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.search.results import Array, Look, Point, Result, Results
from kdecay_search.study.candidate import Candidate


@dataclass(frozen=True, eq=False)
class Surrogate:
    """The joint posterior of the errors of K points, up to a constant common to all."""

    points: tuple[Candidate, ...]
    """The points, the candidates with results among them."""
    results: Results
    """The results that the posterior is conditioned on."""
    means: Array
    """Posterior means in the metric's unit, about a mean of zero, (K,)."""
    draws: Array
    """Joint samples of the errors in the metric's unit, (N, K)."""
    noise: float
    """Variance of the noise of a run, in the metric's unit squared."""
    lengths: tuple[tuple[float, ...], ...]
    """The combinations of length scales that were averaged over."""
    looks: tuple[Look, ...] = ()
    """Looks whose means and samples follow those of the points (search/forecast.py)."""

    @staticmethod
    def of(
        points: Iterable[Candidate],
        results: Results,
        policy: Policy = POLICY,
        lengths: Sequence[tuple[float, ...]] = (),
    ) -> Surrogate:
        """Condition the model on the results of complete runs.

        The same results give the same posterior: the samples have a fixed seed.

        Args:
            points: K different candidates, among them all that have results.
            results: One result at least.
            policy: Its surrogate's constants are used.
            lengths: Combinations of length scales that are known to be the most evident; they are
                found anew if they belong to other coordinates.
        """
        every, scale = tuple(points), results.spread
        weights, fits = _mixture(every, results.standardised(), policy, lengths)
        noise = np.einsum("lg,lg->", weights, np.array([part.noise for part in fits]))
        return Surrogate(
            points=every,
            results=results,
            means=scale * np.einsum("lg,lgk->k", weights, np.array([part.means for part in fits])),
            draws=scale * _draw(weights, fits, policy),
            noise=float(noise) * scale**2,
            lengths=tuple(part.lengths for part in fits),
        )

    def columns(self, points: Iterable[Point]) -> list[int]:
        """Columns of some of the points and looks."""
        every: tuple[Point, ...] = (*self.points, *self.looks)
        index = {point: number for number, point in enumerate(every)}
        return [index[point] for point in points]


def _mixture(
    points: tuple[Candidate, ...],
    results: Results,
    policy: Policy,
    known_lengths: Sequence[tuple[float, ...]] = (),
) -> tuple[Array, list[GaussianProcess]]:
    """A model for each length scale, and the weight of each of its signals: (lengths, signals)."""
    columns = coordinates(points, policy)
    values = np.array([column for column, _ in columns])
    every = combinations((scales for _, scales in columns), policy)
    if any(point.is_whole for point in points):
        results = results.compressed(policy.far)
        if known_lengths and len(known_lengths[0]) == len(columns):
            every = list(known_lengths)
        else:
            every = _most_evident(points, values, results, every, policy)
    fits = _fits(points, values, results, every, policy)
    evidence = np.array([part.evidence for part in fits])
    weights = np.exp(evidence - evidence.max())
    return weights / weights.sum(), fits


def _most_evident(
    points: Sequence[Candidate],
    values: Array,
    results: Results,
    every: Sequence[tuple[float, ...]],
    policy: Policy,
) -> list[tuple[float, ...]]:
    """The few most evident of many combinations of length scales, by the candidates that ran."""
    known = np.unique(results.rows(points))
    tried = tuple(points[index] for index in known)
    fits = _fits(tried, values[:, known], results, every, policy)
    best = np.argsort([-fit.evidence.max() for fit in fits], kind="stable")
    return [every[index] for index in best[: policy.lengths_kept]]


def _fits(
    points: Sequence[Candidate],
    values: Array,
    results: Results,
    lengths: Iterable[tuple[float, ...]],
    policy: Policy,
) -> list[GaussianProcess]:
    """A model of K points, at coordinates ``values`` (D, K), for each of several length scales."""
    contrasts = Contrasts.of(points, results)
    signals = np.array(policy.signals)
    is_whole = any(point.is_whole for point in points)
    nuggets = np.minimum(policy.whole_nugget if is_whole else policy.nugget, signals)
    return [
        GaussianProcess.fit(values, contrasts, each, signals, nuggets, policy.noise_floor)
        for each in lengths
    ]


def _draw(
    weights: Array, fits: Sequence[GaussianProcess], policy: Policy, smooth: bool = False
) -> Array:
    """About ``policy.draws`` joint samples (N, K) from the hyperparameters that have some weight.
    With ``smooth``, of the curve alone, without the candidates' own deviations."""
    random = np.random.default_rng(0)
    least = policy.min_draw_weight / weights.size
    used = np.argwhere(weights > least)
    scale = policy.draws / weights[weights > least].sum()
    counts = [max(1, round(scale * weights[i, j])) for i, j in used.tolist()]
    return np.concatenate(
        [
            fits[i].draw(j, count, random, smooth)
            for (i, j), count in zip(used.tolist(), counts, strict=True)
        ]
    )


@dataclass(frozen=True)
class SmoothCurve:
    """The curve through all results, without the candidates' own deviations, to be drawn."""

    points: tuple[Candidate, ...]
    """Where the curve is stated, ascending."""
    errors: tuple[float, ...]
    """The error at each point, for the average of the seeds that have results."""
    low: tuple[float, ...]
    """Lower end of the 95 % credible interval; how much seeds differ is left out of it."""
    high: tuple[float, ...]
    """Upper end of the 95 % credible interval."""

    @property
    def ks(self) -> tuple[float, ...]:
        """The exponents of the points."""
        return tuple(point.k for point in self.points if point.k is not None)


def smooth_curve(
    points: Iterable[Candidate], results: Iterable[Result], policy: Policy = POLICY
) -> SmoothCurve:
    """The curve at any points, by the results of complete runs.

    Args:
        points: Where to state the curve; they need no results.
        results: One result at least.
        policy: Its surrogate's constants are used.
    """
    given = Results.of(results)
    shown = sorted(set(points))
    every = tuple(sorted({*shown, *given.points}))
    weights, fits = _mixture(every, given.standardised(), policy)
    drawn = given.spread * _draw(weights, fits, policy, smooth=True)
    # Each curve is shifted so that its seeds' mean errors come out, each seed counting once.
    _, seed = np.unique(given.seed, return_inverse=True)
    left = given.error - drawn[:, given.rows(every)]
    share = 1 / np.bincount(seed)[seed]
    drawn += (left @ share / share.sum())[:, None]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    at = [every.index(point) for point in shown]
    columns = (tuple(column[at].tolist()) for column in (drawn.mean(axis=0), low, high))
    return SmoothCurve(tuple(shown), *columns)
