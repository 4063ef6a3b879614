"""Which k is best, judged by a smooth curve through all results instead of by noisy means.

One model serves pruning, the race for further seeds and the choice at a stage's end: the error of
run (k, seed) is

    level + effect of the seed + curve(log k) + the candidate's own deviation + noise

with a Gaussian process (squared exponential) for the curve, since neighbours in log k behave
alike. Seed effects are free (a flat prior), so that only differences between runs of the same
seed tell candidates apart: pairing, also when not every candidate has run on every seed. The size
of the noise is found by restricted maximum likelihood; length and size of the curve are averaged
over a grid, weighted by the evidence for each, because a handful of candidates cannot tell them.

Free effects are taken out beforehand, exactly: what any number of results says is then a matrix
and a vector over the K candidates (:class:`Contrasts`), and the work grows with K alone. A smooth
curve has few degrees of freedom (:func:`_waves`), which keeps 1000 candidates possible.

(scikit-learn's regressor has neither the seed effects nor the averaging; tests hold this one
against it where both apply.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Result = tuple[float, int, float]
"""k, seed, error (%)."""

LENGTHS = (0.35, 0.7, 1.4, 2.8)
"""Of the curve, in log k."""
SIGNALS = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0, 128.0)
"""Standard deviation of the curve over that of the noise."""
DEVIATION = 0.5
"""The same of a candidate's own deviation, at most the curve's."""
SURE = 0.975
"""Probability from which on one candidate is called better than another."""
LEAST_EVIDENCE = 0.01
DRAWS = 4000
_TINY = 1e-12
_NOISE_FLOOR = 0.05
"""Squared points, spread over the results: one seed alone is not to be taken for noise-free."""


@dataclass(frozen=True)
class Choice:
    """The candidates' errors as the results so far tell them, up to a common level."""

    ks: tuple[float, ...]
    means: tuple[float, ...]
    """Smooth error of each k, relative to their mean, in percentage points."""
    probabilities: tuple[float, ...]
    """Of each k to be the best."""
    better: tuple[float, ...]
    """Probability of each k to be better than the first of ``ks``."""
    stakes: tuple[float, ...]
    """What choosing each k, where it is the best, gains on the lowest of ``means``: percentage
    points, times its probability to be the best."""
    intervals: tuple[tuple[float, float], ...]
    """95 % credible interval of each k's gain on the first of ``ks``, percentage points."""

    def mean(self, k: float) -> float:
        return self.means[self.ks.index(k)]

    def probability(self, k: float) -> float:
        return self.probabilities[self.ks.index(k)]

    def stake(self, k: float) -> float:
        return self.stakes[self.ks.index(k)]

    def gain(self, k: float) -> Gain:
        """What ``k`` gains on the first of ``ks``."""
        index = self.ks.index(k)
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


@dataclass(frozen=True, eq=False)
class Results:
    """Complete runs, one entry each: candidate, seed and error (%)."""

    k: Array
    seed: Array
    error: Array

    @staticmethod
    def of(results: Iterable[Result]) -> Results:
        columns = [np.array(column, float) for column in zip(*sorted(results), strict=True)]
        return Results(*columns)

    @staticmethod
    def by_seed(errors: Iterable[tuple[float, Mapping[int, float]]], seeds: int) -> Results:
        """Of pairs of k and its errors by seed (ascending), those on the first ``seeds`` seeds."""
        blocks = [
            (np.full(len(by), k), np.fromiter(by, float), np.fromiter(by.values(), float))
            for k, by in errors
        ]
        k, seed, error = (np.concatenate(column) for column in zip(*blocks, strict=True))
        used = seed < seeds
        return Results(k[used], seed[used], error[used])

    def __len__(self) -> int:
        return len(self.error)

    def packed(self) -> bytes:
        """The same for the same results in the same order."""
        return self.k.tobytes() + self.seed.tobytes() + self.error.tobytes()


def choose(ks: Iterable[float], results: Results | Iterable[Result]) -> Choice:
    """Judge ``ks`` (the first is the one to beat) by the results of complete runs.

    The same results give the same answer: the draws behind the probabilities have a fixed seed.
    """
    given = results if isinstance(results, Results) else Results.of(results)
    return _choose(tuple(ks), given.packed())


@lru_cache(maxsize=256)
def _choose(ks: tuple[float, ...], results: bytes) -> Choice:
    """``results``: of :meth:`Results.packed`."""
    weights, fits = _mixture(ks, Results(*np.frombuffer(results).reshape(3, -1)))
    means = np.einsum("lg,lgk->k", weights, np.array([part.means for part in fits]))
    drawn = _draw(weights, fits)
    winners = drawn.argmin(axis=1)
    lost = drawn[:, np.argmin(means)] - drawn.min(axis=1)
    best, stakes = (np.bincount(winners, of, len(ks)) / len(drawn) for of in (None, lost))
    gains = drawn[:, :1] - drawn
    low, high = np.quantile(gains, (0.025, 0.975), axis=0).tolist()
    return Choice(
        ks,
        means=tuple(means.tolist()),
        probabilities=tuple(best.tolist()),
        better=tuple((gains > 0).mean(axis=0).tolist()),
        stakes=tuple(stakes.tolist()),
        intervals=tuple(zip(low, high, strict=True)),
    )


