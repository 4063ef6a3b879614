"""Which k is best, judged by a smooth curve through all results instead of by noisy means.

One model serves pruning, the race for further seeds and the choice at a stage's end: the error of
run (k, seed) is

    level + effect of the seed + curve(log k) + the candidate's own deviation + noise

with a Gaussian process (squared exponential) for the curve, since neighbours in log k behave
alike. Seed effects are as good as free, so that only differences between runs of the same seed
tell candidates apart: pairing, also when not every candidate has run on every seed. The size of
the noise is found by maximum likelihood; length and size of the curve are averaged over a grid,
weighted by the evidence for each, because a handful of candidates cannot tell them.

(scikit-learn's regressor has neither the seed effects nor the averaging; tests hold this one
against it where both apply.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Result = tuple[float, int, float]
"""k, seed, error (%)."""

SEED_VARIANCE = 1e3
"""Of the level and the seed effects, in units of the noise's variance: as good as free."""
LENGTHS = (0.35, 0.7, 1.4, 2.8)
"""Of the curve, in log k."""
SIGNALS = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0, 128.0)
"""Standard deviation of the curve over that of the noise."""
DEVIATION = 0.5
"""The same of a candidate's own deviation, at most the curve's."""
LEAST_EVIDENCE = 0.01
DRAWS = 4000
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

    def mean(self, k: float) -> float:
        return self.means[self.ks.index(k)]

    def probability(self, k: float) -> float:
        return self.probabilities[self.ks.index(k)]


def choose(ks: Iterable[float], results: Iterable[Result]) -> Choice:
    """Judge ``ks`` (the first is the one to beat) by the results of complete runs.

    The same results give the same answer: the draws behind the probabilities have a fixed seed.
    """
    return _choose(tuple(ks), tuple(sorted(results)))


@lru_cache(maxsize=256)
def _choose(ks: tuple[float, ...], results: tuple[Result, ...]) -> Choice:
    lengths, signals = np.array(list(product(LENGTHS, SIGNALS))).T
    means, covariances, evidence = fit(
        ks, results, lengths, signals, np.minimum(DEVIATION, signals)
    )
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    drawn = _draw(weights, means, covariances)
    best = np.bincount(drawn.argmin(axis=1), minlength=len(ks)) / len(drawn)
    better = (drawn < drawn[:, :1]).mean(axis=0)
    return Choice(ks, *(tuple(a.tolist()) for a in (weights @ means, best, better)))


def smooth_means(ks: Sequence[float], results: Sequence[Result]) -> dict[float, float]:
    """Smooth errors of ``ks`` with one fixed curve: for pruning, where levels still move."""
    means, _, _ = fit(ks, results, np.array([1.0]), np.array([1.5]), np.array([0.5]))
    return dict(zip(ks, means[0].tolist(), strict=True))


def fit(
    ks: Sequence[float],
    results: Sequence[Result],
    lengths: Array,
    signals: Array,
    deviations: Array,
) -> tuple[Array, Array, Array]:
    """Posterior of the errors at ``ks`` (K), up to a common level, for each of G curves.

    ``lengths``, ``signals`` and ``deviations`` have shape (G,). Returns means (G, K) and
    covariances (G, K, K) in percentage points, and the log evidence (G,).
    """
    curves = [values.reshape(-1, 1, 1) for values in (lengths, signals, deviations)]
    k, seed, error = (np.array(column, float) for column in zip(*results, strict=True))
    at, goal = np.log(k), np.log(np.array(ks))
    error = error - error.mean()
    same_seed = seed[:, None] == seed
    inner = _covariance(at, at, *curves) + SEED_VARIANCE * (1 + same_seed) + np.eye(len(at))
    cross = _covariance(goal, at, *curves)
    inverse = np.linalg.inv(inner)
    weights = cross @ inverse
    freedom = max(1, len(error) - len(np.unique(seed)))
    noise = (np.einsum("i,gij,j->g", error, inverse, error) + _NOISE_FLOOR) / freedom
    evidence = -0.5 * np.linalg.slogdet(inner)[1] - 0.5 * freedom * np.log(noise)
    centre = np.eye(len(goal)) - 1 / len(goal)
    posterior = _covariance(goal, goal, *curves) - weights @ cross.transpose(0, 2, 1)
    return (
        weights @ error @ centre,
        noise[:, None, None] * (centre @ posterior @ centre),
        evidence,
    )


def _covariance(a: Array, b: Array, length: Array, signal: Array, deviation: Array) -> Array:
    """Of errors at log k ``a`` (A) and ``b`` (B), in units of the noise's variance: (G, A, B)."""
    gap = a[:, None] - b
    curve: Array = signal**2 * np.exp(-0.5 * (gap / length) ** 2)
    return curve + deviation**2 * (np.abs(gap) < 1e-9)  # noqa: PLR2004 - the same candidate


def _draw(weights: Array, means: Array, covariances: Array) -> Array:
    """Joint samples (about ``DRAWS``, K) of the errors, from the mixture over curves."""
    random = np.random.default_rng(0)
    used = weights > LEAST_EVIDENCE
    values, vectors = np.linalg.eigh(covariances[used])
    roots = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]
    counts = np.maximum(1, np.round(DRAWS * weights[used] / weights[used].sum())).astype(int)
    samples = [
        mean + random.standard_normal((count, len(mean))) @ root.T
        for mean, root, count in zip(means[used], roots, counts, strict=True)
    ]
    return np.concatenate(samples)
