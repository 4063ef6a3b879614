"""The regression behind the surrogate: a Gaussian process with seed effects taken out exactly.

The error of run (candidate, seed) is modelled as

    constant + effect of the seed + curve(coordinates) + the candidate's own deviation + noise

The curve has a squared exponential kernel. The candidate's own deviation is the *nugget*. Seed
effects have a flat prior, so only differences between runs of one seed tell candidates apart: runs
are paired by seed, also if not every candidate has run on every seed. The noise is estimated by
restricted maximum likelihood.

Taking the seed effects out leaves a matrix and a vector over the K candidates (:class:`Contrasts`),
however many results there are. A smooth curve has few degrees of freedom (:func:`_features`), which
keeps 1000 candidates possible. scikit-learn's regressor has no seed effects; the tests compare the
two where both apply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdecay_search.search.policy import POLICY
from kdecay_search.search.results import Array, Results
from kdecay_search.study.candidate import Candidate

_TINY = 1e-12


@dataclass(frozen=True)
class Contrasts:
    """What results say about K candidates once the free effects of the seeds are taken out.

    With N (K, S) the number of results by candidate and seed, that is the information matrix
    diag(N 1) − N diag(1ᵀ N)⁻¹ Nᵀ and the sums over candidates of the errors centred by seed. In
    the matrix's eigenvectors they are independent contrasts between candidates. Of some of these
    the results tell nothing, such as of the constant; the others are C in number.
    """

    basis: Array
    """The contrasts, orthonormal columns, (K, C)."""
    information: Array
    """Information about each contrast, in results, (C,)."""
    score: Array
    """Each contrast's estimate times the root of its information, (C,)."""
    rest: float
    """Sum of squares about the candidates' and seeds' means."""
    freedom: int
    """Number of results less the number of seeds, 1 at least."""

    @staticmethod
    def of(points: Sequence[Candidate], results: Results) -> Contrasts:
        """Take the seed effects out of the results.

        Args:
            points: K different candidates, those with results among them.
            results: One result at least.
        """
        error, row = results.error, results.rows(points)
        seeds, column = np.unique(results.seed, return_inverse=True)
        cells = np.bincount(row * len(seeds) + column, minlength=len(points) * len(seeds))
        counts = cells.reshape(len(points), len(seeds)).astype(float)
        sizes = counts.sum(axis=0)
        centred = error - (np.bincount(column, error) / sizes)[column]
        matrix = np.diag(counts.sum(axis=1)) - counts / sizes @ counts.T
        information, basis = np.linalg.eigh(matrix)
        known = information > _TINY * len(error)
        information, basis = information[known], basis[:, known]
        score = basis.T @ np.bincount(row, centred, len(points)) / np.sqrt(information)
        rest = max(0.0, float(centred @ centred - score @ score))
        return Contrasts(basis, information, score, rest, max(1, len(error) - len(seeds)))


