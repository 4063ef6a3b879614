"""The smooth curve through all results: a Gaussian process, seed effects taken out beforehand.

:mod:`kdecay_search.search.selection` has the model. Free effects are taken out exactly: what any number of
results says is then a matrix and a vector over the K candidates (:class:`Contrasts`), and the work
grows with K alone. A smooth curve has few degrees of freedom (:func:`_waves`), which keeps 1000
candidates possible.

(scikit-learn's regressor has neither the seed effects nor the averaging; tests hold this one
against it where both apply.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kdecay_search.study.candidate import Candidate

Array = NDArray[np.float64]
Result = tuple[Candidate, int, float]
"""CandidateResult, seed, error (%)."""

_TINY = 1e-12
_NOISE_FLOOR = 0.05
"""Squared points, spread over the results: one seed alone is not to be taken for noise-free."""


@dataclass(frozen=True, eq=False)
class Results:
    """Complete runs, one entry each: candidate, seed and error (%)."""

    points: tuple[Candidate, ...]
    """The candidates."""
    place: Array
    """Where each run's candidate is among them."""
    seed: Array
    error: Array

    @staticmethod
    def of(results: Iterable[Result]) -> Results:
        point, seed, error = zip(*sorted(results), strict=True)
        points = tuple(dict.fromkeys(point))
        places = {each: index for index, each in enumerate(points)}
        columns = ([places[each] for each in point], seed, error)
        return Results(points, *(np.array(column, float) for column in columns))

    @staticmethod
    def by_seed(errors: Iterable[tuple[Candidate, Mapping[int, float]]]) -> Results:
        """Of candidates and their errors by seed (ascending)."""
        points, tables = zip(*errors, strict=True)
        blocks = [
            (np.full(len(by), float(i)), np.fromiter(by, float), np.fromiter(by.values(), float))
            for i, by in enumerate(tables)
        ]
        return Results(points, *(np.concatenate(column) for column in zip(*blocks, strict=True)))

    def __len__(self) -> int:
        return len(self.error)

    def rows(self, points: Sequence[Candidate]) -> NDArray[np.intp]:
        """Where each run's candidate is among ``points``, which are different ones."""
        index = {point: number for number, point in enumerate(points)}
        known = np.array([index.get(point, -1) for point in self.points])
        rows: NDArray[np.intp] = known[self.place.astype(np.intp)]
        return rows

    def ran(self) -> dict[int, frozenset[Candidate]]:
        """Whose results there are, by seed."""
        order = np.argsort(self.seed, kind="stable")
        seeds, starts = np.unique(self.seed[order], return_index=True)
        places = np.split(self.place[order].astype(int), starts[1:])
        return {
            int(seed): frozenset(self.points[place] for place in part.tolist())
            for seed, part in zip(seeds, places, strict=True)
        }

    def packed(self) -> bytes:
        """The same for the same results in the same order, but for ``points``."""
        return self.place.tobytes() + self.seed.tobytes() + self.error.tobytes()


def fit(
    points: tuple[Candidate, ...],
    seen: Contrasts,
    lengths: tuple[float, ...],
    signals: Array,
    own: Array,
) -> Fit:
    """The errors at ``points`` (K different ones, the results' among them) by G curves.

    ``lengths``: of all of them, in log k and, where that varies, in log lr_max. ``signals`` and
    ``own`` (G): standard deviations of the curve and of a candidate's own deviation from it, in
    units of the noise's.
    """
    waves = _waves(points, lengths)
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
    def of(points: Sequence[Candidate], results: Results) -> Contrasts:
        error, row = results.error, results.rows(points)
        seeds, column = np.unique(results.seed, return_inverse=True)
        cells = np.bincount(row * len(seeds) + column, minlength=len(points) * len(seeds))
        counts = cells.reshape(len(points), len(seeds)).astype(float)
        sizes = counts.sum(axis=0)
        centred = error - (np.bincount(column, error) / sizes)[column]
        matrix = np.diag(counts.sum(axis=1)) - counts / sizes @ counts.T
        information, basis = np.linalg.eigh(matrix)
        information = np.where(information > _TINY * len(error), information, 0.0)
        sums = basis.T @ np.bincount(row, centred, len(points))
        score = np.divide(sums, np.sqrt(information), out=0 * sums, where=information > 0)
        rest = max(0.0, float(centred @ centred - score @ score))
        return Contrasts(basis, information, score, rest, max(1, len(error) - len(seeds)))


def coordinates(points: Sequence[Candidate]) -> list[Array]:
    """Logarithms of k and, where that varies, of lr_max: each (K,)."""
    columns = [[point.k for point in points]]
    levels = [point.lr_max for point in points if point.lr_max is not None]
    if len(set(levels)) > 1:
        columns.append(levels)
    return [np.log(column) for column in columns]


@lru_cache(maxsize=64)
def _waves(points: tuple[Candidate, ...], lengths: tuple[float, ...]) -> Array:
    """W (K, M) with W Wᵀ the covariance of a curve of unit size at ``points``; M is small where the
    curve is long beside the range of its coordinates."""
    pairs = zip(coordinates(points), lengths, strict=False)
    distance = sum((np.subtract.outer(at, at) / length) ** 2 for at, length in pairs)
    sizes, vectors = np.linalg.eigh(np.exp(-0.5 * distance))
    kept = sizes > _TINY * len(points)
    waves: Array = vectors[:, kept] * np.sqrt(sizes[kept])
    return waves
