"""Which candidate is best, judged by a smooth curve through all results, not by noisy means.

One model serves pruning, the race for further seeds and the choice at a stage's end: the error of
run (k, seed) is

    constant + effect of the seed + curve(log k) + the candidate's own deviation + noise

with a Gaussian process (squared exponential) for the curve, since neighbours in log k behave
alike. Where candidates differ in the level of the LR, too, the curve is a surface over log k and
log lr_max, with a length of its own in each. Seed effects are free (a flat prior), so that only
differences between runs of the same seed tell candidates apart: pairing, also when not every
candidate has run on every seed. The size of the noise is found by restricted maximum likelihood;
lengths and size of the curve are averaged over a grid, weighted by the evidence for each, because
a handful of candidates cannot tell them.

:mod:`kdecay_search.search.surrogate` has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from kdecay_search.search.knowledge_gradient import Posterior
from kdecay_search.search.surrogate import Array, Contrasts, Fit, Result, Results, coordinates, fit
from kdecay_search.study.candidate import Candidate

LENGTHS = (0.35, 0.7, 1.4, 2.8)
"""Of the curve, in log k …"""
LEVEL_LENGTHS = (0.5, 2.0)
"""… and in log lr_max, where candidates differ in that."""
PRUNING_LENGTHS = (1.0, 1.0)
"""Of the one curve that pruning goes by, in both."""
SIGNALS = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0, 128.0)
"""Standard deviation of the curve over that of the noise."""
DEVIATION = 0.5
"""The same of a candidate's own deviation, at most the curve's."""
SURE = 0.975
"""Probability from which on one candidate is called better than another."""
LEAST_WEIGHT = 0.32
"""Of a curve that is drawn from, in units of the weight that each has where all are alike: of 32
curves, a hundredth."""
DRAWS = 4000


@dataclass(frozen=True)
class Selection:
    """The candidates' errors as the results so far tell them, up to a common level."""

    points: tuple[Candidate, ...]
    means: tuple[float, ...]
    """Smooth error of each point, relative to the candidates' mean, in percentage points."""
    probabilities: tuple[float, ...]
    """Of each point to be the best."""
    better: tuple[float, ...]
    """Probability of each point to be better than the first of ``points``."""
    intervals: tuple[tuple[float, float], ...]
    """95 % credible interval of each point's gain on the first of ``points``, percentage points."""

    def mean(self, point: Candidate) -> float:
        return self.means[self.points.index(point)]

    def probability(self, point: Candidate) -> float:
        return self.probabilities[self.points.index(point)]

    def gain(self, point: Candidate) -> Gain:
        """What ``point`` gains on the first of ``points``."""
        index = self.points.index(point)
        mean = self.means[0] - self.means[index]
        return Gain(mean, self.intervals[index], self.better[index])


@dataclass(frozen=True)
class Gain:
    """By how much one candidate's error is lower than another's, by the smooth curve."""

    mean: float
    """Percentage points."""
    interval: tuple[float, float]
    """95 % credible interval."""
    probability: float
    """That it is above zero."""

    @property
    def is_sure(self) -> bool:
        return self.probability >= SURE


def choose(
    points: Iterable[Candidate],
    results: Results | Iterable[Result],
    among: Iterable[Candidate] | None = None,
) -> Selection:
    """Judge ``points``, or those ``among`` them, by the results of complete runs. The first is the
    one to beat.

    The same results give the same answer: the draws behind the probabilities have a fixed seed.
    """
    given = results if isinstance(results, Results) else Results.of(results)
    every = tuple(points)
    return _choose(every, every if among is None else tuple(among), given.points, given.packed())


@lru_cache(maxsize=256)
def _choose(
    points: tuple[Candidate, ...],
    among: tuple[Candidate, ...],
    tried: tuple[Candidate, ...],
    results: bytes,
) -> Selection:
    """``tried`` and ``results``: of :class:`Results`."""
    means, drawn, _ = _posterior(points, tried, results)
    if among != points:
        index = {point: number for number, point in enumerate(points)}
        columns = [index[point] for point in among]
        means, drawn = means[columns], drawn[:, columns]
    best = np.bincount(drawn.argmin(axis=1), minlength=len(among)) / len(drawn)
    gains = drawn[:, :1] - drawn
    low, high = np.quantile(gains, (0.025, 0.975), axis=0).tolist()
    return Selection(
        among,
        means=tuple(means.tolist()),
        probabilities=tuple(best.tolist()),
        better=tuple((gains > 0).mean(axis=0).tolist()),
        intervals=tuple(zip(low, high, strict=True)),
    )