def _mixture(ks: tuple[float, ...], results: Results) -> tuple[Array, list[Fit]]:
    """The curves of each of ``LENGTHS``, and the weight of each curve (lengths, signals)."""
    seen = Contrasts.of(ks, results)
    signals = np.array(SIGNALS)
    fits = [fit(ks, seen, length, signals, np.minimum(DEVIATION, signals)) for length in LENGTHS]
    evidence = np.array([part.evidence for part in fits])
    weights = np.exp(evidence - evidence.max())
    return weights / weights.sum(), fits


def _draw(weights: Array, fits: Sequence[Fit], smooth: bool = False) -> Array:
    """Joint samples (about ``DRAWS``, K) of the errors, up to a common level, from the mixture of
    the curves that have a weight worth mentioning. ``smooth``: of the curve alone."""
    random = np.random.default_rng(0)
    used = np.argwhere(weights > LEAST_EVIDENCE)
    scale = DRAWS / weights[weights > LEAST_EVIDENCE].sum()
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

    ks: tuple[float, ...]
    errors: tuple[float, ...]
    """Percent, for the average of the seeds that have results."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    """95 % credible interval at each k; it leaves out how much seeds differ among themselves."""


def smooth_curve(ks: Iterable[float], results: Iterable[Result]) -> SmoothCurve:
    """The curve at ``ks``, any at all, by the results of complete runs (one at least)."""
    given = Results.of(results)
    shown = sorted(set(ks))
    every = tuple(sorted({*shown, *given.k.tolist()}))
    weights, fits = _mixture(every, given)
    drawn = _draw(weights, fits, smooth=True)
    drawn += _levels(every, given, drawn)[:, None]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    at = np.searchsorted(every, shown)
    columns = (tuple(column[at].tolist()) for column in (drawn.mean(axis=0), low, high))
    return SmoothCurve(tuple(shown), *columns)


def _levels(ks: tuple[float, ...], results: Results, drawn: Array) -> Array:
    """What to add to each of N curves (N, K) so that its seeds' mean errors come out, each seed
    counting once: (N,)."""
    _, seed = np.unique(results.seed, return_inverse=True)
    left = results.error - drawn[:, np.searchsorted(ks, results.k)]
    share = 1 / np.bincount(seed)[seed]
    levels: Array = left @ share / share.sum()
    return levels


def smooth_means(ks: Sequence[float], results: Sequence[Result]) -> dict[float, float]:
    """Smooth errors of ``ks`` with one fixed curve: for pruning, where levels still move."""
    seen = Contrasts.of(ks, Results.of(results))
    means = fit(tuple(ks), seen, 1.0, np.array([1.5]), np.array([0.5])).means[0]
    return dict(zip(ks, means.tolist(), strict=True))


def fit(ks: tuple[float, ...], seen: Contrasts, length: float, signals: Array, own: Array) -> Fit:
    """The errors at ``ks`` (K different ones, the results' among them) by G curves of one length.

    ``signals`` and ``own`` (G): standard deviations of the curve and of a candidate's own
    deviation from it, in units of the noise's.
    """
    waves = _waves(ks, length)
    root = np.sqrt(seen.information)
    at = root[:, None] * (seen.basis.T @ waves)
    spread = 1 + own[:, None] ** 2 * seen.information
    scaled = signals[:, None, None] * at
    precision = np.eye(waves.shape[1]) + scaled.transpose(0, 2, 1) @ (scaled / spread[..., None])
    pull = np.einsum("grm,gr->gm", scaled, seen.score / spread)
    mean = np.linalg.solve(precision, pull[..., None])[..., 0]
    left = seen.rest + (seen.score**2 / spread).sum(axis=1) - (pull * mean).sum(axis=1)
    noise = (left + _NOISE_FLOOR) / seen.freedom
    evidence = -0.5 * (
        np.linalg.slogdet(precision)[1] + np.log(spread).sum(axis=1) + seen.freedom * np.log(noise)
    )
    return Fit(seen, waves, signals, own, spread, at, precision, mean, noise, evidence)


@dataclass(frozen=True)
class Fit:
    """The posterior of K errors by each of G curves: ``signal`` times :func:`_waves` with unknown
    amplitudes (M), plus ``own`` times deviations, which are independent once amplitudes are given.
    """

    seen: Contrasts
    waves: Array
    signals: Array
    own: Array
    spread: Array
    """1 + own² times the information: variance of each contrast of :class:`Contrasts` (G, K)."""
    at: Array
    """Waves on those contrasts (K, M)."""
    precision: Array
    """Of the amplitudes (G, M, M) …"""
    amplitudes: Array
    """… and their posterior mean (G, M)."""
    noise: Array
    """Variance of the noise, squared points (G,)."""
    evidence: Array
    """Logarithm, up to a constant (G,)."""

    @property
    def means(self) -> Array:
        """In percentage points, about a mean of zero: (G, K)."""
        found = self._errors(self.signals, self.own, self.spread, self.amplitudes)
        centred: Array = found - found.mean(axis=1, keepdims=True)
        return centred

    def draw(self, g: int, count: int, random: np.random.Generator, smooth: bool = False) -> Array:
        """``count`` samples of the errors by curve ``g``, up to a common level: (count, K).
        ``smooth``: of the curve alone, without the candidates' own deviations.

        The noise is drawn, too, so that the errors have Student's t distribution: after one seed a
        handful of results cannot tell how noisy they are.
        """
        freedom = self.seen.freedom
        scale = np.sqrt(self.noise[g] * freedom / random.chisquare(freedom, (count, 1)))
        normal = random.standard_normal((self.waves.shape[1], count))
        # L⁻ᵀ normal has the covariance (L Lᵀ)⁻¹
        root = np.linalg.cholesky(self.precision[g])
        amplitudes = self.amplitudes[g] + scale * np.linalg.solve(root.T, normal).T
        if smooth:
            curves: Array = amplitudes * self.signals[g] @ self.waves.T
            return curves
        jitter = scale * random.standard_normal((count, len(self.waves)))
        jitter /= np.sqrt(self.spread[g])
        return self._errors(self.signals[g], self.own[g], self.spread[g], amplitudes, jitter)

    def _errors(
        self,
        signal: Array,
        own: Array,
        spread: Array,
        amplitudes: Array,
        jitter: Array | float = 0.0,
    ) -> Array:
        """Errors (N, K) by amplitudes (N, M) and the deviations that they leave."""
        seen = self.seen
        size = amplitudes * signal[..., None]
        deviations = np.sqrt(seen.information) * (seen.score - size @ self.at.T) / spread
        own = own[..., None]
        errors: Array = size @ self.waves.T + own * (own * deviations + jitter) @ seen.basis.T
        return errors


@dataclass(frozen=True)
class Contrasts:
    """What results say about K candidates, free effects of the seeds taken out.

    With N (K, S) the number of results by candidate and seed, that is the information matrix
    diag(N 1) − N diag(1ᵀ N)⁻¹ Nᵀ and the sums over candidates of the errors centred by seed. In
    the matrix's eigenvectors they are K independent contrasts between candidates.
    """

    basis: Array
    """Orthonormal columns (K, K)."""
    information: Array
    """Of each contrast (K,), in results; 0 for what the results cannot tell, such as the level."""
    score: Array
    """Each contrast's estimate times the root of its information (K,)."""
    rest: float
    """Sum of squares about the candidates' and seeds' means."""
    freedom: int
    """Results less seeds, 1 at least."""

    @staticmethod
    def of(ks: Sequence[float], results: Results) -> Contrasts:
        seed, error = results.seed, results.error
        order = np.argsort(ks)
        row = order[np.searchsorted(np.array(ks), results.k, sorter=order)]
        seeds, column = np.unique(seed, return_inverse=True)
        cells = np.bincount(row * len(seeds) + column, minlength=len(ks) * len(seeds))
        counts = cells.reshape(len(ks), len(seeds)).astype(float)
        sizes = counts.sum(axis=0)
        centred = error - (np.bincount(column, error) / sizes)[column]
        matrix = np.diag(counts.sum(axis=1)) - counts / sizes @ counts.T
        information, basis = np.linalg.eigh(matrix)
        information = np.where(information > _TINY * len(error), information, 0.0)
        sums = basis.T @ np.bincount(row, centred, len(ks))
        score = np.divide(sums, np.sqrt(information), out=0 * sums, where=information > 0)
        rest = max(0.0, float(centred @ centred - score @ score))
        return Contrasts(basis, information, score, rest, max(1, len(error) - len(seeds)))


@lru_cache(maxsize=64)
def _waves(ks: tuple[float, ...], length: float) -> Array:
    """W (K, M) with W Wᵀ the covariance of a curve of unit size at ``ks``; M is small where the
    curve is long beside the range of log k."""
    gap = np.subtract.outer(np.log(ks), np.log(ks))
    sizes, vectors = np.linalg.eigh(np.exp(-0.5 * (gap / length) ** 2))
    kept = sizes > _TINY * len(ks)
    waves: Array = vectors[:, kept] * np.sqrt(sizes[kept])
    return waves
