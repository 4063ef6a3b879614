"""The surrogate: a Gaussian process through all results, with seed effects taken out exactly.

The error of run (candidate, seed) is modelled as

    constant + effect of the seed + curve(log k) + the candidate's own deviation + noise

The curve has a squared exponential kernel, since neighbours in log k behave alike; where candidates
differ in lr_max, too, it is a surface over log k and log lr_max with a length scale of its own in
each. The candidate's own deviation is the *nugget*. Seed effects have a flat prior, so only
differences between runs of one seed tell candidates apart: runs are paired by seed, also if not
every candidate has run on every seed. The noise is estimated by restricted maximum likelihood.
Length scales and the size of the curve are averaged over a grid, weighted by their evidence,
because a handful of candidates cannot tell them.

Taking the seed effects out leaves a matrix and a vector over the K candidates (:class:`Contrasts`),
however many results there are. A smooth curve has few degrees of freedom (:func:`_features`), which
keeps 1000 candidates possible. scikit-learn's regressor has neither seed effects nor averaging; the
tests compare the two where both apply.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kdecay_search.search.coordinates import combinations, coordinates
from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.search.results import Array, Look, Point, Result, Results
from kdecay_search.study.candidate import Candidate

_TINY = 1e-12


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
        GaussianProcess.fit(points, contrasts, each, signals, nuggets, policy.noise_floor, values)
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
    """Variance of each contrast, 1 + nugget² · information, (G, K)."""
    contrast_features: Array
    """The features on the contrasts, (K, M)."""
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
        points: Sequence[Candidate],
        contrasts: Contrasts,
        lengths: tuple[float, ...],
        signals: Array,
        nuggets: Array,
        noise_floor: float = POLICY.noise_floor,
        values: Array | None = None,
    ) -> GaussianProcess:
        """Condition one curve of each size on what the results say.

        Args:
            points: K different candidates, those with results among them.
            contrasts: What the results say about them.
            lengths: Length scale in each of D coordinates.
            signals: Standard deviations of the curve in units of the noise's, (G,).
            nuggets: Standard deviations of the candidates' own deviations, same units, (G,).
            noise_floor: Sum of squares added to the residuals.
            values: Coordinates of the points, (D, K); by default those in which they differ.
        """
        if values is None:
            values = np.array([column for column, _ in coordinates(points)])
        features = _features(values, lengths[: len(values)])
        root = np.sqrt(contrasts.information)
        on_contrasts = root[:, None] * (contrasts.basis.T @ features)
        variances = 1 + nuggets[:, None] ** 2 * contrasts.information
        # The precision of the weights, 1 + signal² · gram, has the gram matrix's eigenvectors.
        # Sizes of the curve differ in that matrix only if their nuggets do.
        _, kinds = np.unique(nuggets, return_index=True)
        grams = on_contrasts.T @ (on_contrasts / variances[kinds, :, None])
        kind = np.searchsorted(nuggets[kinds], nuggets)
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
            tuple(lengths[: len(values)]),
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
        normal = random.standard_normal((self.features.shape[1], count))
        normal /= np.sqrt(self.precision[g])[:, None]
        weights = (self.along[g] + scale * normal.T) @ self.axes[g].T
        if smooth:
            curves: Array = weights * self.signals[g] @ self.features.T
            return curves
        jitter = scale * random.standard_normal((count, len(self.features)))
        jitter /= np.sqrt(self.variances[g])
        return self._errors(self.signals[g], self.nuggets[g], self.variances[g], weights, jitter)

    def _errors(
        self,
        signal: Array,
        nugget: Array,
        variance: Array,
        weights: Array,
        jitter: Array | float = 0.0,
    ) -> Array:
        """Errors (N, K) from weights (N, M) and the deviations that they leave."""
        contrasts = self.contrasts
        size = weights * signal[..., None]
        deviations = (
            np.sqrt(contrasts.information)
            * (contrasts.score - size @ self.contrast_features.T)
            / variance
        )
        nugget = nugget[..., None]
        errors: Array = (
            size @ self.features.T + nugget * (nugget * deviations + jitter) @ contrasts.basis.T
        )
        return errors


@dataclass(frozen=True)
class Contrasts:
    """What results say about K candidates once the free effects of the seeds are taken out.

    With N (K, S) the number of results by candidate and seed, that is the information matrix
    diag(N 1) − N diag(1ᵀ N)⁻¹ Nᵀ and the sums over candidates of the errors centred by seed. In
    the matrix's eigenvectors they are K independent contrasts between candidates.
    """

    basis: Array
    """Orthonormal columns, (K, K)."""
    information: Array
    """Information about each contrast, in results, (K,); 0 for what the results cannot tell, such
    as the constant."""
    score: Array
    """Each contrast's estimate times the root of its information, (K,)."""
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
        information = np.where(information > _TINY * len(error), information, 0.0)
        sums = basis.T @ np.bincount(row, centred, len(points))
        score = np.divide(sums, np.sqrt(information), out=0 * sums, where=information > 0)
        rest = max(0.0, float(centred @ centred - score @ score))
        return Contrasts(basis, information, score, rest, max(1, len(error) - len(seeds)))


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