@dataclass(frozen=True)
class GaussianProcess:
    """The posterior of K errors for one length scale and each of G sizes of the curve.

    The curve is ``signal`` times :func:`_features` with M unknown weights; the candidates' own
    deviations are independent once the weights are given.
    """

    lengths: tuple[float, ...]
    """Length scale in each coordinate."""
    contrasts: Contrasts
    """What the results say."""
    features: Array
    """Features of the curve at the points, (K, M)."""
    signals: Array
    """Standard deviations of the curve in units of the noise's, (G,)."""
    nuggets: Array
    """Standard deviations of the candidates' own deviations in the same units, (G,)."""
    variances: Array
    """Variance of each contrast, 1 + nugget² · information, (G, C)."""
    contrast_features: Array
    """The features on the contrasts, (C, M)."""
    precision: Array
    """Posterior precision of the weights along each of its principal axes, (G, M)."""
    axes: Array
    """Its principal axes, orthonormal columns, (G, M, M)."""
    along: Array
    """Posterior mean of the weights along them, (G, M)."""
    noise: Array
    """Variance of the noise, (G,)."""
    evidence: Array
    """Logarithm of the evidence up to a constant, (G,)."""

    @staticmethod
    def fit(
        values: Array,
        contrasts: Contrasts,
        lengths: tuple[float, ...],
        signals: Array,
        nuggets: Array,
        noise_floor: float = POLICY.noise_floor,
    ) -> GaussianProcess:
        """Condition one curve of each size on what the results say.

        Args:
            values: Coordinates of K different candidates, (D, K).
            contrasts: What the results say about them.
            lengths: Length scale in each coordinate, D of them.
            signals: Standard deviations of the curve in units of the noise's, (G,).
            nuggets: Standard deviations of the candidates' own deviations, same units, (G,).
            noise_floor: Sum of squares added to the residuals.
        """
        features = _features(values, lengths)
        root = np.sqrt(contrasts.information)
        on_contrasts = root[:, None] * (contrasts.basis.T @ features)
        # The precision of the weights, 1 + signal² · gram, has the gram matrix's eigenvectors.
        # Sizes of the curve differ in that matrix only if their nuggets do.
        distinct, kind = np.unique(nuggets, return_inverse=True)
        of_kind = 1 + distinct[:, None] ** 2 * contrasts.information
        variances = of_kind[kind]
        grams = on_contrasts.T @ (on_contrasts / of_kind[..., None])
        sizes, vectors = (found[kind] for found in np.linalg.eigh(grams))
        precision = 1 + signals[:, None] ** 2 * np.maximum(sizes, 0.0)
        pull = signals[:, None] * (contrasts.score / variances @ on_contrasts)
        pull = np.einsum("gmn,gm->gn", vectors, pull)
        residual = contrasts.rest + (contrasts.score**2 / variances).sum(axis=1)
        residual = residual - (pull**2 / precision).sum(axis=1)
        noise = (residual + noise_floor) / contrasts.freedom
        evidence = -0.5 * (
            np.log(precision).sum(axis=1)
            + np.log(variances).sum(axis=1)
            + contrasts.freedom * np.log(noise)
        )
        return GaussianProcess(
            lengths,
            contrasts,
            features,
            signals,
            nuggets,
            variances,
            on_contrasts,
            precision,
            vectors,
            pull / precision,
            noise,
            evidence,
        )

    @property
    def means(self) -> Array:
        """Posterior means about a mean of zero, (G, K)."""
        weights = np.einsum("gmn,gn->gm", self.axes, self.along)
        found = self._errors(self.signals, self.nuggets, self.variances, weights)
        centred: Array = found - found.mean(axis=1, keepdims=True)
        return centred

    def draw(self, g: int, count: int, random: np.random.Generator, smooth: bool = False) -> Array:
        """Sample the errors, up to a constant common to all points.

        The noise is sampled, too, so the errors have Student's t distribution: after one seed, a
        handful of results cannot tell how noisy they are.

        Random numbers belong to the points, by symmetric roots of the covariances, and not to
        eigenvectors, whose signs and order differ from processor to processor.

        Args:
            g: Which of the G sizes of the curve.
            count: Number of samples.
            random: Generator of the samples.
            smooth: Sample the curve alone, without the candidates' own deviations.

        Returns:
            Errors in the unit of the results, (count, K).
        """
        freedom = self.contrasts.freedom
        scale = np.sqrt(self.noise[g] * freedom / random.chisquare(freedom, (count, 1)))
        directions = self.features / np.linalg.norm(self.features, axis=0)
        normal = random.standard_normal((count, len(directions))) @ directions @ self.axes[g]
        weights = (self.along[g] + scale * normal / np.sqrt(self.precision[g])) @ self.axes[g].T
        if smooth:
            curves: Array = weights * self.signals[g] @ self.features.T
            return curves
        jitter = scale * random.standard_normal((count, len(directions)))
        return self._errors(self.signals[g], self.nuggets[g], self.variances[g], weights, jitter)

    def _errors(
        self,
        signal: Array,
        nugget: Array,
        variance: Array,
        weights: Array,
        jitter: Array | None = None,
    ) -> Array:
        """Errors (N, K) from weights (N, M) and the deviations that they leave, which a jitter
        (N, K) of the noise's size samples."""
        contrasts = self.contrasts
        size, nugget = weights * signal[..., None], nugget[..., None]
        left = contrasts.score - size @ self.contrast_features.T
        deviations = nugget * np.sqrt(contrasts.information) * left / variance
        if jitter is None:
            jitter = np.zeros(())
        else:  # what the results tell of a contrast makes its deviation surer
            deviations += jitter @ contrasts.basis * (1 / np.sqrt(variance) - 1)
        errors: Array = size @ self.features.T + nugget * (deviations @ contrasts.basis.T + jitter)
        return errors


def _features(values: Array, lengths: Sequence[float]) -> Array:
    """W (K, M) with W Wᵀ the covariance of a curve of unit size at K points; M is small if the
    curve is long beside the range of its coordinates.

    Args:
        values: Coordinates of the points, (D, K).
        lengths: Length scale in each, D of them.
    """
    distance = sum(
        (np.subtract.outer(at, at) / length) ** 2
        for at, length in zip(values, lengths, strict=True)
    )
    sizes, vectors = np.linalg.eigh(np.exp(-0.5 * distance))
    kept = sizes > _TINY * values.shape[1]
    features: Array = vectors[:, kept] * np.sqrt(sizes[kept])
    return features