def posterior_of(
    points: Iterable[Candidate], results: Results, among: Iterable[Candidate]
) -> Posterior:
    """What the results of complete runs say about those points ``among`` the candidates."""
    every, some = tuple(points), tuple(among)
    means, drawn, noise = _posterior(every, results.points, results.packed())
    index = {point: number for number, point in enumerate(every)}
    columns = [index[point] for point in some]
    covariance = np.atleast_2d(np.cov(drawn[:, columns], rowvar=False))
    return Posterior(some, means[columns], covariance, noise, results.ran())


@lru_cache(maxsize=2)
def _posterior(
    points: tuple[Candidate, ...], tried: tuple[Candidate, ...], results: bytes
) -> tuple[Array, Array, float]:
    """Smooth means of ``points`` (K,), joint draws of their errors (N, K) and the variance of a
    run's noise: kept for the choices among some of them that follow one another."""
    columns = np.frombuffer(results).reshape(3, -1)
    weights, fits = _mixture(points, Results(tried, *columns))
    means = np.einsum("lg,lgk->k", weights, np.array([part.means for part in fits]))
    noise = np.einsum("lg,lg->", weights, np.array([part.noise for part in fits]))
    return means, _draw(weights, fits), float(noise)


def _mixture(points: tuple[Candidate, ...], results: Results) -> tuple[Array, list[Fit]]:
    """The curves of each length, and the weight of each curve (lengths, signals)."""
    seen = Contrasts.of(points, results)
    signals = np.array(SIGNALS)
    lengths = list(product(*(LENGTHS, LEVEL_LENGTHS)[: len(coordinates(points))]))
    fits = [fit(points, seen, each, signals, np.minimum(DEVIATION, signals)) for each in lengths]
    evidence = np.array([part.evidence for part in fits])
    weights = np.exp(evidence - evidence.max())
    return weights / weights.sum(), fits


def _draw(weights: Array, fits: Sequence[Fit], smooth: bool = False) -> Array:
    """Joint samples (about ``DRAWS``, K) of the errors, up to a common level, from the mixture of
    the curves that have a weight worth mentioning. ``smooth``: of the curve alone."""
    random = np.random.default_rng(0)
    least = LEAST_WEIGHT / weights.size
    used = np.argwhere(weights > least)
    scale = DRAWS / weights[weights > least].sum()
    counts = [max(1, round(scale * weights[i, j])) for i, j in used.tolist()]
    return np.concatenate(
        [
            fits[i].draw(j, count, random, smooth)
            for (i, j), count in zip(used.tolist(), counts, strict=True)
        ]
    )


@dataclass(frozen=True)
class SmoothCurve:
    """The curve that :func:`choose` looks for the lowest point of, to be drawn: without what single
    candidates deviate from it."""

    points: tuple[Candidate, ...]
    errors: tuple[float, ...]
    """Percent, for the average of the seeds that have results."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    """95 % credible interval; it leaves out how much seeds differ among themselves."""

    @property
    def ks(self) -> tuple[float, ...]:
        return tuple(point.k for point in self.points)


def smooth_curve(points: Iterable[Candidate], results: Iterable[Result]) -> SmoothCurve:
    """The curve at ``points``, any at all, by the results of complete runs (one at least)."""
    given = Results.of(results)
    shown = sorted(set(points))
    every = tuple(sorted({*shown, *given.points}))
    weights, fits = _mixture(every, given)
    drawn = _draw(weights, fits, smooth=True)
    drawn += _levels(every, given, drawn)[:, None]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    at = [every.index(point) for point in shown]
    columns = (tuple(column[at].tolist()) for column in (drawn.mean(axis=0), low, high))
    return SmoothCurve(tuple(shown), *columns)


def _levels(points: tuple[Candidate, ...], results: Results, drawn: Array) -> Array:
    """What to add to each of N curves (N, K) so that its seeds' mean errors come out, each seed
    counting once: (N,)."""
    _, seed = np.unique(results.seed, return_inverse=True)
    left = results.error - drawn[:, results.rows(points)]
    share = 1 / np.bincount(seed)[seed]
    levels: Array = left @ share / share.sum()
    return levels


def smooth_means(points: Sequence[Candidate], results: Sequence[Result]) -> dict[Candidate, float]:
    """Smooth errors of ``points`` with one fixed curve: for pruning, where levels still move."""
    every = tuple(points)
    seen = Contrasts.of(every, Results.of(results))
    means = fit(every, seen, PRUNING_LENGTHS, np.array([1.5]), np.array([0.5])).means[0]
    return dict(zip(every, means.tolist(), strict=True))
